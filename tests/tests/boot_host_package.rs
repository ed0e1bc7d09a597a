//! The wakevirt-host package on a booted Debian system: installed, enabled, removed under a running domain, and purged.

use wakevirt_protocol::host::SPOOL;
use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::Debian;
use wakevirt_tests::debian::inventory::Inventory;
use wakevirt_tests::debian::package;
use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::qemu_domain_with;
use wakevirt_tests::{privileged, wait};

const UNITS: &str = "wakevirt-host.socket wakevirt-host.service wakevirt-sleep.service wakevirt-suspend.service \
    wakevirt-shutdown.service";
const LINK: &str = "/etc/libvirt/hooks/qemu.d/50-wakevirt";
const VIRSH: &str = "virsh --quiet --connect qemu:///system";
/// Restarts libvirtd, and waits until it has called its hooks for the running domain: until then, it does not suspend
/// the domain. Then prints the domain's state.
const RESTART: &str = "systemctl restart libvirtd
    virsh --quiet --connect qemu:///system suspend guest
    virsh --quiet --connect qemu:///system resume guest
    virsh --quiet --connect qemu:///system domstate guest";

/// A booted system whose libvirtd is running, with a domain.
fn system(host: &Host) -> Debian<'_> {
    let mut debian = Debian::new(host, Kind::DbusDaemon);
    debian.copy(&package::built(), "/root/wakevirt.deb");
    debian.copy(&package::host(), "/root/wakevirt-host.deb");
    debian.write("/root/guest.xml", &qemu_domain_with("guest", ""));
    debian.boot();
    debian.sh(&format!("{VIRSH} define /root/guest.xml"));
    debian
}

/// The output of a systemctl(1) subcommand for each of the package's units.
fn systemctl(debian: &Debian<'_>, subcommand: &str) -> Vec<String> {
    let output = debian.sh(&format!("systemctl {subcommand} {UNITS} || true"));
    output.lines().map(str::to_owned).collect()
}

/// The operations in the spool, in their order.
fn spooled(debian: &Debian<'_>) -> Vec<String> {
    let names = debian.sh(&format!("ls {SPOOL}"));
    names.lines().filter_map(|name| Some(name.split_once('.')?.1.to_owned())).collect()
}

#[test]
fn package_changes_nothing_until_it_is_enabled_and_leaves_nothing_behind() {
    privileged!();
    let host = Host::new();
    let debian = system(&host);
    let before = Inventory::of_system(|line| debian.sh(line));
    let libvirtd = debian.main_process("libvirtd");

    debian.sh("apt-get install --yes /root/wakevirt.deb /root/wakevirt-host.deb");
    assert_eq!(systemctl(&debian, "is-enabled"), ["disabled"; 5]);
    assert_eq!(systemctl(&debian, "is-active"), ["inactive"; 5]);
    assert!(debian.path(LINK).symlink_metadata().expect("the link is installed").is_symlink());
    // libvirtd finds the hook although it has not been restarted.
    debian.sh(&format!("{VIRSH} start guest; {VIRSH} destroy guest"));
    assert_eq!(debian.main_process("libvirtd"), libvirtd);
    assert_eq!(spooled(&debian), ["prepare", "started", "stopped", "release"]);

    debian.write("/etc/wakevirt/host.toml", "[[domain]]\nmatch = \"guest\"\nprepare = [\"hugepages\"]\n");
    debian.sh("systemctl enable --now wakevirt-host");
    assert_eq!(systemctl(&debian, "is-active")[..2], ["active"; 2]);
    wait::until_true("the service to handle the events", || spooled(&debian).is_empty());
    debian.sh(&format!("{VIRSH} start guest"));
    wait::until_true("the service to handle the events of the start", || spooled(&debian).is_empty());
    debian.write("/etc/systemd/system/wakevirt-host.service.d/override.conf", "[Unit]\nDescription=mine\n");

    // Removed under a running domain.
    let guest = debian.sh("pgrep --full '^/usr/bin/qemu-system'");
    debian.sh("apt-get remove --yes wakevirt-host");
    assert!(!debian.path("/usr/sbin/wakevirt-hook").exists());
    assert!(debian.path(LINK).symlink_metadata().is_err());
    assert_eq!(debian.sh("ls -d /run/wakevirt-host || true"), "");
    assert_eq!(debian.sh(RESTART), "running\n");
    // The link remains if the files are removed in another way.
    debian.sh(&format!("mkdir -p /etc/libvirt/hooks/qemu.d; ln -s /usr/sbin/wakevirt-hook {LINK}"));
    assert_eq!(debian.sh(RESTART), "running\n");
    assert_eq!(debian.sh("pgrep --full '^/usr/bin/qemu-system'"), guest);
    debian.sh(&format!("rm {LINK}; rmdir /etc/libvirt/hooks/qemu.d; {VIRSH} destroy guest"));

    // Installing the package again restores the enabled units. They start at the next boot, and not before.
    debian.sh("apt-get install --yes /root/wakevirt-host.deb");
    assert_eq!(systemctl(&debian, "is-enabled")[..2], ["enabled"; 2]);
    assert_eq!(systemctl(&debian, "is-active"), ["inactive"; 5]);
    debian.sh("apt-get purge --yes wakevirt-host wakevirt");
    Inventory::of_system(|line| debian.sh(line)).assert_same_as(&before, &[]);
}

#[test]
fn upgrade_keeps_domains_and_their_records() {
    privileged!();
    let host = Host::new();
    let debian = system(&host);
    debian.sh("apt-get install --yes /root/wakevirt.deb /root/wakevirt-host.deb");
    debian.write("/etc/wakevirt/host.toml", "[[domain]]\nmatch = \"guest\"\nprepare = [\"compact\"]\n");
    debian.sh(&format!("systemctl enable --now wakevirt-host; {VIRSH} start guest"));
    let records = || debian.sh("grep -o '\"name\": *\"[^\"]*\"' /run/wakevirt-host/state/state.json || true");
    wait::until_true("the record", || records().contains("guest"));
    let service = debian.main_process("wakevirt-host");
    debian.sh("dpkg --install /root/wakevirt-host.deb");
    assert_ne!(debian.main_process("wakevirt-host"), service);
    assert_eq!(debian.sh(&format!("{VIRSH} domstate guest")), "running\n");
    assert!(records().contains("guest"), "{}", records());
    debian.sh(&format!("{VIRSH} destroy guest"));
    wait::until_true("the record to be removed", || !records().contains("guest"));
}
