//! Wakes, while daemons start, exit and are killed.

use wakevirt_tests::host::Host;
use wakevirt_tests::project::readme::commands_of;
use wakevirt_tests::scene::site::{MAC, Site};
use wakevirt_tests::{privileged, wait};

use super::doctor::diagnose;
use super::{
    ACTOR, OTHER_MAC, define_other, send, site, state_of, switch_off, wait_for_log, wait_for_unit,
    wake_domain, wake_other,
};

/// Kills a daemon (SIGKILL), but not the domains in its unit.
fn kill(site: &Site<'_>, daemon: &str) {
    site.debian.sh(&format!("kill -KILL $(systemctl show --property=MainPID --value {daemon})"));
}

#[test]
#[ignore = "make check-anywhere"]
fn idle_daemons_are_started_for_a_wake() {
    privileged!();
    let host = Host::new();
    let mut site = site(&host, "");
    wait_for_log(&site, "connected to qemu:///system: 1 domain", 1);
    assert_eq!(state_of(&site, "virtproxyd.socket"), "inactive");
    wake_domain(&site, 1);

    define_other(&site);
    // Later versions of virtnetworkd run while a network is active.
    for unit in ["virtstoraged", "virtnwfilterd"] {
        wait_for_unit(&site, unit, "inactive");
    }
    // The actor's connection keeps this daemon running.
    assert_eq!(state_of(&site, "virtqemud"), "active");
    wake_other(&site, 1);

    // Without the actor, the daemon exits. The actor's connection starts it again.
    site.debian.sh("systemctl stop wakevirt-actor");
    wait_for_unit(&site, "virtqemud", "inactive");
    site.debian.sh("systemctl start wakevirt-actor");
    wait_for_log(&site, "connected to qemu:///system: 2 domains", 1);
    assert_eq!(state_of(&site, "virtqemud"), "active");

    // The network and the pool start at boot, or when the domain needs them. The bridge would remain, because the system
    // shares the network of the host.
    site.virsh("net-destroy default");
    let disable = "for driver in qemu interface network nodedev nwfilter secret storage; do
            test ! -e /usr/sbin/virt${driver}d || systemctl disable virt${driver}d.service virt${driver}d.socket virt${driver}d-ro.socket virt${driver}d-admin.socket
        done";
    site.debian.sh(disable);
    site.debian.sh(&commands_of("docs/HYPERVISORS.md", "Modular daemons").concat());
    site.debian.reboot();
    wake_other(&site, 1);
    assert!(
        !site.debian.journal(super::ACTOR).contains("no connection to"),
        "the sockets exist before the actor starts"
    );
}

/// A domain with a virtual network needs virtnetworkd, which systemd starts only if its socket is open.
#[test]
#[ignore = "make check-anywhere"]
fn a_wake_waits_for_the_daemon_of_its_network() {
    privileged!();
    let host = Host::new();
    let site = site(&host, "hold = \"8s\"\n");
    define_other(&site);
    wait_for_log(&site, "connected to qemu:///system", 1);
    site.debian.sh("systemctl stop virtnetworkd.socket virtnetworkd-ro.socket virtnetworkd-admin.socket virtnetworkd.service");
    let held = "wake of \"other\" is held: cannot start the domain, because virtnetworkd is not running: ";
    send(&site, OTHER_MAC);
    wait_for_log(&site, held, 1);
    wait_for_log(&site, "expired: domain \"other\"", 1);
    let log = site.debian.journal(ACTOR);
    let expired = log.lines().find(|line| line.contains("expired: ")).expect("the line");
    assert!(expired.contains("because virtnetworkd is not running"), "{expired}");

    let found = diagnose(&site);
    let finding = &found["findings"][0];
    assert_eq!(finding["check"], "libvirt-daemon-stopped", "{found:#}");
    assert!(
        finding["problem"].as_str().is_some_and(|it| it.starts_with("virtnetworkd is not running")),
        "{finding:#}"
    );
    send(&site, OTHER_MAC);
    wait_for_log(&site, held, 2);
    site.debian.sh(finding["cure"].as_str().expect("a command"));
    wait_for_log(&site, "started: domain \"other\"", 1);
    assert_ne!(diagnose(&site)["findings"][0]["check"], "libvirt-daemon-stopped");
    site.virsh("destroy other");
}

#[test]
#[ignore = "make check-anywhere"]
fn wakes_are_held_until_the_daemon_runs() {
    privileged!();
    let host = Host::new();
    let mut site = site(&host, "connections = [\"qemu:///system?mode=direct\"]\n");
    wait_for_log(&site, "connected to qemu:///system?mode=direct: 1 domain", 1);
    wake_domain(&site, 1);

    // The daemon is killed during the attempt, and systemd restarts it.
    site.debian.sh("kill -STOP $(systemctl show --property=MainPID --value virtqemud)");
    send(&site, MAC);
    wait::until_true("capture to receive the packet", || {
        site.debian.journal("wakevirt-capture").matches("magic packet for").count() == 2
    });
    kill(&site, "virtqemud");
    wait_for_log(&site, "started: domain", 2);
    switch_off(&site);

    // The daemon and its sockets are missing at boot, and appear later.
    site.debian
        .sh("systemctl mask virtqemud.service virtqemud.socket virtqemud-ro.socket virtqemud-admin.socket");
    site.debian.reboot();
    wait_for_log(&site, "no connection to qemu:///system?mode=direct", 1);
    send(&site, MAC);
    site.debian
        .sh("systemctl unmask virtqemud.service virtqemud.socket virtqemud-ro.socket virtqemud-admin.socket
        systemctl start virtqemud.socket");
    wait_for_log(&site, "started: domain", 1);
}

#[test]
#[ignore = "make check-anywhere"]
fn virtproxyd_serves_the_socket_of_libvirtd() {
    privileged!();
    let host = Host::new();
    let site = site(&host, "connections = [\"qemu:///system?mode=legacy\"]\n");
    wait_for_log(&site, "no connection to qemu:///system?mode=legacy", 1);
    site.debian.sh("systemctl enable --now virtproxyd.socket");
    wait_for_log(&site, "connected to qemu:///system?mode=legacy: 1 domain", 1);
    wake_domain(&site, 1);
    for daemon in ["virtproxyd", "virtqemud"] {
        // The connection keeps both daemons running.
        assert_eq!(state_of(&site, daemon), "active");
        kill(&site, daemon);
        let connections = if daemon == "virtproxyd" { 2 } else { 3 };
        wait_for_log(&site, "connected to qemu:///system?mode=legacy: 1 domain", connections);
        wake_domain(&site, connections);
    }
}

#[test]
#[ignore = "make check-anywhere"]
fn the_hook_prepares_the_host() {
    privileged!();
    let host = Host::new();
    let site = site(&host, "");
    site.debian.write("/etc/wakevirt/host.toml", "[[domain]]\nmatch = \"win11\"\n");
    site.debian.sh("systemctl start wakevirt-host");
    wait_for_log(&site, "connected to qemu:///system: 1 domain", 1);
    send(&site, MAC);
    wait_for_log(&site, "started: domain", 1);
    let targets = ["wakevirt-prepare@win11.target", "wakevirt-domain@win11.target"];
    let wait_for_targets = |state| targets.iter().for_each(|target| wait_for_unit(&site, target, state));
    wait_for_targets("active");
    let found = site.debian.sh("wakevirtctl host check || true");
    assert!(!found.contains("hook"), "{found}");

    // A killed daemon finds the domain again, and does not undo the preparation.
    kill(&site, "virtqemud");
    wait_for_log(&site, "connected to qemu:///system: 1 domain", 2);
    wait_for_targets("active");
    assert_eq!(site.state(), "running");
    site.virsh("destroy win11");
    wait_for_targets("inactive");
}
