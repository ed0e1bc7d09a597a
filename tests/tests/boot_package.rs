//! The life of the package on a Debian that has really booted: installed, enabled, upgraded, removed, purged.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop where it stands"
)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
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

/// Where packages are in the Debian.
const PACKAGE: &str = "/root/wakevirt.deb";
const NEXT: &str = "/root/wakevirt-next.deb";

const SYSTEM_UNITS: [&str; 3] =
    ["wakevirt-capture.socket", "wakevirt-capture.service", "wakevirt-actor.service"];

/// The same package with a higher version.
fn next(scratch: &TempDir) -> PathBuf {
    let (root, next) = (scratch.path().join("root"), scratch.path().join("next.deb"));
    succeed(Command::new("dpkg-deb").arg("--raw-extract").arg(package::built()).arg(&root));
    let control = root.join("DEBIAN/control");
    let text = std::fs::read_to_string(&control).expect("a package has it");
    let version = text.lines().find(|line| line.starts_with("Version: ")).expect("a package has one");
    std::fs::write(&control, text.replace(version, &format!("{version}+next"))).expect("a file of ours");
    succeed(Command::new("dpkg-deb").args(["--root-owner-group", "-Znone", "--build"]).arg(&root).arg(&next));
    next
}

/// How these units are, as this subcommand of systemctl(1) says it.
fn systemctl(debian: &Debian<'_>, question: &str, units: &[&str]) -> Vec<String> {
    let output = debian.command("systemctl").arg(question).args(units).output().expect("systemctl runs");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Does what the README says to switch the services on.
fn switch_on(debian: &Debian<'_>) {
    let enable =
        debian.command("systemctl").args(["enable", "--now", "wakevirt-capture", "wakevirt-actor"]).output();
    let enabled = enable.expect("systemctl runs").status.success();
    assert!(enabled, "{}\n{}", debian.journal("wakevirt-capture"), debian.journal("wakevirt-actor"));
}

fn lives_and_leaves_nothing(bus: Kind) {
    let host = Host::new();
    let mut debian = Debian::new(&host, bus);
    debian.copy(&package::built(), PACKAGE);
    debian.boot();
    let before = Inventory::of_system(|line| debian.sh(line));

    debian.sh(&format!("apt-get install --yes {PACKAGE}"));
    assert_eq!(systemctl(&debian, "is-enabled", &SYSTEM_UNITS), ["disabled"; 3]);
    assert_eq!(systemctl(&debian, "is-active", &SYSTEM_UNITS), ["inactive"; 3]);
    assert_eq!(debian.sh("systemctl --global is-enabled wakevirt-actor.service || true"), "disabled\n");

    // The bus knows the users who may own the names, and whom a call starts.
    switch_on(&debian);
    let introspect = "busctl call org.wakevirt.Actor1 /org/wakevirt/Actor1 org.freedesktop.DBus.Peer Ping";
    debian.sh(introspect);
    debian.sh(&format!("systemctl stop wakevirt-actor && {introspect}"));
    let _ = debian.main_process("wakevirt-actor");

    // What an administrator leaves.
    debian.write("/etc/wakevirt/actor.d/win11.toml", "[[allow]]\ndomain = \"win11\"\n");
    debian.write("/etc/systemd/system/wakevirt-actor.service.d/override.conf", "[Unit]\nDescription=mine\n");
    debian
        .sh("systemctl --global enable wakevirt-actor.service && usermod --append --groups wakevirt nobody");

    debian.sh("apt-get remove --yes wakevirt");
    assert_eq!(systemctl(&debian, "is-active", &SYSTEM_UNITS), ["inactive"; 3]);
    assert!(!debian.path("/usr/bin/wakevirt-actor").exists());
    assert!(debian.path("/etc/wakevirt/actor.d/win11.toml").exists(), "only purge takes the configuration");

    // As it was before, at the next boot; nothing starts by surprise.
    debian.sh(&format!("apt-get install --yes {PACKAGE}"));
    assert_eq!(systemctl(&debian, "is-enabled", &SYSTEM_UNITS[1..]), ["enabled"; 2]);
    assert_eq!(systemctl(&debian, "is-active", &SYSTEM_UNITS), ["inactive"; 3]);
    debian.reboot();
    assert_eq!(systemctl(&debian, "is-active", &SYSTEM_UNITS), ["active"; 3]);

    debian.sh("systemctl mask wakevirt-capture.socket");
    debian.sh("apt-get purge --yes wakevirt");
    Inventory::of_system(|line| debian.sh(line)).assert_same_as(&before, &[]);
}

#[test]
fn on_dbus_daemon_the_package_lives_and_leaves_nothing() {
    privileged!();
    lives_and_leaves_nothing(Kind::DbusDaemon);
}

#[test]
fn on_dbus_broker_the_package_lives_and_leaves_nothing() {
    privileged!();
    lives_and_leaves_nothing(Kind::DbusBroker);
}

#[test]
fn in_an_image_the_package_lives_and_leaves_nothing() {
    privileged!();
    let host = Host::new();
    // Not booted, as where a disk image is made.
    let debian = Debian::new(&host, Kind::DbusBroker);
    let sh = |line: &str| succeed(host.command("chroot").args([ROOT, "sh", "-euc", line]));
    debian.copy(&package::built(), PACKAGE);
    // Without libvirt, its group is the package's.
    sh("rm /usr/sbin/libvirtd && groupdel libvirt");
    let before = Inventory::of_files(sh);

    sh(&format!("dpkg --install {PACKAGE}"));
    sh("getent passwd wakevirt-capture wakevirt-actor && getent group wakevirt libvirt");
    assert_eq!(sh("systemctl is-enabled wakevirt-capture wakevirt-actor || true"), "disabled\ndisabled\n");
    sh("systemctl enable wakevirt-capture wakevirt-actor");
    sh("dpkg --purge wakevirt");
    Inventory::of_files(sh).assert_same_as(&before, &[]);

    // Who has found a use for the group keeps it.
    sh(&format!(
        "dpkg --install {PACKAGE} && usermod --append --groups libvirt nobody && dpkg --purge wakevirt"
    ));
    assert!(sh("getent group libvirt").contains("nobody"));
}

/// What was seen on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    /// A packet for this MAC address.
    Announced(String),
    /// Who had this name has given it up.
    Lost(String),
    /// Somebody has this name.
    Owned(String),
}

/// Listens on the bus from now on.
fn monitor(debian: &Debian<'_>) -> Process {
    let mut busctl = debian.command("busctl");
    busctl.args(["monitor", "--json=short"]).args([
        "--match=type='signal',interface='org.wakevirt.Capture1',member='MagicPacket'",
        "--match=type='signal',member='NameOwnerChanged',arg0namespace='org.wakevirt'",
        "--match=type='signal',interface='org.wakevirt.Test'",
    ]);
    let monitor = Process::start("busctl monitor", &mut busctl);
    // Not every version says when it has begun.
    wait::until_true("the monitor to begin", || {
        debian.sh("busctl emit / org.wakevirt.Test AreYouThere");
        monitor.log().count("AreYouThere") > 0
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

/// So many domains that packets for new ones can be sent as long as an upgrade takes. They are of libvirt's
/// test driver: each is started by the first packet for it.
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
    // The test driver forgets everything when its last client leaves: this one stays.
    debian.sh(&format!(
        "systemd-run --quiet --unit=client virsh --connect '{TEST}' 'event --loop --all'
         virsh --quiet --connect '{TEST}' </root/define >/dev/null"
    ));
}

fn running(debian: &Debian<'_>) -> BTreeSet<String> {
    debian.sh(&format!("virsh --quiet --connect '{TEST}' list --name")).lines().map(str::to_owned).collect()
}

/// Sends a packet for one domain after the other until [`stop`].
fn send_to_all(lan: &Peer<'_>) -> std::process::Child {
    let macs: Vec<String> = (0..DOMAINS).map(mac).collect();
    let line = format!(
        "for mac in {}; do
             [ ! -e /run/enough ] || exit 0
             etherwake -i eth0 $mac
             sleep 0.01
         done",
        macs.join(" ")
    );
    lan.command("sh").args(["-euc", &line]).spawn().expect("sh runs")
}

fn no_announced_wake_is_lost(bus: Kind) {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let host = Host::new();
    host.bridge("br0");
    let lan = host.veth("enp1s0");
    host.sh("ip link set enp1s0 master br0");
    let mut debian = Debian::new(&host, bus);
    debian.copy(&package::built(), PACKAGE);
    debian.copy(&next(&scratch), NEXT);
    debian.boot();
    start_with_domains(&debian);
    let events = upgrade_under_load(&host, &lan, &debian);
    let missed = announced_while_the_actor_was_away(&events);
    assert_all_announced_run(&debian, &events, missed);
    keeps_the_announcer_where_the_actor_does_not_start(&debian);
}

/// Defines the domains, installs the package, and waits until the actor knows them.
fn start_with_domains(debian: &Debian<'_>) {
    define_domains(debian);
    debian.write(
        "/etc/wakevirt/actor.toml",
        &format!("connections = [\"{TEST}\"]\n[[allow]]\ndomain = \"vm*\"\n"),
    );
    debian.sh(&format!("apt-get install --yes {PACKAGE}"));
    switch_on(debian);
    wait::until_true("the actor to know the domains", || {
        let get = "busctl get-property org.wakevirt.Actor1 /org/wakevirt/Actor1 org.wakevirt.Actor1 Domains";
        debian.sh(get).trim() == format!("u {}", DOMAINS + 1)
    });
}

/// Upgrades the package while packets arrive, and returns what happened on the bus meanwhile.
fn upgrade_under_load(host: &Host, lan: &Peer<'_>, debian: &Debian<'_>) -> Vec<Event> {
    let monitor = monitor(debian);
    let mut sender = send_to_all(lan);
    let _ = monitor.log().wait_for_nth("MagicPacket", 10);
    let processes = || SYSTEM_UNITS[1..].iter().map(|unit| debian.main_process(unit)).collect::<Vec<_>>();
    let before = processes();
    debian.sh(&format!("dpkg --install {NEXT}"));
    assert!(before.iter().zip(&processes()).all(|(old, new)| old != new), "the old version still runs");
    let announced = monitor.log().count("MagicPacket");
    let _ = monitor.log().wait_for_nth("MagicPacket", announced + 10);
    host.write("/run/enough", "");
    assert!(sender.wait().expect("it is a child").success());
    // The bus preserves the order: all earlier messages arrive before this one.
    debian.sh("busctl emit / org.wakevirt.Test ThatWasAll");
    let _ = monitor.log().wait_for("ThatWasAll");
    events(&monitor)
}

/// Checks that the actor restarts before capture, and returns how many packets were announced while it was away.
fn announced_while_the_actor_was_away(events: &[Event]) -> usize {
    let at = |event: &Event| {
        events.iter().position(|it| it == event).unwrap_or_else(|| panic!("no {event:?} in {events:#?}"))
    };
    let [actor, capture] = ["org.wakevirt.Actor1", "org.wakevirt.Capture1"].map(str::to_owned);
    let (away, back) = (at(&Event::Lost(actor.clone())), at(&Event::Owned(actor)));
    let (stops, starts) = (at(&Event::Lost(capture.clone())), at(&Event::Owned(capture)));
    assert!(away < back && back < stops && stops < starts, "the order of the restarts: {events:#?}");
    let missed = events[away..back].iter().filter(|event| matches!(event, Event::Announced(_))).count();
    assert!(missed > 0, "nothing was announced while the actor was away: {events:#?}");
    missed
}

/// Waits until all domains run for which a packet was announced.
fn assert_all_announced_run(debian: &Debian<'_>, events: &[Event], missed: usize) {
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
        "of {} announced wakes, {missed} of them while the actor was away, these are lost: {lost:?}\n{}",
        announced.len(),
        debian.journal("wakevirt-actor")
    );
}

/// It alone remembers what the actor has not heard.
fn keeps_the_announcer_where_the_actor_does_not_start(debian: &Debian<'_>) {
    debian.write("/etc/wakevirt/actor.d/wrong.toml", "no-such-key = 1\n");
    let before = debian.main_process("wakevirt-capture");
    let output = debian.command("dpkg").args(["--install", NEXT]).output().expect("dpkg runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("journalctl -u wakevirt-actor"), "{said}");
    assert_eq!(debian.main_process("wakevirt-capture"), before);
    assert_ne!(systemctl(debian, "is-active", &["wakevirt-actor"]), ["active"]);
    assert!(Path::new("/proc").join(before.to_string()).exists());
}

#[test]
fn on_dbus_daemon_an_upgrade_loses_no_announced_wake() {
    privileged!();
    no_announced_wake_is_lost(Kind::DbusDaemon);
}

#[test]
fn on_dbus_broker_an_upgrade_loses_no_announced_wake() {
    privileged!();
    no_announced_wake_is_lost(Kind::DbusBroker);
}
