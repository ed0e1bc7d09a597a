//! The units for the metrics on a booted Debian system, with a real Prometheus and a real node_exporter.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::Debian;
use wakevirt_tests::host::{Host, succeed};
use wakevirt_tests::libvirt::qemu_domain;
use wakevirt_tests::network::Peer;
use wakevirt_tests::process::proc;
use wakevirt_tests::prometheus::{Prometheus, dashboard_queries, http_get, program, promtool};
use wakevirt_tests::{privileged, wait};

const MAC: &str = "52:54:00:12:34:56";
const SOCKET: &str = "127.0.0.1:10842";
const NODE: &str = "127.0.0.1:9100";
const OPENMETRICS: &str = "Accept: application/openmetrics-text; version=1.0.0";

/// Opens more connections than the server keeps open, sends nothing, and opens others before the server closes these.
const FLOOD: &str = "import collections, socket, time
connect = lambda: socket.create_connection(('127.0.0.1', 10842))
connections = collections.deque((connect() for _ in range(600)), 600)
print('open', flush=True)
while True:
    connections.append(connect())
    time.sleep(0.005)";

/// Boots a Debian system with both services, an allowed domain and node_exporter, and connects another machine to it.
fn start(host: &Host) -> (Debian<'_>, Peer<'_>) {
    let mut debian = Debian::new(host, Kind::DbusDaemon);
    debian.install();
    host.bridge("br0");
    let lan = host.veth("port0");
    host.sh("ip link set port0 master br0");
    debian.copy(&program("prometheus-node-exporter"), "/usr/bin/prometheus-node-exporter");
    debian.write("/root/win11.xml", &qemu_domain("win11", MAC, "br0"));
    debian.write("/etc/wakevirt/actor.toml", "[[allow]]\ndomain = \"win11\"\n");
    debian.boot();
    debian.sh("virsh --quiet --connect qemu:///system define /root/win11.xml");
    debian.sh("systemctl enable --now wakevirt-capture wakevirt-actor");
    (debian, lan)
}

/// Enables the units with the commands in docs/METRICS.md.
fn enable_units(debian: &Debian<'_>) {
    let states = "systemctl is-enabled wakevirt-metrics.socket wakevirt-metrics-textfile.timer || true";
    assert_eq!(debian.sh(states), "disabled\ndisabled\n");
    debian.sh(
        "mkdir --parents /var/lib/prometheus/node-exporter
         systemctl enable --now wakevirt-metrics.socket
         systemctl enable --now wakevirt-metrics-textfile.timer
         ln -s /run/wakevirt-metrics/wakevirt.prom /var/lib/prometheus/node-exporter/
         systemd-run --quiet --unit=node-exporter --uid=nobody prometheus-node-exporter --collector.disable-defaults \
             --collector.textfile --collector.textfile.directory=/var/lib/prometheus/node-exporter \
             --web.listen-address=127.0.0.1:9100",
    );
}

#[test]
fn prometheus_scrapes_the_socket_and_node_exporter() {
    privileged!();
    let host = Host::new();
    let (debian, lan) = start(&host);
    enable_units(&debian);
    let prometheus = Prometheus::start(&host, &[("wakevirt", SOCKET), ("node", NODE)]);

    prometheus.wait_for("up{job=\"wakevirt\"} == 1");
    prometheus.wait_for("wakevirt_connection_up{job=\"wakevirt\",uri=\"qemu:///system\"} == 1");
    lan.etherwake(MAC, &[]);
    prometheus.wait_for("wakevirt_wake_duration_seconds_count{job=\"wakevirt\"} == 1");
    // The timer starts the unit only every 30 s.
    debian.sh("systemctl start wakevirt-metrics-textfile");
    let started = "count(wakevirt_decisions_total{outcome=\"started\"} == 1) == 2";
    assert_eq!(prometheus.wait_for(started).len(), 1, "at least one job lacks the metrics");

    assert_formats(&host);
    assert_queries_have_results(&prometheus);
    assert_rules_are_evaluated(&prometheus);
    assert_processes_are_confined(&debian);
    assert_scraped_without_a_service(&debian, &prometheus);
    assert_scraped_during_a_flood(&debian, &prometheus);
}

fn assert_formats(host: &Host) {
    let (head, classic) = http_get(host, SOCKET, "/metrics", "Accept: text/plain");
    assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
    // promtool also prints warnings about names and missing help texts, and then fails.
    assert_eq!(promtool(&["check", "metrics"], &classic), "", "{classic}");
    let (head, openmetrics) = http_get(host, "[::1]:10842", "/metrics", OPENMETRICS);
    assert!(head.contains("\r\nContent-Type: application/openmetrics-text; version=1.0.0;"), "{head}");
    assert!(openmetrics.ends_with("\n# EOF\n"), "{openmetrics}");
}

/// Checks that each query of the dashboard has a result from the metrics of the socket, and from those of
/// node_exporter.
fn assert_queries_have_results(prometheus: &Prometheus<'_>) {
    let queries = dashboard_queries();
    assert!(queries.len() >= 15, "{queries:?}");
    for (panel, query) in &queries {
        for job in ["wakevirt", "node"] {
            let query = query.replace("instance=~", &format!("job=\"{job}\",instance=~"));
            assert!(query.contains(job), "{panel}: {query} does not select the hosts");
            assert!(!prometheus.wait_for(&query).is_empty(), "{panel}: {query} has no result");
        }
    }
}

fn assert_rules_are_evaluated(prometheus: &Prometheus<'_>) {
    // On a busy machine, a scrape can exceed its timeout. Then an alert is pending until the next one.
    let look = || prometheus.api("rules")["groups"][0]["rules"].take();
    let (rules, are_inactive) = wait::observe(wait::TIMEOUT, look, |rules: &Value| {
        let rules = rules.as_array().expect("the rules are loaded");
        rules.iter().all(|rule| rule["health"] == "ok" && rule["state"] == "inactive")
    });
    assert!(are_inactive, "{rules:#}");
}

fn assert_processes_are_confined(debian: &Debian<'_>) {
    let pid = debian.main_process("wakevirt-metrics");
    let status = proc::Status::of(pid);
    for (field, value) in
        [("CapEff", "0000000000000000"), ("CapBnd", "0000000000000000"), ("NoNewPrivs", "1")]
    {
        assert_eq!(status.field(field), value, "{field}");
    }
    assert_eq!(status.field("Seccomp"), "2");
    let user = debian.sh("id --user wakevirt-metrics");
    assert_eq!(status.field("Uid").split(' ').next(), Some(user.trim()));
    let root = format!("/proc/{pid}/root");
    let sockets = succeed(Command::new("find").args([&root, "-xdev", "-type", "s", "-printf", "%P\n"]));
    let bus =
        succeed(Command::new("find").args([&format!("{root}/run/dbus"), "-type", "s", "-printf", "%f\n"]));
    assert_eq!(
        (sockets.as_str(), bus.as_str()),
        ("", "system_bus_socket\n"),
        "the process can reach sockets other than that of the bus"
    );
    assert!(!Path::new(&root).join("etc/passwd").exists(), "the process can read /etc");
    let network = |pid| std::fs::read_link(format!("/proc/{pid}/ns/net")).expect("the process exists");
    assert_ne!(network(pid), network(debian.init()));
    // The file belongs to the same user, and everyone can read it.
    let file = debian.sh("stat --format='%U %a' /run/wakevirt-metrics/wakevirt.prom");
    assert_eq!(file, "wakevirt-metrics 644\n");
    assert_eq!(debian.sh("ls -A /run/wakevirt-metrics"), "wakevirt.prom\n");
    let log = debian.journal("wakevirt-metrics-textfile.service");
    assert_eq!(log, "", "the unit of the timer logged a message");
}

/// Checks that the metrics report a stopped service, and that the other metrics remain available.
fn assert_scraped_without_a_service(debian: &Debian<'_>, prometheus: &Prometheus<'_>) {
    let up = |service: &str, up| format!("wakevirt_up{{job=\"wakevirt\",service=\"{service}\"}} == {up}");
    debian.sh("systemctl stop wakevirt-capture; systemctl start wakevirt-metrics-textfile");
    prometheus.wait_for(&up("capture", 0));
    prometheus.wait_for("ALERTS{alertname=\"WakevirtServiceDown\",job=\"node\"}");
    prometheus.wait_for(&up("actor", 1));
    let log = debian.journal("wakevirt-metrics-textfile.service");
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains("wakevirt-capture is not running"), "{log}");
    debian.sh("systemctl start wakevirt-capture");
    prometheus.wait_for(&up("capture", 1));
}

/// Checks that Prometheus can scrape while another user opens more connections than the server keeps open.
fn assert_scraped_during_a_flood(debian: &Debian<'_>, prometheus: &Prometheus<'_>) {
    let process = debian.main_process("wakevirt-metrics");
    debian.sh(&format!("systemd-run --quiet --unit=flood --uid=nobody python3 -c \"{FLOOD}\""));
    wait::until_true("open connections", || debian.journal("flood").lines().any(|line| line == "open"));
    // The server can abort a scrape while hundreds of connections are opened at once, but not while they are open. On a
    // busy machine, a scrape can exceed its timeout.
    let opened = debian.sh("date +%s.%N");
    let up = "up{job=\"wakevirt\"}";
    prometheus.wait_for(&format!("min_over_time({up}[3s]) == 1 and timestamp({up}) > {} + 3", opened.trim()));
    debian.sh("systemctl is-active --quiet flood && systemctl stop flood");
    assert_eq!(debian.main_process("wakevirt-metrics"), process, "the process was restarted");
}
