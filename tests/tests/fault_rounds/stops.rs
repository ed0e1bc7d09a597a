//! Components hang (SIGSTOP) or are absent for some time, and connections to libvirt never work.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::QEMU;
use wakevirt_tests::scene::ALL_ALLOWED;

use crate::round::{DOMAINS, Fault, Series};
use crate::seed::{in_rounds, rounds};
use crate::system::{HOLD, Part, System};

/// The longest hang in `make check`.
const BRIEF: Duration = Duration::from_secs(1);
/// The longest hang in `make soak`. libvirt's keepalive ends a connection to a daemon that hangs for more than 20 s.
const LONG: Duration = Duration::from_secs(30);

/// A component that hangs for this time.
fn hang(part: Part, time: Duration, series: &mut Series<'_>) {
    let fault = Fault {
        description: format!("{part:?} hung for {time:?}"),
        forgets: false,
        misses: false,
        interrupts: false,
        begin: &mut |system, _| system.signal(part, Signal::SIGSTOP),
        end: &mut |system, _| {
            sleep(time);
            system.signal(part, Signal::SIGCONT);
        },
    };
    series.run(fault);
}

fn hang_in_rounds(rounds: usize, longest: Duration) {
    let host = Host::new();
    let mut series = Series::new(&host);
    for round in 0..rounds {
        let part = series.random.choose(&Part::ALL);
        // Some rounds are as long as possible.
        let time = if round % 5 == 0 { longest } else { series.random.time_below(longest) };
        hang(part, time, &mut series);
    }
    series.print(&format!("a component hangs for up to {} s", longest.as_secs()));
}

fn hangs(rounds: usize) {
    hang_in_rounds(rounds, BRIEF);
}

#[test]
#[ignore = "make soak"]
fn hangs_of_thirty_seconds() {
    wakevirt_tests::privileged!();
    hang_in_rounds(rounds(50), LONG);
}

/// The actor is down when a packet arrives, and starts before or after `hold` has elapsed. libvirtd may start later.
fn actor_is_down(rounds: usize) {
    let host = Host::new();
    let mut series = Series::new(&host);
    for round in 0..rounds {
        let times = [Duration::from_secs(1), Duration::from_secs(5), HOLD + Duration::from_secs(1)];
        let time = times.into_iter().cycle().nth(round).unwrap_or_default();
        let libvirtd_too = series.random.below(2) == 0;
        let fault = Fault {
            description: format!(
                "the actor was down for {time:?}, libvirtd absent at its start: {libvirtd_too}"
            ),
            forgets: false,
            misses: false,
            interrupts: false,
            begin: &mut |system, _| {
                system.kill(Part::Actor);
                if libvirtd_too {
                    system.kill(Part::Libvirtd);
                }
            },
            end: &mut |system, random| {
                sleep(time);
                system.start(Part::Actor);
                if libvirtd_too {
                    sleep(random.time_below(HOLD));
                    system.start(Part::Libvirtd);
                }
            },
        };
        series.run(fault);
    }
    series.print("the actor is down for 1 s, 5 s, or longer than `hold`, with or without libvirtd");
}

/// Restarts libvirtd while another connection never works.
fn other_connection(rounds: usize, socket: &str, host: &Host) {
    let config = format!(
        "connections = [\"{QEMU}\", \"qemu+unix:///system?socket={socket}\"]\ncool-down = \"0s\"\nhold = \"{}s\"\n\
         {ALL_ALLOWED}",
        HOLD.as_secs()
    );
    let mut series = Series::on(System::configured(host, DOMAINS, config));
    for _ in 0..rounds {
        let fault = Fault {
            description: format!("libvirtd was killed, and {socket} does not answer"),
            forgets: false,
            misses: false,
            interrupts: false,
            begin: &mut |system, _| system.kill(Part::Libvirtd),
            end: &mut |system, _| system.start(Part::Libvirtd),
        };
        series.run(fault);
    }
    series.print(&format!("libvirtd is killed, and a second connection ({socket}) never works"));
}

fn dead_connection(rounds: usize) {
    other_connection(rounds, "/run/nobody-listens", &Host::new());
}

fn silent_connection(rounds: usize) {
    let host = Host::new();
    let path = host.path("/run/silent");
    // The kernel accepts connections, but nobody reads from them.
    let _listener = UnixListener::bind(&path).expect("a socket");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).expect("the mode of the socket");
    other_connection(rounds, "/run/silent", &host);
}

in_rounds! {
    fn brief(2, 100) { hangs }
    fn actor_down(1, 30) { actor_is_down }
    fn dead(1, 10) { dead_connection }
    fn silent(1, 10) { silent_connection }
}
