//! `wakevirtctl metrics`.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::host::{Host, PROGRAMS, User};
use wakevirt_tests::process::Process;
use wakevirt_tests::project::json::{assert_documented, documented};
use wakevirt_tests::prometheus::{http_get, promtool};
use wakevirt_tests::{privileged, wait};

use crate::site::{Printed, Site, run};

/// The time in which Prometheus needs a reply.
const SCRAPE: Duration = Duration::from_secs(10);
const SOCKET: &str = "127.0.0.1:10842";

/// A policy that hides the properties of the actor from this user.
const HIDDEN: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <policy user="wakevirt-test-unprivileged">
    <deny send_destination="org.wakevirt.Actor1"/>
  </policy>
</busconfig>
"#;

/// Prints the metrics as a user without permissions.
fn metrics(host: &Host) -> Printed {
    let start = Instant::now();
    let printed = run(host, User::Unprivileged, &["metrics"]);
    assert!(start.elapsed() < SCRAPE, "{:?}: {printed:?}", start.elapsed());
    assert_eq!(printed.status, 0, "{printed:?}");
    printed
}

fn assert_up(text: &str, capture: u8, actor: u8) {
    for (service, up) in [("capture", capture), ("actor", actor)] {
        assert!(text.contains(&format!("wakevirt_up{{service=\"{service}\"}} {up}\n")), "{text}");
        let has_version = text.contains(&format!("wakevirt_build_info{{service=\"{service}\",version="));
        assert_eq!(has_version, up == 1, "{text}");
    }
}

#[test]
fn prints_the_counters_of_both_services() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host);
    host.call(User::Root, "org.wakevirt.Actor1", "WakeDomain", &["'vm1'"]).unwrap();
    let printed = metrics(&host);
    assert_eq!(printed.err, "");
    assert_up(&printed.out, 1, 1);
    for line in [
        "wakevirt_capture_mode{mode=\"raw\"} 1",
        "wakevirt_domains 3",
        "wakevirt_connections{state=\"connected\"} 1",
        "wakevirt_decisions_total{outcome=\"started\"} 1",
        "wakevirt_decisions_total{outcome=\"failed\"} 0",
        // A call has no time of arrival.
        "wakevirt_wake_duration_seconds_count 0",
    ] {
        assert!(printed.out.contains(&format!("\n{line}\n")), "{line} is missing:\n{}", printed.out);
    }
    assert_eq!(promtool(&["check", "metrics"], &printed.out), "");
    let openmetrics = site.ctl(&["metrics", "--format", "openmetrics"]);
    assert!(openmetrics.contains("# TYPE wakevirt_decisions counter\n") && openmetrics.ends_with("# EOF\n"));

    let json = site.json(&["metrics"]);
    let families = json.as_array().unwrap();
    assert_eq!(families.len(), printed.out.matches("# TYPE ").count());
    families.iter().for_each(|family| assert_documented(family, &documented("metrics"), &["samples"]));

    site.ctl(&["metrics", "--output", "/run/wakevirt.prom"]);
    // The time of the last synchronisation is the current time.
    let constant = |text: &str| -> Vec<_> {
        let changes = |line: &&str| line.starts_with("wakevirt_last_sync_seconds{");
        text.lines().filter(|line| !changes(line)).map(str::to_owned).collect()
    };
    let written = constant(&host.read("/run/wakevirt.prom"));
    assert_eq!(written, constant(&metrics(&host).out));
    let printed = run(&host, User::Unprivileged, &["metrics", "--output", "/run/missing/wakevirt.prom"]);
    assert_eq!(printed.status, 1, "{printed:?}");
    assert!(printed.err.contains("cannot write \"/run/missing/wakevirt.prom\": No such file"), "{printed:?}");
    for options in [["--json", "metrics", "--http"].as_slice(), &["metrics", "--http", "--output", "x"]] {
        assert_eq!(run(&host, User::Unprivileged, options).status, 2, "{options:?}");
    }
    let printed = run(&host, User::Unprivileged, &["metrics", "--http"]);
    assert!(printed.status == 1 && printed.err.contains("start wakevirt-metrics.socket"), "{printed:?}");
}

#[test]
fn listens_without_a_service_manager() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host);
    let mut command = host.command_as(User::Unprivileged, &format!("{PROGRAMS}/wakevirtctl"));
    command.args(["metrics", "--listen", SOCKET]);
    let mut server = Process::start("wakevirtctl", &mut command);
    let listens = || host.sh(&format!("ss -Hltn 'src = {SOCKET}'")).contains("LISTEN");
    wait::until_true("the socket", listens);
    let (head, body) = http_get(&host, SOCKET, "/metrics", "Accept: */*");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_up(&body, 1, 1);
    assert!(body.contains("\nwakevirt_configuration_valid 1\n"), "{body}");

    let second = run(&host, User::Unprivileged, &["metrics", "--listen", SOCKET]);
    assert!(second.status == 1 && second.err.contains("a free port"), "{second:?}");
    server.signal(Signal::SIGTERM);
    assert!(server.wait_for_exit().success());
    drop(site);
}

#[test]
fn exports_the_rest_if_a_service_does_not_reply() {
    privileged!();
    let host = Host::new();
    let printed = metrics(&host);
    assert_up(&printed.out, 0, 0);
    assert_eq!(printed.err.matches("cannot connect to the system bus").count(), 1, "{printed:?}");

    let mut site = Site::new(&host);
    site.actor.as_ref().unwrap().signal(Signal::SIGSTOP);
    let printed = metrics(&host);
    assert_up(&printed.out, 1, 0);
    assert!(printed.out.contains("\nwakevirt_capture_interfaces 1\n"), "{printed:?}");
    assert!(printed.err.contains("wakevirt-actor did not reply to GetAll within 3s"), "{printed:?}");
    site.actor.as_ref().unwrap().signal(Signal::SIGCONT);
    assert_up(&metrics(&host).out, 1, 1);

    host.write("/run/bus/policies/hidden.conf", HIDDEN);
    host.call(User::Root, "org.freedesktop.DBus", "ReloadConfig", &[]).unwrap();
    let printed = metrics(&host);
    assert_up(&printed.out, 1, 0);
    assert!(printed.err.contains("GetAll on wakevirt-actor"), "{printed:?}");

    site.capture = None;
    let printed = run(&host, User::Root, &["metrics"]);
    assert_up(&printed.out, 0, 1);
    assert!(printed.err.contains("wakevirt-capture is not running"), "{printed:?}");
    assert!(!printed.out.contains("wakevirt_capture_"), "{printed:?}");
}

#[test]
fn answers_requests_across_restarts_of_the_bus() {
    privileged!();
    let host = Host::new();
    let mut command = host.command_as(User::Unprivileged, "systemd-socket-activate");
    command.args([&format!("--listen={SOCKET}"), &format!("{PROGRAMS}/wakevirtctl"), "metrics", "--http"]);
    let mut server = Process::start("wakevirtctl", &mut command);
    let _ = server.log().wait_for("Listening on");
    let get = || {
        let start = Instant::now();
        let (head, body) = http_get(&host, SOCKET, "/metrics", "Accept: */*");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(start.elapsed() < SCRAPE, "{:?}", start.elapsed());
        body
    };
    assert_up(&get(), 0, 0);
    let site = Site::new(&host);
    let is_up =
        |text: &str, service: &str| text.contains(&format!("wakevirt_up{{service=\"{service}\"}} 1\n"));
    let wait_for_up = || {
        wait::until_true("a reading of both services", || {
            let text = get();
            is_up(&text, "capture") && is_up(&text, "actor")
        });
    };
    wait_for_up();
    site.actor.as_ref().unwrap().signal(Signal::SIGSTOP);
    wait::until_true("a reading without the actor", || !is_up(&get(), "actor"));
    assert_up(&get(), 1, 0);
    site.actor.as_ref().unwrap().signal(Signal::SIGCONT);
    wait_for_up();
    drop(site);
    wait::until_true("a reading without a bus", || !is_up(&get(), "capture"));
    assert_up(&get(), 0, 0);
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    assert_up(&get(), 0, 0);
    assert!(server.exit_status().is_none(), "{:?}", server.log().all());
}
