//! Domains on another host, over SSH, as described in docs/HYPERVISORS.md.

use nix::sys::signal::{Signal, kill};
use wakevirt_protocol::bus::ACTOR_NAME;
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::{Host, User};
use wakevirt_tests::libvirt::QEMU;
use wakevirt_tests::libvirt::machine::Machine;
use wakevirt_tests::libvirt::ssh::{NAME, SshHost, USER};
use wakevirt_tests::privileged;

const VM: &str = "vm1";

/// Checks that the domain is running on the other host, and how many times it was started.
fn assert_running(remote: &SshHost<'_>, starts: usize) {
    let libvirtd = &remote.libvirtd;
    assert_eq!((libvirtd.state(QEMU, VM).as_str(), libvirtd.starts(VM)), ("running", starts));
}

#[test]
fn wakes_a_domain_on_another_host() {
    privileged!();
    let (host, other) = (Host::new(), Host::new());
    let mut remote = SshHost::start(&other, &host);
    Machine::new(VM).define(&remote.libvirtd);
    let mac = remote.libvirtd.mac(VM);
    host.sh("install -d -m 700 -o wakevirt-actor -g wakevirt-actor /etc/wakevirt/ssh
         setpriv --reuid wakevirt-actor --regid wakevirt-actor --clear-groups \
             ssh-keygen -q -t ed25519 -N '' -f /etc/wakevirt/ssh/key");
    remote.authorize(&host.read("/etc/wakevirt/ssh/key.pub"));

    let lan = host.veth("lan0");
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let mut capture = Daemon::capture(&host).start_on_bus();
    let uri = format!("qemu+ssh://{USER}@{NAME}/system?keyfile=/etc/wakevirt/ssh/key&no_tty=1");
    let config = format!("connections = [\"{uri}\"]\ncool-down = \"0s\"\n[[allow]]\ndomain = \"{VM}\"\n");
    let mut actor = Daemon::actor(&host).config(&config).start_on_bus();
    let finished = host.monitor(User::Unprivileged, ACTOR_NAME);

    // The actor does not connect before the host key of the other host is accepted.
    let failure = actor.log().wait_for(&format!("no connection to {uri}"));
    assert!(failure.contains("Host key verification failed"), "{failure}");
    host.sh(&format!("ssh-keyscan {NAME} >>/etc/ssh/ssh_known_hosts 2>/dev/null"));
    let _ = actor.log().wait_for(&format!("connected to {uri}: 1 domain"));
    lan.etherwake(&mac, &["-b"]);
    let started = finished.log().wait_for(&format!("'{VM}', 'started'"));
    assert!(started.contains(&uri), "{started}");
    assert_running(&remote, 1);

    // The SSH client on this host is killed.
    remote.libvirtd.virsh(QEMU, &["destroy", VM]);
    kill(actor.child("ssh"), Signal::SIGKILL).unwrap();
    let _ = actor.log().wait_for(&format!("connection to {uri} lost"));
    let _ = actor.log().wait_for_nth(&format!("connected to {uri}"), 2);
    lan.etherwake(&mac, &["-b", "-p", "0.0.0.1"]);
    let _ = finished.log().wait_for_nth(&format!("'{VM}', 'started'"), 2);
    assert_running(&remote, 2);

    // The SSH server on the other host is killed, and the wake is held until the server is running again.
    remote.libvirtd.virsh(QEMU, &["destroy", VM]);
    remote.kill();
    let _ = actor.log().wait_for_nth(&format!("connection to {uri} lost"), 2);
    lan.etherwake(&mac, &["-b", "-p", "0.0.0.2"]);
    let _ = actor.log().wait_for(&format!("wake of \"{VM}\" is held: {uri} is unavailable"));
    remote.start_again();
    let _ = finished.log().wait_for_nth(&format!("'{VM}', 'started'"), 3);
    assert_running(&remote, 3);
    actor.stop();
    capture.stop();
}
