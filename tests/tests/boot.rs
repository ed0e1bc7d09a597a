//! What the README tells an administrator to do, word for word, on a Debian that has really booted.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may stop where it stands")]

use std::process::Command;
use std::time::Duration;

use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::Debian;
use wakevirt_tests::host::{Host, succeed};
use wakevirt_tests::libvirtd::qemu_domain;
use wakevirt_tests::net::Peer;
use wakevirt_tests::{package, privileged, readme, wait};

/// The domain that the README speaks of.
const DOMAIN: &str = "win11";
const MAC: &str = "52:54:00:12:34:56";

/// Where the administrator has built the package.
const CHECKOUT: &str = "/root/wakevirt";

/// Who is on the Debian besides root.
const MEMBER: &str = "member";
const STRANGER: &str = "stranger";

/// A Debian with libvirt and one domain that is off, behind a bridge.
struct Site<'host> {
    debian: Debian<'host>,
    /// The other machine, on the uplink.
    lan: Peer<'host>,
}

impl<'host> Site<'host> {
    fn new(host: &'host Host, bus: Kind) -> Self {
        host.bridge("br0");
        let lan = host.veth("enp1s0");
        host.sh("ip link set enp1s0 master br0 && ip address add 192.168.1.10/24 brd + dev br0");
        lan.address("192.168.1.7/24");
        let mut debian = Debian::new(host, bus);
        debian.boot();
        debian.sh(&format!(
            "useradd --user-group --groups libvirt {MEMBER}
             useradd --user-group {STRANGER}"
        ));
        debian.write("/root/win11.xml", &qemu_domain(DOMAIN, MAC, "br0"));
        debian.sh("virsh --quiet --connect qemu:///system define /root/win11.xml");
        Self { debian, lan }
    }

    /// Does what "Install" says, but for the build, which was done before.
    fn install(&self) {
        let package = package::built();
        let name = package.file_name().expect("a package has a name").to_string_lossy().into_owned();
        self.debian.sh(&format!("mkdir -p {CHECKOUT}/target/debian"));
        self.debian.copy(&package, &format!("{CHECKOUT}/target/debian/{name}"));
        let commands = readme::commands("Install");
        let [build, install] = commands.as_slice() else { panic!("build and install, not {commands:?}") };
        assert_eq!(build, "make deb\n");
        self.debian.sh(&format!("cd {CHECKOUT}\n{install}"));
    }

    fn state(&self) -> String {
        self.debian.sh(&format!("virsh --quiet --connect qemu:///system domstate {DOMAIN}")).trim().to_owned()
    }

    /// Sends a packet as the README says, by one of its lines.
    fn send(&self, line: &str) {
        self.lan.sh(line);
        let runs = wait::within(wait::PATIENCE, || (self.state() == "running").then_some(()));
        let journal = || self.debian.journal("wakevirt-capture") + &self.debian.journal("wakevirt-actor");
        assert!(runs.is_some(), "after `{line}` the domain is {}:\n{}", self.state(), journal());
    }

    /// Switches the domain off, and waits until a packet may wake it again.
    fn switch_off(&self) {
        self.debian.sh(&format!("virsh --quiet --connect qemu:///system destroy {DOMAIN}"));
        // The cool-down begins when the domain runs, and is 5 s.
        std::thread::sleep(Duration::from_secs(6));
    }

    fn called_by(&self, user: &str, line: &str) -> Command {
        let mut command = match user {
            "root" => self.debian.command("sh"),
            user => self.debian.command_as(user, "sh"),
        };
        command.args(["-euc", line]);
        command
    }
}

/// The whole way with this program as the system bus.
fn from_the_readme_to_a_running_domain(bus: Kind) {
    let host = Host::new();
    let mut site = Site::new(&host, bus);
    site.install();

    let first_wake = readme::commands("The first wake");
    let [allow, send] = first_wake.as_slice() else { panic!("allow and send, not {first_wake:?}") };
    assert!(site.debian.sh(allow).contains(MAC));
    for line in send.lines() {
        site.send(line);
        site.switch_off();
    }

    site.debian.reboot();
    assert_eq!(site.state(), "shut off");
    for line in send.lines() {
        site.send(line);
        site.switch_off();
    }

    let by_hand = readme::commands("Waking by hand").concat();
    for user in ["root", MEMBER] {
        for line in by_hand.lines() {
            assert_eq!(succeed(&mut site.called_by(user, line)), "s \"started\"\n", "{user}: {line}");
            assert_eq!(site.state(), "running");
            site.debian.sh(&format!("virsh --quiet --connect qemu:///system destroy {DOMAIN}"));
        }
    }
    for line in by_hand.lines() {
        let output = site.called_by(STRANGER, line).output().expect("sh runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("not allowed"), "{STRANGER}: {line}: {said}");
        assert_eq!(site.state(), "shut off");
    }

    site.debian.sh("rm /etc/wakevirt/actor.d/win11.toml && systemctl reload wakevirt-actor");
    site.debian.sh(&readme::commands("A domain that allows itself").concat());
    std::thread::sleep(Duration::from_secs(6));
    site.send(send.lines().next().expect("a line that sends"));

    assert_eq!(site.debian.sh("systemctl --failed --no-legend --plain"), "");
}

#[test]
fn on_dbus_daemon_it_works_as_the_readme_says() {
    privileged!();
    from_the_readme_to_a_running_domain(Kind::DbusDaemon);
}

#[test]
fn on_dbus_broker_it_works_as_the_readme_says() {
    privileged!();
    from_the_readme_to_a_running_domain(Kind::DbusBroker);
}
