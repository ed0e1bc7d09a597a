//! Runs the commands from docs/RESTRICTED.md, which restrict the actor's permissions in libvirt, unchanged on a booted
//! Debian system.
#![expect(clippy::expect_used, reason = "a test may panic")]

use wakevirt_tests::bus::Kind;
use wakevirt_tests::host::Host;
use wakevirt_tests::process::proc::Status;
use wakevirt_tests::project::readme;
use wakevirt_tests::scene::site::{DOMAIN, MAC, MEMBER, Site, UNPRIVILEGED, wait_for_cool_down};
use wakevirt_tests::{privileged, wait};

const PAGE: &str = "docs/RESTRICTED.md";

/// The command blocks in a section of the page, which has exactly `COUNT` of them.
fn commands<const COUNT: usize>(section: &str) -> [String; COUNT] {
    readme::commands_of(PAGE, section)
        .try_into()
        .expect("the section has the expected number of command blocks")
}

/// The files in the directories that the page's commands write to, with checksums.
fn configuration(site: &Site<'_>) -> String {
    site.debian.sh("cd /etc && find libvirt/*.conf polkit-1 systemd/system/wakevirt* -type f -exec sha256sum {} + | sort")
}

/// Waits until the page's command shows these permissions of the actor.
fn wait_for_permissions(site: &Site<'_>, show: &str, permissions: &str) {
    let expected = format!("permissions on qemu:///system: {permissions}");
    wait::until_true(&expected, || {
        // journalctl fails while no such line exists.
        let output = site.shell("root", show).output().expect("sh runs");
        String::from_utf8_lossy(&output.stdout).lines().last().is_some_and(|line| line.contains(&expected))
    });
}

/// The supplementary groups of the actor's process.
fn groups(site: &Site<'_>) -> String {
    let status = Status::of(site.debian.main_process("wakevirt-actor"));
    let own_group = site.debian.sh("id --group wakevirt-actor");
    let groups = status.field("Groups");
    groups.split_whitespace().filter(|group| *group != own_group.trim()).collect::<Vec<_>>().join(" ")
}

/// A domain like those that virt-manager defines, with a libvirt network, a volume and a network filter.
const OTHER: &str = "other";
const OTHER_MAC: &str = "52:54:00:12:34:57";
/// The same domain with a serial port that connects to a missing socket: QEMU exits after libvirt has set up all
/// devices.
const BROKEN: &str = "broken";
const BROKEN_MAC: &str = "52:54:00:12:34:58";
const SERIAL: &str = "<serial type='unix'><source mode='connect' path='/run/missing'/></serial>";

/// Defines these domains and their devices, and allows packets to wake them.
fn define_others(site: &Site<'_>) {
    site.debian.write(
        "/root/network.xml",
        "<network><name>own</name><forward mode='bridge'/><bridge name='br0'/></network>",
    );
    site.virsh("net-define /root/network.xml");
    site.start_network_and_pool("own");
    for (name, mac, more) in [(OTHER, OTHER_MAC, ""), (BROKEN, BROKEN_MAC, SERIAL)] {
        site.define_with_volume(name, mac, "own", more);
    }
    let rule = format!("[[allow]]\ndomain = \"{OTHER}\"\n[[allow]]\ndomain = \"{BROKEN}\"\n");
    site.debian.write("/etc/wakevirt/actor.d/other.toml", &rule);
    site.debian.sh("systemctl reload wakevirt-actor");
}

/// Sends a packet for [`OTHER`], waits until the domain is running, and destroys it.
fn wake_other(site: &Site<'_>, send: &str) {
    assert_eq!(send.matches(MAC).count(), 1, "{send}");
    // libvirt reports "running" before the start is complete, so wait for the actor's log.
    let started =
        || site.debian.journal("wakevirt-actor").matches(&format!("started: domain \"{OTHER}\"")).count();
    let earlier = started();
    site.lan.sh(&send.replace(MAC, OTHER_MAC));
    wait::until_true("the other domain to start", || started() > earlier);
    site.virsh(&format!("destroy {OTHER}"));
}

/// Sends a packet for [`BROKEN`], and checks that its start fails and leaves neither a port nor a filter binding
/// behind.
fn fail_to_wake_broken(site: &Site<'_>, send: &str) {
    site.lan.sh(&send.replace(MAC, BROKEN_MAC));
    let journal = || site.debian.journal("wakevirt-actor");
    wait::until_true("the start to fail", || journal().contains(&format!("failed: domain \"{BROKEN}\"")));
    assert!(journal().contains("/run/missing"), "QEMU did not fail because of the socket:\n{}", journal());
    wait::until_true("libvirt to remove the port and the filter binding", || {
        site.virsh("net-port-list own").is_empty() && site.virsh("nwfilter-binding-list").is_empty()
    });
}

/// Runs a shell command that destroys the domain. Returns whether libvirt allowed it.
fn destroys(site: &Site<'_>, user: &str, line: &str) -> bool {
    let output = site.shell(user, line).output().expect("sh runs");
    let error = String::from_utf8_lossy(&output.stderr);
    let destroyed = site.state() == "shut off";
    assert_eq!(destroyed, output.status.success(), "{user}: {error}");
    assert!(destroyed || error.contains("access denied"), "{user}: {error}");
    destroyed
}

/// Runs the page's command, which reads the secrets in the domain's definition as the actor's user. Returns whether
/// libvirt allowed it.
fn actor_reads_secrets(site: &Site<'_>, line: &str) -> bool {
    let output = site.shell("root", line).output().expect("sh runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || error.contains("access denied"), "{error}");
    output.status.success()
}

#[test]
fn restrictions_can_be_enabled_and_disabled_as_documented() {
    privileged!();
    let host = Host::new();
    let mut site = Site::new(&host, Kind::DbusDaemon);
    site.install();
    let send = site.allow();
    let send = send.last().expect("a line that sends a packet");
    let [show, read] = commands("Verify");
    let by_member = format!("virsh --connect qemu:///system destroy {DOMAIN}");

    wait_for_permissions(&site, &show, "not restricted");
    let libvirt_gid = site.debian.sh("getent group libvirt | cut -d: -f3");
    assert_eq!(groups(&site), libvirt_gid.trim());
    site.wake(send);
    assert!(actor_reads_secrets(&site, &read), "without the access driver, the actor can read secrets");
    site.switch_off();

    define_others(&site);
    let [find, enable] = commands("Enable");
    let found = || site.shell("root", &find).output().expect("sh runs").stdout;
    assert_eq!(String::from_utf8_lossy(&found()), "", "Debian's configuration does not set these keys");
    let original = configuration(&site);
    // An editor can leave the last line without a newline.
    site.debian.sh("truncate --size=-1 /etc/libvirt/libvirtd.conf");
    site.debian.sh(&enable);
    assert_ne!(configuration(&site), original);
    assert_eq!(String::from_utf8_lossy(&found()).lines().count(), 2);
    for rebooted in [false, true] {
        if rebooted {
            site.debian.reboot();
        }
        wait_for_permissions(&site, &show, "restricted by libvirt's access driver");
        assert_eq!(groups(&site), "");
        wake_other(&site, send);
        fail_to_wake_broken(&site, send);
        site.wake(send);
        assert!(!actor_reads_secrets(&site, &read), "rebooted: {rebooted}");
        assert!(destroys(&site, MEMBER, &by_member), "the second rule preserves the group's permissions");
        wait_for_cool_down();
    }

    // Without the second rule, the group loses its permissions.
    site.debian.sh("rm /etc/polkit-1/rules.d/50-libvirt-group.rules && systemctl restart polkit");
    site.wake(send);
    assert!(!destroys(&site, MEMBER, &by_member));
    let output = site.shell(UNPRIVILEGED, &by_member).output().expect("sh runs");
    assert!(!output.status.success(), "{output:?}");
    site.switch_off();

    let [disable] = commands("Disable");
    site.debian.sh(&disable);
    assert_eq!(configuration(&site), original);
    wait_for_permissions(&site, &show, "not restricted");
    assert_eq!(groups(&site), libvirt_gid.trim());
    site.wake(send);
    assert!(destroys(&site, MEMBER, &by_member));
    assert_eq!(site.debian.sh("systemctl --failed --no-legend --plain"), "");
}
