//! Fewer rights in libvirt, as docs/RESTRICTED.md says, word for word, on a Debian that has really booted.
#![expect(clippy::expect_used, reason = "a test may stop where it stands")]

use wakevirt_tests::bus::Kind;
use wakevirt_tests::host::Host;
use wakevirt_tests::proc::Status;
use wakevirt_tests::site::{DOMAIN, MEMBER, STRANGER, Site};
use wakevirt_tests::{privileged, readme, wait};

const PAGE: &str = "docs/RESTRICTED.md";

/// The blocks of commands in a section of the page; there are as many as that.
fn commands<const COUNT: usize>(section: &str) -> [String; COUNT] {
    readme::commands_of(PAGE, section).try_into().expect("as many blocks of commands as there were")
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

/// Whether the domain was destroyed by this line of shell. If not, libvirt has refused it.
fn destroys(site: &Site<'_>, user: &str, line: &str) -> bool {
    let output = site.shell(user, line).output().expect("sh runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let gone = site.state() == "shut off";
    assert!(gone == output.status.success() && (gone || said.contains("access denied")), "{user}: {said}");
    gone
}

#[test]
fn fewer_rights_are_switched_on_and_off_as_the_page_says() {
    privileged!();
    let host = Host::new();
    let mut site = Site::new(&host, Kind::DbusDaemon);
    site.install();
    let send = site.allow();
    let send = send.last().expect("a line that sends a packet");
    let [show, destroy] = commands("See that it works");
    let by_member = format!("virsh --connect qemu:///system destroy {DOMAIN}");

    wait_for_rights(&site, &show, "not restricted");
    let libvirt = site.debian.sh("getent group libvirt | cut -d: -f3");
    assert_eq!(groups(&site), libvirt.trim());
    site.wake(send);
    assert!(destroys(&site, "root", &destroy), "without the driver it may do everything");
    std::thread::sleep(std::time::Duration::from_secs(6));

    let [switch_on] = commands("Switch it on");
    site.debian.sh(&switch_on);
    for rebooted in [false, true] {
        if rebooted {
            site.debian.reboot();
        }
        wait_for_rights(&site, &show, "restricted by libvirt's access driver");
        assert_eq!(groups(&site), "");
        site.wake(send);
        assert!(!destroys(&site, "root", &destroy), "rebooted: {rebooted}");
        assert!(destroys(&site, MEMBER, &by_member), "the second rule keeps the group's rights");
        std::thread::sleep(std::time::Duration::from_secs(6));
    }

    // Without that rule.
    site.debian.sh("rm /etc/polkit-1/rules.d/50-libvirt-group.rules && systemctl restart polkit");
    site.wake(send);
    assert!(!destroys(&site, MEMBER, &by_member));
    let output = site.shell(STRANGER, &by_member).output().expect("sh runs");
    assert!(!output.status.success(), "{output:?}");
    site.switch_off();

    let [go_back] = commands("Go back");
    site.debian.sh(&go_back);
    wait_for_rights(&site, &show, "not restricted");
    assert_eq!(groups(&site), libvirt.trim());
    site.wake(send);
    assert!(destroys(&site, MEMBER, &by_member));
    assert_eq!(site.debian.sh("systemctl --failed --no-legend --plain"), "");
}
