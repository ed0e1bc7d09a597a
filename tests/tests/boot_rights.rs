//! Fewer rights in libvirt, as docs/RESTRICTED.md says, word for word, on a Debian that has really booted.
#![expect(clippy::expect_used, reason = "a test may stop where it stands")]

use wakevirt_tests::bus::Kind;
use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::qemu_domain_with;
use wakevirt_tests::process::proc::Status;
use wakevirt_tests::project::readme;
use wakevirt_tests::scene::site::{DOMAIN, MAC, MEMBER, Site, UNPRIVILEGED, wait_for_cool_down};
use wakevirt_tests::{privileged, wait};

const PAGE: &str = "docs/RESTRICTED.md";

/// The blocks of commands in a section of the page; there are as many as that.
fn commands<const COUNT: usize>(section: &str) -> [String; COUNT] {
    readme::commands_of(PAGE, section).try_into().expect("as many blocks of commands as there were")
}

/// The files in the folders that the page's commands write to, with what is in them.
fn configuration(site: &Site<'_>) -> String {
    site.debian.sh("cd /etc && find libvirt/*.conf polkit-1 systemd/system/wakevirt* -type f -exec sha256sum {} + | sort")
}

/// Waits until the log says this of the actor's rights, by the command of the page.
fn wait_for_rights(site: &Site<'_>, show: &str, rights: &str) {
    let says = format!("rights at qemu:///system: {rights}");
    wait::until_true(&says, || {
        // journalctl fails as long as there is no such line.
        let output = site.shell("root", show).output().expect("sh runs");
        String::from_utf8_lossy(&output.stdout).lines().last().is_some_and(|line| line.contains(&says))
    });
}

/// What the actor's process has besides its own group.
fn groups(site: &Site<'_>) -> String {
    let status = Status::of(site.debian.main_process("wakevirt-actor"));
    let own = site.debian.sh("id --group wakevirt-actor");
    let groups = status.field("Groups");
    groups.split_whitespace().filter(|group| *group != own.trim()).collect::<Vec<_>>().join(" ")
}

/// A domain as virt-manager makes one, and its MAC address: on a network of libvirt, with a volume and a filter.
const OTHER: &str = "other";
const OTHERS_MAC: &str = "52:54:00:12:34:57";
/// The same with a serial line to a program that does not run: QEMU ends when it has set up everything else.
const BROKEN: &str = "broken";
const BROKENS_MAC: &str = "52:54:00:12:34:58";
const SERIAL: &str = "<serial type='unix'><source mode='connect' path='/run/nobody'/></serial>";

/// Defines those domains and what they use. A packet may wake them.
fn define_others(site: &Site<'_>) {
    for (name, mac, more) in [(OTHER, OTHERS_MAC, ""), (BROKEN, BROKENS_MAC, SERIAL)] {
        let devices = format!(
            "<interface type='network'><mac address='{mac}'/><source network='own'/><model type='virtio'/>
               <filterref filter='no-mac-spoofing'/></interface>
             <disk type='volume' device='disk'><driver name='qemu' type='raw'/><source pool='own' volume='disk'/>
               <target dev='hda' bus='ide'/></disk>{more}"
        );
        site.debian.write(&format!("/root/{name}.xml"), &qemu_domain_with(name, &devices));
    }
    site.debian.write(
        "/root/network.xml",
        "<network><name>own</name><forward mode='bridge'/><bridge name='br0'/></network>",
    );
    for line in [
        "net-define /root/network.xml",
        "net-start own",
        "net-autostart own",
        "pool-define-as own dir --target /var/lib/libvirt/own",
        "pool-build own",
        "pool-start own",
        "pool-autostart own",
        "vol-create-as own disk 1M",
        "define /root/other.xml",
        "define /root/broken.xml",
    ] {
        site.virsh(line);
    }
    let rule = format!("[[allow]]\ndomain = \"{OTHER}\"\n[[allow]]\ndomain = \"{BROKEN}\"\n");
    site.debian.write("/etc/wakevirt/actor.d/other.toml", &rule);
    site.debian.sh("systemctl reload wakevirt-actor");
}

/// Sends a packet for that domain, and waits until it runs.
fn wake_other(site: &Site<'_>, send: &str) {
    assert_eq!(send.matches(MAC).count(), 1, "{send}");
    site.lan.sh(&send.replace(MAC, OTHERS_MAC));
    wait::until_true("the other domain to run", || site.virsh(&format!("domstate {OTHER}")) == "running");
    site.virsh(&format!("destroy {OTHER}"));
}

/// Sends a packet for the broken domain: its start fails, and leaves no port and no filter behind.
fn fail_to_wake_broken(site: &Site<'_>, send: &str) {
    site.lan.sh(&send.replace(MAC, BROKENS_MAC));
    let journal = || site.debian.journal("wakevirt-actor");
    wait::until_true("the start to fail", || journal().contains(&format!("failed: domain \"{BROKEN}\"")));
    assert!(journal().contains("/run/nobody"), "QEMU has to be what fails:\n{}", journal());
    wait::until_true("nothing to be left", || {
        site.virsh("net-port-list own").is_empty() && site.virsh("nwfilter-binding-list").is_empty()
    });
}

/// Whether the domain was destroyed by this line of shell. If not, libvirt has refused it.
fn destroys(site: &Site<'_>, user: &str, line: &str) -> bool {
    let output = site.shell(user, line).output().expect("sh runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let gone = site.state() == "shut off";
    assert!(gone == output.status.success() && (gone || said.contains("access denied")), "{user}: {said}");
    gone
}

#[test]
fn restricted_rights_can_be_enabled_and_disabled_as_documented() {
    privileged!();
    let host = Host::new();
    let mut site = Site::new(&host, Kind::DbusDaemon);
    site.install();
    let send = site.allow();
    let send = send.last().expect("a line that sends a packet");
    let [show, destroy] = commands("Verify");
    let by_member = format!("virsh --connect qemu:///system destroy {DOMAIN}");

    wait_for_rights(&site, &show, "not restricted");
    let libvirt = site.debian.sh("getent group libvirt | cut -d: -f3");
    assert_eq!(groups(&site), libvirt.trim());
    site.wake(send);
    assert!(destroys(&site, "root", &destroy), "without the driver it may do everything");
    wait_for_cool_down();

    define_others(&site);
    let [find, switch_on] = commands("Enable");
    let found = || site.shell("root", &find).output().expect("sh runs").stdout;
    assert_eq!(String::from_utf8_lossy(&found()), "", "no line of Debian sets the same keys");
    let as_it_was = configuration(&site);
    // An editor may have left the last line without its newline.
    site.debian.sh("truncate --size=-1 /etc/libvirt/libvirtd.conf");
    site.debian.sh(&switch_on);
    assert_ne!(configuration(&site), as_it_was);
    assert_eq!(String::from_utf8_lossy(&found()).lines().count(), 2);
    for rebooted in [false, true] {
        if rebooted {
            site.debian.reboot();
        }
        wait_for_rights(&site, &show, "restricted by libvirt's access driver");
        assert_eq!(groups(&site), "");
        wake_other(&site, send);
        fail_to_wake_broken(&site, send);
        site.wake(send);
        assert!(!destroys(&site, "root", &destroy), "rebooted: {rebooted}");
        assert!(destroys(&site, MEMBER, &by_member), "the second rule keeps the group's rights");
        wait_for_cool_down();
    }

    // Without that rule.
    site.debian.sh("rm /etc/polkit-1/rules.d/50-libvirt-group.rules && systemctl restart polkit");
    site.wake(send);
    assert!(!destroys(&site, MEMBER, &by_member));
    let output = site.shell(UNPRIVILEGED, &by_member).output().expect("sh runs");
    assert!(!output.status.success(), "{output:?}");
    site.switch_off();

    let [go_back] = commands("Disable");
    site.debian.sh(&go_back);
    assert_eq!(configuration(&site), as_it_was);
    wait_for_rights(&site, &show, "not restricted");
    assert_eq!(groups(&site), libvirt.trim());
    site.wake(send);
    assert!(destroys(&site, MEMBER, &by_member));
    assert_eq!(site.debian.sh("systemctl --failed --no-legend --plain"), "");
}
