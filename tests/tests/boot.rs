//! Runs the commands from the README and from pages in docs/, unchanged, on a booted Debian system.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::Debian;
use wakevirt_tests::host::{Host, succeed};
use wakevirt_tests::project::readme;
use wakevirt_tests::scene::site::{DOMAIN, FirstWake, MEMBER, Site, UNPRIVILEGED, wait_for_cool_down};
use wakevirt_tests::{privileged, wait};

/// Runs the README's commands with this implementation of the system bus.
fn readme_commands_work(bus: Kind) {
    let host = Host::new();
    let mut site = Site::new(&host, bus);
    site.install();
    let senders = site.allow();
    assert_eq!(senders.len(), 2, "expected etherwake and wakeonlan: {senders:?}");

    let FirstWake { send, status, .. } = FirstWake::documented();
    site.wake_from_host(&send);
    compare_status(&site.debian.sh(&format!("NO_COLOR=1 script --quiet --command '{status}' /dev/null")));
    site.switch_off();

    wake_by_each(&site, &senders);
    site.debian.reboot();
    assert_eq!(site.state(), "shut off");
    wake_by_each(&site, &senders);
    check_callers(&site);

    site.debian.sh("wakevirtctl forbid win11");
    let opt_in = readme::commands_of("docs/CONFIGURATION.md", "Domain metadata").concat();
    succeed(&mut site.shell(MEMBER, &opt_in));
    wait_for_cool_down();
    senders.iter().take(1).for_each(|sender| site.wake(sender));
    // The actor logged this only once: after the rule was removed, and before the metadata allowed the domain.
    site.debian.sh("systemctl restart wakevirt-actor");
    let log = || site.debian.journal("wakevirt-actor");
    wait::until_true("the actor to list the domain", || log().contains("packets can wake 1 domain"));
    assert_eq!(log().matches("no packet can wake a domain: no rule is configured").count(), 1, "{}", log());
    assert_eq!(site.debian.sh("systemctl --failed --no-legend --plain"), "");
}

/// Compares the output of `wakevirtctl status` on a terminal with the output in the README. Times and counters can
/// differ.
fn compare_status(output: &str) {
    let documented = readme::output("First wake");
    let labels = |text: &str| -> Vec<String> {
        let rows = text.lines().map(str::trim).take_while(|line| !line.is_empty());
        rows.filter_map(|row| row.split_whitespace().next()).map(str::to_owned).collect()
    };
    assert_eq!(labels(output), labels(&documented), "{output}");
    for row in [
        "running, version",
        "qemu:///system connected",
        "1 allowed",
        "TIME ",
        "OUTCOME  DOMAIN",
        "win11   it was shut off",
    ] {
        assert!(output.contains(row) && documented.contains(row), "{row}: {output}");
    }
}

/// Wakes the domain with each of these commands, which send a packet, and switches it off again.
fn wake_by_each(site: &Site<'_>, senders: &[String]) {
    for sender in senders {
        site.wake(sender);
        site.switch_off();
    }
}

/// Checks that the calls in the section "Wake a domain" of docs/DBUS.md work only for the users that the page names.
fn check_callers(site: &Site<'_>) {
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

#[test]
fn the_example_starts_a_systemd_unit_for_a_packet() {
    privileged!();
    let host = Host::new();
    let lan = host.veth("enp1s0");
    let mut debian = Debian::new(&host, Kind::DbusDaemon);
    debian.install();
    debian.boot();
    debian.write(
        "/etc/systemd/system/jellyfin.service",
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n",
    );
    debian.sh("systemctl start wakevirt-capture");
    let commands = readme::commands_of("docs/DBUS.md", "Wake other things").concat();
    // The Debian tree already contains the packages.
    let commands: String = commands
        .lines()
        .filter(|line| !line.starts_with("apt-get"))
        .fold(String::new(), |all, line| all + line + "\n");
    debian.sh(&commands);
    wait::until_true("the example to receive packets", || {
        debian.journal("wakevirt-commands").contains("waiting for packets")
    });

    lan.etherwake("02:00:00:00:00:01", &[]);

    wait::until_true("the unit to be active", || {
        debian
            .command("systemctl")
            .args(["is-active", "--quiet", "jellyfin.service"])
            .status()
            .is_ok_and(|status| status.success())
    });
}
