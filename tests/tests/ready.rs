//! The actor reports that it is ready only after it has received the packets that were announced while it was not
//! running. During an upgrade, the announcer is restarted at that point, and forgets these packets.

use nix::sys::signal::Signal;
use wakevirt_protocol::bus::ACTOR_NAME;
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::{Daemon, StartedBy};
use wakevirt_tests::host::{Host, User};
use wakevirt_tests::{privileged, wait};

#[test]
fn actor_is_ready_after_the_replay() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let capture = Daemon::capture(&host).started_by(StartedBy::Manager).start_ready();
    capture.signal(Signal::SIGSTOP);

    let mut actor = Daemon::actor(&host).config("connections = [\"test:///default\"]").start();
    for line in ["providing org.wakevirt.Actor1", "receiving packets from the announcer"] {
        let _ = actor.log().wait_for(line);
    }
    // The actor already replies to calls, and would otherwise have reported READY=1 by now.
    host.property(User::Root, ACTOR_NAME, "Domains").expect("the actor replies");
    assert_eq!(actor.notifications().count("READY=1"), 0, "READY=1 before the announcer replied");

    capture.signal(Signal::SIGCONT);
    actor.wait_until_ready();

    // The actor stops waiting for an announcer that hangs.
    actor.stop();
    capture.signal(Signal::SIGSTOP);
    let mut actor = Daemon::actor(&host).config("connections = [\"test:///default\"]").start();
    wait::until_true("the actor to be ready", || actor.notifications().count("READY=1") == 1);
    capture.signal(Signal::SIGCONT);
    actor.stop();
}
