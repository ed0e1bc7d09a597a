//! The commands of the README and its pages, word for word, on a booted Debian.
#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use wakevirt_tests::bus::Kind;
use wakevirt_tests::host::{Host, succeed};
use wakevirt_tests::project::readme;
use wakevirt_tests::scene::site::{DOMAIN, MEMBER, Site, UNPRIVILEGED, wait_for_cool_down};
use wakevirt_tests::{privileged, wait};

/// The commands of the README, with this program as the system bus.
fn readme_commands_work(bus: Kind) {
    let host = Host::new();
    let mut site = Site::new(&host, bus);
    site.install();
    let packets = site.allow();
    assert_eq!(packets.len(), 2, "etherwake and wakeonlan: {packets:?}");

    for packet in &packets {
        site.wake(packet);
        site.switch_off();
    }
    site.debian.reboot();
    assert_eq!(site.state(), "shut off");
    for packet in &packets {
        site.wake(packet);
        site.switch_off();
    }
    who_may_call(&site);

    site.debian.sh("rm /etc/wakevirt/actor.d/win11.toml && systemctl reload wakevirt-actor");
    let allow_itself = readme::commands_of("docs/CONFIGURATION.md", "Domain metadata").concat();
    succeed(&mut site.shell(MEMBER, &allow_itself));
    wait_for_cool_down();
    packets.iter().take(1).for_each(|packet| site.wake(packet));
    // Only before the domain allowed itself, nothing could be woken.
    site.debian.sh("systemctl restart wakevirt-actor");
    let log = || site.debian.journal("wakevirt-actor");
    wait::until_true("the actor to know the domain", || log().contains("1 domain may be woken"));
    assert_eq!(log().matches("no packet can wake anything").count(), 1, "{}", log());
    assert_eq!(site.debian.sh("systemctl --failed --no-legend --plain"), "");
}

/// "Wake a domain" in docs/DBUS.md works for the users that it names.
fn who_may_call(site: &Site<'_>) {
    let calls = readme::commands_of("docs/DBUS.md", "Wake a domain").concat();
    for call in calls.lines() {
        for user in ["root", MEMBER] {
            assert_eq!(succeed(&mut site.shell(user, call)), "s \"started\"\n", "{user}: {call}");
            assert_eq!(site.state(), "running");
            site.virsh(&format!("destroy {DOMAIN}"));
        }
        let output = site.shell(UNPRIVILEGED, call).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && error.starts_with("Call failed: "),
            "{UNPRIVILEGED}: {call}: {error}"
        );
        assert_eq!(site.state(), "shut off");
    }
}

#[test]
fn readme_commands_work_with_dbus_daemon() {
    privileged!();
    readme_commands_work(Kind::DbusDaemon);
}

#[test]
fn readme_commands_work_with_dbus_broker() {
    privileged!();
    readme_commands_work(Kind::DbusBroker);
}
