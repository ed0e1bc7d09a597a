//! The package on a booted Debian system: installed, enabled, upgraded, removed and purged.
#![expect(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;
use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::inventory::Inventory;
use wakevirt_tests::debian::package;
use wakevirt_tests::debian::{Debian, ROOT};
use wakevirt_tests::host::{Host, succeed};
use wakevirt_tests::libvirt::{TEST, test_domain};
use wakevirt_tests::network::Peer;
use wakevirt_tests::process::Process;
use wakevirt_tests::{privileged, wait};

/// The paths of the packages on the Debian system.
const PACKAGE: &str = "/root/wakevirt.deb";
const NEXT: &str = "/root/wakevirt-next.deb";

const SYSTEM_UNITS: [&str; 3] =
    ["wakevirt-capture.socket", "wakevirt-capture.service", "wakevirt-actor.service"];

const METRICS_UNITS: [&str; 3] =
    ["wakevirt-metrics.socket", "wakevirt-metrics-textfile.timer", "wakevirt-metrics.service"];

/// Builds the same package with a higher version, and returns its path.
fn next_version(scratch: &TempDir) -> PathBuf {
    let (root, next) = (scratch.path().join("root"), scratch.path().join("next.deb"));
    succeed(Command::new("dpkg-deb").arg("--raw-extract").arg(package::built()).arg(&root));
    let control = root.join("DEBIAN/control");
    let text = std::fs::read_to_string(&control).expect("the package has a control file");
    let version =
        text.lines().find(|line| line.starts_with("Version: ")).expect("the control file has a version");
    std::fs::write(&control, text.replace(version, &format!("{version}+next")))
        .expect("the file can be written");
    succeed(Command::new("dpkg-deb").args(["--root-owner-group", "-Znone", "--build"]).arg(&root).arg(&next));
    next
}

/// Runs a systemctl(1) subcommand, such as `is-active`, and returns its line for each unit.
fn systemctl(debian: &Debian<'_>, subcommand: &str, units: &[&str]) -> Vec<String> {
    let output = debian.command("systemctl").arg(subcommand).args(units).output().expect("systemctl runs");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Enables and starts the services.
fn enable_services(debian: &Debian<'_>) {
    let output =
        debian.command("systemctl").args(["enable", "--now", "wakevirt-capture", "wakevirt-actor"]).output();
    let enabled = output.expect("systemctl runs").status.success();
    assert!(enabled, "{}\n{}", debian.journal("wakevirt-capture"), debian.journal("wakevirt-actor"));
}

/// Enables both ways of exporting metrics, and uses both.
fn start_metrics(debian: &Debian<'_>) {
    debian.sh("systemctl enable --now wakevirt-metrics.socket wakevirt-metrics-textfile.timer
         exec 3<>/dev/tcp/127.0.0.1/10842; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3
         grep --quiet 'service=\"actor\"} 1' <&3
         systemctl start wakevirt-metrics-textfile.service
         grep --quiet 'service=\"actor\"} 1' /run/wakevirt-metrics/wakevirt.prom");
    assert_eq!(systemctl(debian, "is-active", &METRICS_UNITS), ["active"; 3]);
}

fn installs_runs_and_purges_cleanly(bus: Kind) {
    let host = Host::new();
    let mut debian = Debian::new(&host, bus);
    debian.copy(&package::built(), PACKAGE);
    debian.boot();
    let before = Inventory::of_system(|line| debian.sh(line));

    debian.sh(&format!("apt-get install --yes {PACKAGE}"));
    assert_eq!(systemctl(&debian, "is-enabled", &SYSTEM_UNITS), ["disabled"; 3]);
    assert_eq!(systemctl(&debian, "is-active", &SYSTEM_UNITS), ["inactive"; 3]);
    assert_eq!(debian.sh("systemctl --global is-enabled wakevirt-actor.service || true"), "disabled\n");

    // The services can own their names on the bus, and a call starts the actor.
    enable_services(&debian);
    let ping = "busctl call org.wakevirt.Actor1 /org/wakevirt/Actor1 org.freedesktop.DBus.Peer Ping";
    debian.sh(ping);
    debian.sh(&format!("systemctl stop wakevirt-actor && {ping}"));
    let _ = debian.main_process("wakevirt-actor");

    // An administrator adds files and settings.
    debian.write("/etc/wakevirt/actor.d/win11.toml", "[[allow]]\ndomain = \"win11\"\n");
    debian.write("/etc/systemd/system/wakevirt-actor.service.d/override.conf", "[Unit]\nDescription=mine\n");
    debian
        .sh("systemctl --global enable wakevirt-actor.service && usermod --append --groups wakevirt nobody");

    start_metrics(&debian);

    debian.sh("apt-get remove --yes wakevirt");
    assert_eq!(systemctl(&debian, "is-active", &SYSTEM_UNITS), ["inactive"; 3]);
    assert_eq!(systemctl(&debian, "is-active", &METRICS_UNITS), ["inactive"; 3]);
    assert_eq!(debian.sh("ls -d /run/wakevirt-metrics || true"), "", "node_exporter would export old values");
    assert!(!debian.path("/usr/bin/wakevirt-actor").exists());
    assert!(debian.path("/etc/wakevirt/actor.d/win11.toml").exists(), "remove must leave the configuration");

    // Installing the package again restores the enabled units. They start at the next boot, and not before.
    debian.sh(&format!("apt-get install --yes {PACKAGE}"));
    assert_eq!(systemctl(&debian, "is-enabled", &SYSTEM_UNITS[1..]), ["enabled"; 2]);
    assert_eq!(systemctl(&debian, "is-active", &SYSTEM_UNITS), ["inactive"; 3]);
    debian.reboot();
    assert_eq!(systemctl(&debian, "is-active", &SYSTEM_UNITS), ["active"; 3]);
    assert_eq!(systemctl(&debian, "is-active", &METRICS_UNITS), ["active", "active", "inactive"]);

    debian.sh("systemctl mask wakevirt-capture.socket");
    debian.sh("apt-get purge --yes wakevirt");
    Inventory::of_system(|line| debian.sh(line)).assert_same_as(&before, &[]);
}

#[test]
fn package_installs_and_purges_cleanly_with_dbus_daemon() {
    privileged!();
    installs_runs_and_purges_cleanly(Kind::DbusDaemon);
}

#[test]
fn package_installs_and_purges_cleanly_with_dbus_broker() {
    privileged!();
    installs_runs_and_purges_cleanly(Kind::DbusBroker);
}

#[test]
fn package_installs_and_purges_cleanly_in_an_image() {
    privileged!();
    let host = Host::new();
    // The system is not booted, as when a disk image is built.
    let debian = Debian::new(&host, Kind::DbusBroker);
    let sh = |line: &str| succeed(host.command("chroot").args([ROOT, "sh", "-euc", line]));
    debian.copy(&package::built(), PACKAGE);
    // Without libvirt, the package creates the `libvirt` group.
    sh("rm /usr/sbin/libvirtd && groupdel libvirt");
    let before = Inventory::of_files(sh);

    sh(&format!("dpkg --install {PACKAGE}"));
    sh("getent passwd wakevirt-capture wakevirt-actor && getent group wakevirt libvirt");
    assert_eq!(sh("systemctl is-enabled wakevirt-capture wakevirt-actor || true"), "disabled\ndisabled\n");
    sh("systemctl enable wakevirt-capture wakevirt-actor");
    sh("dpkg --purge wakevirt");
    Inventory::of_files(sh).assert_same_as(&before, &[]);

    // Purging the package leaves a group that has a member.
    sh(&format!(
        "dpkg --install {PACKAGE} && usermod --append --groups libvirt nobody && dpkg --purge wakevirt"
    ));
    assert!(sh("getent group libvirt").contains("nobody"));
}

/// An event on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    /// A packet for this MAC address.
    Announced(String),
    /// This name lost its owner.
    Lost(String),
    /// This name has a new owner.
    Owned(String),
}

/// Starts recording the events on the bus.
fn monitor(debian: &Debian<'_>) -> Process {
    let mut busctl = debian.command("busctl");
    busctl.args(["monitor", "--json=short"]).args([
        "--match=type='signal',interface='org.wakevirt.Capture1',member='MagicPacket'",
        "--match=type='signal',member='NameOwnerChanged',arg0namespace='org.wakevirt'",
        "--match=type='signal',interface='org.wakevirt.Test'",
    ]);
    let monitor = Process::start("busctl monitor", &mut busctl);
    // Not every version of busctl reports when it has subscribed.
    wait::until_true("the monitor to subscribe", || {
        debian.sh("busctl emit / org.wakevirt.Test Probe");
        monitor.log().count("Probe") > 0
    });
    monitor
}

fn events(monitor: &Process) -> Vec<Event> {
    let mut events = Vec::new();
    for line in monitor.log().all() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
        let [data, member] = [&message["payload"]["data"], &message["member"]];
        let text = |index: usize| data[index].as_str().unwrap_or_default().to_owned();
        events.extend(match member.as_str() {
            Some("MagicPacket") => Some(Event::Announced(text(1))),
            Some("NameOwnerChanged") if text(2).is_empty() => Some(Event::Lost(text(0))),
            Some("NameOwnerChanged") => Some(Event::Owned(text(0))),
            _ => None,
        });
    }
    events
}

/// The number of domains of libvirt's test driver. Only the first packet for a domain starts it, so there are enough
/// domains for the whole upgrade.
const DOMAINS: u16 = 1500;

fn mac(number: u16) -> String {
    let [high, low] = number.to_be_bytes();
    format!("52:54:00:00:{high:02x}:{low:02x}")
}

fn define_domains(debian: &Debian<'_>) {
    let mut commands = String::new();
    for number in 0..DOMAINS {
        let file = format!("/root/domains/{number}.xml");
        debian.write(&file, &test_domain(&format!("vm{number}"), &mac(number)));
        let _ = writeln!(commands, "define {file}");
    }
    debian.write("/root/define", &commands);
    // The test driver loses its domains when its last client disconnects, so this client stays connected.
    debian.sh(&format!(
        "systemd-run --quiet --unit=client virsh --connect '{TEST}' 'event --loop --all'
         virsh --quiet --connect '{TEST}' </root/define >/dev/null"
    ));
}

fn running(debian: &Debian<'_>) -> BTreeSet<String> {
    debian.sh(&format!("virsh --quiet --connect '{TEST}' list --name")).lines().map(str::to_owned).collect()
}

/// Sends a packet for one domain after another, until `/run/stop-sending` exists.
fn send_to_all(lan: &Peer<'_>) -> std::process::Child {
    let macs: Vec<String> = (0..DOMAINS).map(mac).collect();
    let line = format!(
        "for mac in {}; do
             [ ! -e /run/stop-sending ] || exit 0
             etherwake -i eth0 $mac
             sleep 0.01
         done",
        macs.join(" ")
    );
    lan.command("sh").args(["-euc", &line]).spawn().expect("sh runs")
}

fn upgrade_loses_no_announced_wake(bus: Kind) {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let host = Host::new();
    host.bridge("br0");
    let lan = host.veth("enp1s0");
    host.sh("ip link set enp1s0 master br0");
    let mut debian = Debian::new(&host, bus);
    debian.copy(&package::built(), PACKAGE);
    debian.copy(&next_version(&scratch), NEXT);
    debian.boot();
    start_with_domains(&debian);
    let events = upgrade_under_load(&host, &lan, &debian);
    let missed = announced_while_the_actor_was_down(&events);
    assert_announced_domains_run(&debian, &events, missed);
    assert_capture_keeps_running_if_the_actor_fails(&debian);
}

/// Defines the domains, installs the package, and waits until the actor lists the domains.
fn start_with_domains(debian: &Debian<'_>) {
    define_domains(debian);
    debian.write(
        "/etc/wakevirt/actor.toml",
        &format!("connections = [\"{TEST}\"]\n[[allow]]\ndomain = \"vm*\"\n"),
    );
    debian.sh(&format!("apt-get install --yes {PACKAGE}"));
    enable_services(debian);
    wait::until_true("the actor to list the domains", || {
        let get = "busctl get-property org.wakevirt.Actor1 /org/wakevirt/Actor1 org.wakevirt.Actor1 Domains";
        debian.sh(get).trim() == format!("u {}", DOMAINS + 1)
    });
}

/// Upgrades the package while packets arrive, and returns the events on the bus during that time.
fn upgrade_under_load(host: &Host, lan: &Peer<'_>, debian: &Debian<'_>) -> Vec<Event> {
    let monitor = monitor(debian);
    let mut sender = send_to_all(lan);
    let _ = monitor.log().wait_for_nth("MagicPacket", 10);
    let processes = || SYSTEM_UNITS[1..].iter().map(|unit| debian.main_process(unit)).collect::<Vec<_>>();
    let before = processes();
    debian.sh(&format!("dpkg --install {NEXT}"));
    assert!(before.iter().zip(&processes()).all(|(old, new)| old != new), "the old version is still running");
    let announced = monitor.log().count("MagicPacket");
    let _ = monitor.log().wait_for_nth("MagicPacket", announced + 10);
    host.write("/run/stop-sending", "");
    assert!(sender.wait().expect("the sender is a child process").success());
    // The bus preserves the order: all earlier messages arrive before this one.
    debian.sh("busctl emit / org.wakevirt.Test EndOfTest");
    let _ = monitor.log().wait_for("EndOfTest");
    events(&monitor)
}

/// Checks that the actor restarts before capture, and returns how many packets were announced while the actor was down.
fn announced_while_the_actor_was_down(events: &[Event]) -> usize {
    let at = |event: &Event| {
        events.iter().position(|it| it == event).unwrap_or_else(|| panic!("no {event:?} in {events:#?}"))
    };
    let [actor, capture] = ["org.wakevirt.Actor1", "org.wakevirt.Capture1"].map(str::to_owned);
    let (exits, ready) = (at(&Event::Lost(actor.clone())), at(&Event::Owned(actor)));
    let (stops, starts) = (at(&Event::Lost(capture.clone())), at(&Event::Owned(capture)));
    assert!(exits < ready && ready < stops && stops < starts, "wrong order of the restarts: {events:#?}");
    let missed = events[exits..ready].iter().filter(|event| matches!(event, Event::Announced(_))).count();
    assert!(missed > 0, "no packet was announced while the actor was down: {events:#?}");
    missed
}

/// Waits until every domain for which capture announced a packet is running.
fn assert_announced_domains_run(debian: &Debian<'_>, events: &[Event], missed: usize) {
    let announced: BTreeSet<String> = (0..DOMAINS)
        .filter(|number| events.contains(&Event::Announced(mac(*number))))
        .map(|number| format!("vm{number}"))
        .collect();
    let mut lost = Vec::new();
    let all_run = wait::within(wait::TIMEOUT, || {
        lost = announced.difference(&running(debian)).cloned().collect();
        lost.is_empty().then_some(())
    });
    assert!(
        all_run.is_some(),
        "of {} announced wakes, {missed} of them while the actor was down, these are lost: {lost:?}\n{}",
        announced.len(),
        debian.journal("wakevirt-actor")
    );
}

/// Checks that an upgrade does not restart capture if the actor does not start: only the announcer has the packets that
/// the actor missed.
fn assert_capture_keeps_running_if_the_actor_fails(debian: &Debian<'_>) {
    debian.write("/etc/wakevirt/actor.d/wrong.toml", "no-such-key = 1\n");
    let before = debian.main_process("wakevirt-capture");
    let output = debian.command("dpkg").args(["--install", NEXT]).output().expect("dpkg runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("journalctl -u wakevirt-actor"), "{stderr}");
    assert_eq!(debian.main_process("wakevirt-capture"), before);
    assert_ne!(systemctl(debian, "is-active", &["wakevirt-actor"]), ["active"]);
}

#[test]
fn upgrade_loses_no_announced_wake_with_dbus_daemon() {
    privileged!();
    upgrade_loses_no_announced_wake(Kind::DbusDaemon);
}

#[test]
fn upgrade_loses_no_announced_wake_with_dbus_broker() {
    privileged!();
    upgrade_loses_no_announced_wake(Kind::DbusBroker);
}
