//! wakevirt with libvirt's modular daemons instead of libvirtd, on a booted Debian system: virtqemud, virtnetworkd,
//! virtstoraged and others, with their sockets.
#![expect(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

mod doctor;
mod restricted;
mod wakes;

use wakevirt_tests::bus::Kind;
use wakevirt_tests::host::Host;
use wakevirt_tests::scene::site::{MAC, Site};
use wakevirt_tests::wait;

const ACTOR: &str = "wakevirt-actor";
/// How long a daemon without clients runs, instead of libvirt's two minutes.
const IDLE: &str = "2";
const DAEMONS: [&str; 8] = [
    "virtqemud",
    "virtinterfaced",
    "virtnetworkd",
    "virtnodedevd",
    "virtnwfilterd",
    "virtsecretd",
    "virtstoraged",
    "virtproxyd",
];

/// Makes the settings of the network writable, which libvirt's networks need. systemd-nspawn(1) mounts them read-only.
const SYSCTL: &str = "[Unit]
DefaultDependencies=no
Before=sysinit.target
[Service]
Type=oneshot
ExecStart=sh -c 'mkdir -p /run/proc && mount -t proc proc /run/proc && mount --bind /run/proc/sys/net /proc/sys/net'
";

/// A domain like those that virt-manager defines, with libvirt's network "default", a volume and a network filter.
const OTHER: &str = "other";
const OTHER_MAC: &str = "52:54:00:12:34:57";

#[expect(clippy::print_stdout, reason = "scripts/check-anywhere reads the line")]
/// Boots a system with the modular daemons, on which wakevirt is installed and enabled. A packet can wake the domain.
fn site<'host>(host: &'host Host, config: &str) -> Site<'host> {
    let site = Site::prepared(host, Kind::DbusDaemon, |debian| {
        debian.use_modular_libvirt();
        debian.install();
        for daemon in DAEMONS {
            let variable = daemon.to_uppercase();
            let text = format!(
                "[Unit]\nStartLimitIntervalSec=0\n[Service]\nEnvironment={variable}_ARGS=\"--timeout {IDLE}\"\n"
            );
            debian.write(&format!("/etc/systemd/system/{daemon}.service.d/test.conf"), &text);
        }
        debian.write("/etc/systemd/system/test-sysctl.service", SYSCTL);
        debian.write("/etc/systemd/system/sysinit.target.d/test.conf", "[Unit]\nWants=test-sysctl.service\n");
        debian.write("/etc/wakevirt/actor.toml", config);
        debian.write("/etc/wakevirt/actor.d/all.toml", "[[allow]]\ndomain = \"*\"\n");
    });
    println!("tried: {}", site.debian.sh("virtqemud --version | sed 's/.*) /libvirt /'").trim());
    site.debian.sh("systemctl enable --now wakevirt-capture wakevirt-actor");
    site
}

/// Defines [`OTHER`] and its volume, and starts its network.
fn define_other(site: &Site<'_>) {
    site.start_network_and_pool("default");
    site.define_with_volume(OTHER, OTHER_MAC, "default", "");
}

/// Sends a packet for a MAC address from the other machine.
fn send(site: &Site<'_>, mac: &str) {
    site.lan.etherwake(mac, &[]);
}

/// Waits until the actor's log contains this text at least `count` times.
fn wait_for_log(site: &Site<'_>, text: &str, count: usize) {
    let journal = || site.debian.journal(ACTOR);
    let seen = wait::within(wait::TIMEOUT, || (journal().matches(text).count() >= count).then_some(()));
    assert!(seen.is_some(), "the actor did not log {text:?} {count} times:\n{}", journal());
}

/// Whether a unit is `active`, `inactive` or `failed`.
fn state_of(site: &Site<'_>, unit: &str) -> String {
    site.debian.sh(&format!("systemctl show --property=ActiveState --value {unit}")).trim().to_owned()
}

/// Waits until a unit is in this state.
fn wait_for_unit(site: &Site<'_>, unit: &str, state: &str) {
    wait::until_true(&format!("{unit} to become {state}"), || state_of(site, unit) == state);
}

/// Sends a packet for the domain, waits until it is running, and switches it off.
fn wake_domain(site: &Site<'_>, count: usize) {
    send(site, MAC);
    wait_for_log(site, "started: domain \"win11\"", count);
    switch_off(site);
}

/// Switches the domain off, and ends the cool-down.
fn switch_off(site: &Site<'_>) {
    site.switch_off();
}

/// Sends a packet for [`OTHER`], waits until it is running, and switches it off.
fn wake_other(site: &Site<'_>, count: usize) {
    send(site, OTHER_MAC);
    wait_for_log(site, "started: domain \"other\"", count);
    assert_eq!(site.virsh("net-port-list default").lines().count(), 1);
    site.virsh("destroy other");
}
