//! Hooks of one's own on a host without systemd, with a real libvirtd and the commands of docs/HOOKS.md.

use wakevirt_tests::host::{Host, PROGRAMS, User, succeed};
use wakevirt_tests::libvirt::{Libvirtd, QEMU, qemu_domain_with};
use wakevirt_tests::privileged;
use wakevirt_tests::project::readme::{blocks_of, commands_of};

const PAGE: &str = "docs/HOOKS.md";
const SECTION: &str = "Without systemd";
const SCRIPT: &str = "/etc/wakevirt/host.d/pause-backup";

/// Whether the file of the page exists.
fn is_paused(host: &Host) -> bool {
    host.path("/run/backup-paused").exists()
}

#[test]
fn page_runs_an_executable_while_a_domain_is_active() {
    privileged!();
    let host = Host::new();
    let sh = |commands: &str| {
        let commands = commands.replace("sudo wakevirtctl", &format!("{PROGRAMS}/wakevirtctl"));
        succeed(host.command_as(User::Root, "sh").args(["-euc", &commands.replace("sudo ", "")]))
    };
    let blocks = commands_of(PAGE, SECTION);
    let [new, test] = blocks.as_slice() else { panic!("the section has other blocks: {blocks:?}") };
    sh(new);
    // Replaces the commands with those of the page.
    let mut script = host.read(SCRIPT);
    for line in blocks_of(PAGE, SECTION, "text").concat().lines() {
        let (operation, _) = line.split_once(')').unwrap_or_else(|| panic!("{line}"));
        let start = format!("{operation}) ");
        let old = script.lines().find(|line| line.starts_with(&start));
        let old = old.unwrap_or_else(|| panic!("{script}")).to_owned();
        script = script.replace(&old, line);
    }
    host.write(SCRIPT, &script);
    assert_eq!(sh(test), "/run/backup-paused\n");
    assert!(!is_paused(&host));

    let mut libvirtd = Libvirtd::start(&host);
    host.sh(&format!(
        "mkdir -p /etc/libvirt/hooks/qemu.d && ln -s {PROGRAMS}/wakevirt-hook /etc/libvirt/hooks/qemu.d/50-wakevirt"
    ));
    libvirtd.kill();
    libvirtd.start_again();
    for (name, matches) in [("win11", true), ("win $(reboot)", true), ("linux", false)] {
        libvirtd.define(QEMU, &qemu_domain_with(name, ""));
        libvirtd.virsh(QEMU, &["start", name]);
        assert_eq!((libvirtd.state(QEMU, name).as_str(), is_paused(&host)), ("running", matches), "{name}");
        // A daemon that restarts does not run the executables, and does not end the domain.
        libvirtd.kill();
        libvirtd.start_again();
        assert_eq!((libvirtd.state(QEMU, name).as_str(), is_paused(&host)), ("running", matches), "{name}");
        libvirtd.virsh(QEMU, &["destroy", name]);
        assert!(!is_paused(&host), "{name}");
    }
    // One that fails does not prevent the start.
    host.write(SCRIPT, "#!/bin/sh\nexit 1\n");
    libvirtd.virsh(QEMU, &["start", "win11"]);
    libvirtd.virsh(QEMU, &["destroy", "win11"]);
}
