//! The services run out of file descriptors or memory, a client of the bus does not read, or a service runs twice.

use std::io;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use wakevirt_protocol::bus::{ACTOR_NAME, CAPTURE_NAME};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::{Host, User, succeed};
use wakevirt_tests::process::Process;
use wakevirt_tests::process::proc::Status;
use wakevirt_tests::wait;

use crate::round::{Fault, Series};
use crate::seed::in_rounds;
use crate::system::{Part, RECOVERY, RESTART, System};

/// The longest time for which a resource is exhausted.
const TIME: Duration = Duration::from_secs(1);
const SERVICES: [Part; 2] = [Part::Actor, Part::Announcer];

/// The command that sets a soft limit of a running service: prlimit(1). Runs as the service's user, which needs no
/// capability. An error if the service has exited.
fn limit(system: &System<'_>, part: Part, limit: &str) -> io::Result<Command> {
    let daemon = if part == Part::Actor { &system.actor } else { &system.capture };
    let pid = daemon.as_ref().expect("it was started").pid();
    let status = Status::if_exists(pid)?;
    let id = |field: &str| status.field(field).split(' ').next().expect("an ID").to_owned();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id("Uid"), "--regid", &id("Gid"), "--clear-groups"]);
    command.args(["prlimit", "--pid", &pid.to_string(), limit]);
    Ok(command)
}

/// Sets a soft limit of a service.
fn set_limit(system: &System<'_>, part: Part, value: &str) {
    succeed(&mut limit(system, part, value).expect("it is running"));
}

/// Lifts a soft limit of a service, or starts the service again if it has exited because of the limit.
fn lift_limit(system: &mut System<'_>, part: Part, value: &str) {
    let lift = limit(system, part, value).and_then(|mut command| command.output());
    // It can exit until it answers again.
    let (name, property) =
        if part == Part::Actor { (ACTOR_NAME, "Domains") } else { (CAPTURE_NAME, "Received") };
    let answers = |system: &System<'_>| {
        lift.as_ref().is_ok_and(|lift| lift.status.success())
            && system.host.property(User::Root, name, property).is_ok()
    };
    let is_decided = wait::within(RECOVERY, || (system.has_exited(part) || answers(system)).then_some(()));
    assert!(is_decided.is_some(), "{part:?} neither answers nor exits, {lift:?}:\n{}", system.logs());
    if system.has_exited(part) {
        sleep(RESTART);
        system.start(part);
    }
}

/// A service cannot open descriptors, while the connections to libvirt or the bus are lost.
fn descriptors(rounds: usize) {
    let host = Host::new();
    let mut series = Series::new(&host);
    for _ in 0..rounds {
        let part = series.random.choose(&SERVICES);
        let lost = series.random.choose(&[None, Some(Part::Libvirtd), Some(Part::Bus)]);
        let fault = Fault {
            description: format!("{part:?} had no descriptors, and lost {lost:?}"),
            forgets: false,
            misses: part == Part::Announcer,
            interrupts: false,
            begin: &mut |system, _| {
                set_limit(system, part, "--nofile=3:");
                lost.iter().for_each(|lost| system.kill(*lost));
            },
            end: &mut |system, random| {
                lost.iter().for_each(|lost| system.start(*lost));
                sleep(random.time_below(TIME));
                lift_limit(system, part, "--nofile=1024:");
            },
        };
        series.run(fault);
    }
    series.print("a service has no file descriptors, with or without a lost connection");
}

/// A service cannot allocate memory: `RLIMIT_AS`, because not every machine has the cgroup controller.
fn memory(rounds: usize) {
    let host = Host::new();
    let mut series = Series::new(&host);
    for _ in 0..rounds {
        let part = series.random.choose(&SERVICES);
        let fault = Fault {
            description: format!("{part:?} had no memory"),
            forgets: part == Part::Announcer,
            misses: part == Part::Announcer,
            interrupts: false,
            begin: &mut |system, _| set_limit(system, part, "--as=1048576:"),
            end: &mut |system, random| {
                sleep(random.time_below(TIME));
                lift_limit(system, part, "--as=unlimited:");
            },
        };
        series.run(fault);
    }
    series.print("a service cannot allocate memory");
}

/// Clients of the bus that subscribe to all signals, and do not read them.
fn silent_readers(rounds: usize) {
    const READERS: usize = 20;
    let host = Host::new();
    let mut series = Series::new(&host);
    for _ in 0..rounds {
        let mut readers = Vec::new();
        let fault = Fault {
            description: "clients of the bus did not read".to_owned(),
            forgets: false,
            misses: false,
            interrupts: false,
            begin: &mut |system, _| {
                let start = |_| {
                    let mut command = system.host.command_as(User::Unprivileged, "dbus-monitor");
                    let reader = Process::start("dbus-monitor", command.args(["--system", "type='signal'"]));
                    let _ = reader.log().wait_for("NameAcquired");
                    reader.signal(nix::sys::signal::Signal::SIGSTOP);
                    reader
                };
                readers.extend((0..READERS).map(start));
            },
            end: &mut |_, _| {},
        };
        series.run(fault);
    }
    series.print("20 clients of the bus subscribe to all signals, and do not read them");
}

/// A service is started a second time, while the first one runs. Then the second one is killed.
fn second_instance(rounds: usize) {
    let host = Host::new();
    let mut series = Series::new(&host);
    for _ in 0..rounds {
        let part = series.random.choose(&SERVICES);
        let config = series.system.config.clone();
        let fault = Fault {
            description: format!("a second {part:?}"),
            forgets: false,
            misses: false,
            interrupts: false,
            begin: &mut |system, _| {
                system.second = Some(match part {
                    Part::Actor => Daemon::actor(&host).config(&config).start(),
                    _ => Daemon::capture(&host).config("interfaces = [\"port0\"]").start(),
                });
            },
            end: &mut |system, random| {
                sleep(random.time_below(TIME));
                system.second = None;
            },
        };
        series.run(fault);
    }
    series.print("a service is started a second time, and the second one is killed");
}

in_rounds! {
    fn no_descriptors(1, 100) { descriptors }
    fn no_memory(1, 100) { memory }
    fn no_reader(1, 10) { silent_readers }
    fn two_instances(1, 50) { second_instance }
}
