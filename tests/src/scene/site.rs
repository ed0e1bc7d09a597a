//! A booted Debian with libvirt and one domain behind a bridge, connected to another machine. Tests install wakevirt as
//! the README says.

use std::process::Command;
use std::time::Duration;

use crate::bus::Kind;
use crate::debian::Debian;
use crate::debian::package;
use crate::host::Host;
use crate::libvirt::{QEMU, qemu_domain};
use crate::network::Peer;
use crate::project::readme;
use crate::wait;

/// The domain of the README's example.
pub const DOMAIN: &str = "win11";
/// Its MAC address.
pub const MAC: &str = "52:54:00:12:34:56";

/// A member of the group libvirt.
pub const MEMBER: &str = "member";
/// A user without privileges.
pub const UNPRIVILEGED: &str = "unprivileged";

/// The directory in which the package was built.
const CHECKOUT: &str = "/root/wakevirt";

/// Waits until the cool-down of a domain ends: 5 s by default.
pub fn wait_for_cool_down() {
    std::thread::sleep(Duration::from_secs(6));
}

/// A booted Debian with one domain that is shut off. See the [documentation of the module](self).
#[derive(Debug)]
pub struct Site<'host> {
    /// The Debian system.
    pub debian: Debian<'host>,
    /// The other machine.
    pub lan: Peer<'host>,
}

impl<'host> Site<'host> {
    /// Boots it, without wakevirt installed.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn new(host: &'host Host, bus: Kind) -> Self {
        host.bridge("br0");
        let lan = host.veth("enp1s0");
        host.sh("ip link set enp1s0 master br0 && ip address add 192.168.1.10/24 brd + dev br0");
        lan.address("192.168.1.7/24");
        let mut debian = Debian::new(host, bus);
        debian.boot();
        debian.sh(&format!(
            "useradd --user-group --groups libvirt {MEMBER}
             useradd --user-group {UNPRIVILEGED}"
        ));
        debian.write("/root/domain.xml", &qemu_domain(DOMAIN, MAC, "br0"));
        let site = Self { debian, lan };
        site.virsh("define /root/domain.xml");
        site
    }

    /// Runs the commands in "Install" of the README, except the build.
    ///
    /// # Panics
    /// If they fail, or the section has other commands.
    pub fn install(&self) {
        let package = package::built();
        let name = package.file_name().expect("a file name").to_string_lossy().into_owned();
        self.debian.sh(&format!("mkdir -p {CHECKOUT}/target/debian"));
        self.debian.copy(&package, &format!("{CHECKOUT}/target/debian/{name}"));
        let commands = readme::commands("Install");
        let [build, install] = commands.as_slice() else { panic!("build and install, not {commands:?}") };
        assert_eq!(build, "make deb\n");
        self.debian.sh(&format!("cd {CHECKOUT}\n{install}"));
    }

    /// Runs the commands in "First wake" of the README on the host. Returns those for the other machine, which send a
    /// packet.
    ///
    /// # Panics
    /// If they fail, or the section has other commands.
    #[must_use]
    pub fn allow(&self) -> Vec<String> {
        let commands = readme::commands("First wake");
        let [allow, send] = commands.as_slice() else { panic!("allow and send, not {commands:?}") };
        let output = self.debian.sh(allow);
        assert!(output.contains(MAC), "the output does not contain the domain's MAC address: {output}");
        send.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    /// Runs a command of virsh(1) as root, and returns its output.
    ///
    /// # Panics
    /// If it fails.
    pub fn virsh(&self, command: &str) -> String {
        self.debian.sh(&format!("virsh --quiet --connect {QEMU} {command}")).trim().to_owned()
    }

    /// The state of the domain, in the words of virsh(1).
    #[must_use]
    pub fn state(&self) -> String {
        self.virsh(&format!("domstate {DOMAIN}"))
    }

    /// Runs a shell command on the other machine that sends a packet, and waits until the domain runs.
    ///
    /// # Panics
    /// If it does not run.
    pub fn wake(&self, line: &str) {
        // libvirt reports "running" before the start is complete. So this waits for the actor's log.
        let started = || self.debian.journal("wakevirt-actor").matches("started: domain").count();
        let earlier = started();
        self.lan.sh(line);
        let woken = wait::within(wait::TIMEOUT, || (started() > earlier).then_some(()));
        let journal = || self.debian.journal("wakevirt-capture") + &self.debian.journal("wakevirt-actor");
        assert!(woken.is_some(), "after `{line}` the domain is {}:\n{}", self.state(), journal());
        assert_eq!(self.state(), "running", "{}", journal());
    }

    /// Switches the domain off, and waits until the cool-down ends.
    pub fn switch_off(&self) {
        self.virsh(&format!("destroy {DOMAIN}"));
        wait_for_cool_down();
    }

    /// A command that runs a shell script as this user, who can be root.
    #[must_use]
    pub fn shell(&self, user: &str, line: &str) -> Command {
        let mut command = match user {
            "root" => self.debian.command("sh"),
            user => self.debian.command_as(user, "sh"),
        };
        command.args(["-euc", line]);
        command
    }
}
