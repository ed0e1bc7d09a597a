//! The activity of the services without packets, and how fast they start.

use std::time::{Duration, Instant};

use nix::unistd::Pid;
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::{Daemon, Starter};
use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::{Libvirtd, TEST};
use wakevirt_tests::process::proc::cpu_time;

use crate::domains::{Client, mac};
use crate::process::context_switches;
use crate::report::{Aim, Report, median};

/// How long the processes are watched.
const IDLE: Duration = Duration::from_secs(60);
/// The time after the start during which the processes are not watched.
const SETTLE: Duration = Duration::from_secs(5);
/// The number of starts of each service.
const STARTS: usize = 10;
/// The number of domains.
const DOMAINS: usize = 10;
/// The aim for the time from the start of the process until the service is ready, in ms.
const READY: f64 = 100.0;

/// The aim for the context switches of the actor: three each time libvirtd sends its keepalive
/// messages, every five seconds.
const KEEPALIVE: f64 = 36.0;

/// Measures both services, with one hypervisor.
pub fn measure(report: &mut Report) {
    let host = Host::new();
    let _libvirtd = Libvirtd::start(&host);
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let client = Client::open(&host, TEST);
    for number in 0..DOMAINS {
        client.define(&format!("vm{number}"), &mac(number));
    }
    let config = format!("connections = [\"{TEST}\"]\n");
    report_start(report, "capture", || Daemon::capture(&host));
    report_start(report, "the actor", || Daemon::actor(&host).config(&config));

    let mut capture = Daemon::capture(&host).start_on_bus();
    let mut actor = Daemon::actor(&host).config(&config).start_connected();
    std::thread::sleep(SETTLE);
    let processes = [
        ("the sniffer", capture.child("wakevirt-sniffer"), 0.0),
        ("the announcer", capture.pid(), 0.0),
        ("the actor", actor.pid(), KEEPALIVE),
    ];
    let state = |pid: Pid| (context_switches(pid), cpu_time(pid));
    let before = processes.map(|(_, pid, _)| state(pid));
    std::thread::sleep(IDLE);
    let after = processes.map(|(_, pid, _)| state(pid));
    for (((name, _, aim), before), after) in processes.into_iter().zip(before).zip(after) {
        let switches = (after.0 - before.0) as f64;
        report.aim(&format!("{name}, context switches in 60 s"), "", switches, &[], Aim::AtMost(aim));
        let time = (after.1 - before.1).as_secs_f64() * 1e3;
        report.add(&format!("{name}, CPU time in 60 s"), "ms", time, &[]);
    }
    actor.stop();
    capture.stop();
}

/// Reports the time from the start of a service until it is ready. This includes setpriv(1), which starts the service as
/// its user.
fn report_start<'host>(report: &mut Report, name: &str, service: impl Fn() -> Starter<'host>) {
    let start = |_| {
        let start = Instant::now();
        let mut service = service().start_ready();
        let time = start.elapsed().as_secs_f64() * 1e3;
        service.stop();
        time
    };
    let times: Vec<f64> = (0..STARTS).map(start).collect();
    report.aim(&format!("start of {name}, until it is ready"), "ms", median(&times), &[], Aim::AtMost(READY));
}
