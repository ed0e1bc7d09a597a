//! A Debian as an administrator has it: libvirt with one domain, a bridge, an uplink with another machine,
//! and wakevirt installed as the README says.

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

/// The domain that the README speaks of.
pub const DOMAIN: &str = "win11";
/// Its MAC address.
pub const MAC: &str = "52:54:00:12:34:56";

/// Somebody in group libvirt.
pub const MEMBER: &str = "member";
/// Somebody in no group that matters.
pub const UNPRIVILEGED: &str = "unprivileged";

/// Where the administrator has built the package.
const CHECKOUT: &str = "/root/wakevirt";

/// Returns when a packet may wake a domain that was woken before: the cool-down is 5 s by default.
pub fn wait_for_cool_down() {
    std::thread::sleep(Duration::from_secs(6));
}

/// A booted Debian with libvirt and one domain that is off, behind a bridge. See the
/// [module's documentation](self).
#[derive(Debug)]
pub struct Site<'host> {
    /// The Debian.
    pub debian: Debian<'host>,
    /// The other machine, on the uplink.
    pub lan: Peer<'host>,
}

impl<'host> Site<'host> {
    /// Boots it; nothing of wakevirt is there.
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

    /// Does what the README's "Install" says, but for the build, which was done before.
    ///
    /// # Panics
    /// If it fails, or says something else.
    pub fn install(&self) {
        let package = package::built();
        let name = package.file_name().expect("a package has a name").to_string_lossy().into_owned();
        self.debian.sh(&format!("mkdir -p {CHECKOUT}/target/debian"));
        self.debian.copy(&package, &format!("{CHECKOUT}/target/debian/{name}"));
        let commands = readme::commands("Install");
        let [build, install] = commands.as_slice() else { panic!("build and install, not {commands:?}") };
        assert_eq!(build, "make deb\n");
        self.debian.sh(&format!("cd {CHECKOUT}\n{install}"));
    }

    /// Does what the README's "First wake" says on the host, and returns its lines that send a packet,
    /// for the other machine.
    ///
    /// # Panics
    /// If it fails, or says something else.
    #[must_use]
    pub fn allow(&self) -> Vec<String> {
        let commands = readme::commands("First wake");
        let [allow, send] = commands.as_slice() else { panic!("allow and send, not {commands:?}") };
        let said = self.debian.sh(allow);
        assert!(said.contains(MAC), "the domain's MAC address is not shown: {said}");
        send.lines().map(str::to_owned).collect()
    }

    /// Runs a command of virsh(1) as root, and returns what it wrote.
    ///
    /// # Panics
    /// If it fails.
    pub fn virsh(&self, command: &str) -> String {
        self.debian.sh(&format!("virsh --quiet --connect {QEMU} {command}")).trim().to_owned()
    }

    /// The domain's state, in libvirt's words.
    #[must_use]
    pub fn state(&self) -> String {
        self.virsh(&format!("domstate {DOMAIN}"))
    }

    /// Sends a packet from the other machine by a line of shell, and waits until the domain runs.
    ///
    /// # Panics
    /// If it does not.
    pub fn wake(&self, line: &str) {
        // By the actor's word: libvirt says "running" before the start is complete.
        let started = || self.debian.journal("wakevirt-actor").matches("started: domain").count();
        let earlier = started();
        self.lan.sh(line);
        let woken = wait::within(wait::TIMEOUT, || (started() > earlier).then_some(()));
        let journal = || self.debian.journal("wakevirt-capture") + &self.debian.journal("wakevirt-actor");
        assert!(woken.is_some(), "after `{line}` the domain is {}:\n{}", self.state(), journal());
        assert_eq!(self.state(), "running", "{}", journal());
    }

    /// Switches the domain off, and returns when a packet may wake it again.
    pub fn switch_off(&self) {
        self.virsh(&format!("destroy {DOMAIN}"));
        wait_for_cool_down();
    }

    /// A line of shell that is to run as this user, who may be root.
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
