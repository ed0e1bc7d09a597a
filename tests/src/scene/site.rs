//! A booted Debian system with libvirt, and one domain behind a bridge that is connected to another machine. Tests
//! install wakevirt as the README says.

use std::process::Command;
use std::time::Duration;

use crate::bus::Kind;
use crate::debian::Debian;
use crate::debian::package;
use crate::host::Host;
use crate::libvirt::{QEMU, qemu_domain, qemu_domain_with};
use crate::network::Peer;
use crate::project::readme;
use crate::wait;

/// The domain in the README's example.
pub const DOMAIN: &str = "win11";
/// Its MAC address.
pub const MAC: &str = "52:54:00:12:34:56";

/// A member of the `libvirt` group.
pub const MEMBER: &str = "member";
/// A user without privileges.
pub const UNPRIVILEGED: &str = "unprivileged";

/// The source directory, in which the README's commands run.
const CHECKOUT: &str = "/root/wakevirt";

/// The commands in the README's "First wake" section.
#[derive(Debug)]
pub struct FirstWake {
    install: String,
    enable: String,
    allow: String,
    /// The command that sends a packet from the host itself.
    pub send: String,
    /// The command that shows the status.
    pub status: String,
    /// The commands that each send a packet from another machine.
    senders: Vec<String>,
}

impl FirstWake {
    /// Reads the commands.
    ///
    /// # Panics
    /// If the section does not have the expected commands.
    #[must_use]
    pub fn documented() -> Self {
        let blocks = readme::commands("First wake");
        let [host, senders] = blocks.as_slice() else {
            panic!("expected two blocks, for the host and for the senders, found {blocks:?}")
        };
        let lines: Vec<_> = host.lines().map(str::to_owned).collect();
        let [install, enable, allow, send, status] =
            lines.try_into().unwrap_or_else(|lines| panic!("expected five commands, found {lines:?}"));
        let senders = senders.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
        Self { install, enable, allow, send, status, senders }
    }
}

/// Waits until the cool-down of a domain ends: 5 s by default.
pub fn wait_for_cool_down() {
    std::thread::sleep(Duration::from_secs(6));
}

/// A booted Debian system with one domain that is shut off. See the [documentation of the module](self).
#[derive(Debug)]
pub struct Site<'host> {
    /// The Debian system.
    pub debian: Debian<'host>,
    /// The other machine.
    pub lan: Peer<'host>,
}

impl<'host> Site<'host> {
    /// Boots the system, without wakevirt installed.
    ///
    /// # Panics
    /// If the system does not boot.
    #[must_use]
    pub fn new(host: &'host Host, bus: Kind) -> Self {
        Self::prepared(host, bus, |_| {})
    }

    /// Boots a system like [`Self::new`]. `prepare` changes the system before it is booted.
    ///
    /// # Panics
    /// If the system does not boot.
    #[must_use]
    pub fn prepared(host: &'host Host, bus: Kind, prepare: impl FnOnce(&Debian<'_>)) -> Self {
        host.bridge("br0");
        let lan = host.veth("enp1s0");
        host.sh("ip link set enp1s0 master br0 && ip address add 192.168.1.10/24 brd + dev br0");
        lan.address("192.168.1.7/24");
        let mut debian = Debian::new(host, bus);
        prepare(&debian);
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

    /// Installs and enables wakevirt with the README's commands, and waits until the actor knows the domain.
    ///
    /// # Panics
    /// If they fail.
    pub fn install(&self) {
        let package = package::built();
        let name = package.file_name().expect("a file name").to_string_lossy().into_owned();
        self.debian.sh(&format!("mkdir -p {CHECKOUT}/target/debian"));
        self.debian.copy(&package, &format!("{CHECKOUT}/target/debian/{name}"));
        let FirstWake { install, enable, .. } = FirstWake::documented();
        self.debian.sh(&format!("cd {CHECKOUT}\n{install}\n{enable}"));
        self.debian.wait_until_domain_is_known();
    }

    /// Allows the domain with the README's command. Returns the commands that send a packet from the other machine.
    ///
    /// # Panics
    /// If the command fails.
    #[must_use]
    pub fn allow(&self) -> Vec<String> {
        let FirstWake { allow, senders, .. } = FirstWake::documented();
        let output = self.debian.sh(&allow);
        assert!(output.contains(&format!("it allows {DOMAIN}")), "{output}");
        senders
    }

    /// Runs a virsh(1) command as root, and returns its output.
    ///
    /// # Panics
    /// If it fails.
    pub fn virsh(&self, command: &str) -> String {
        self.debian.sh(&format!("virsh --quiet --connect {QEMU} {command}")).trim().to_owned()
    }

    /// Starts a network of libvirt, and creates a volume in a storage pool, also for the next boot.
    ///
    /// # Panics
    /// If a command fails.
    pub fn start_network_and_pool(&self, network: &str) {
        for line in [
            &format!("net-start {network}"),
            &format!("net-autostart {network}"),
            "pool-define-as own dir --target /var/lib/libvirt/own",
            "pool-build own",
            "pool-start own",
            "pool-autostart own",
            "vol-create-as own disk 1M",
        ] {
            self.virsh(line);
        }
    }

    /// Defines a domain like those that virt-manager defines: with a network of libvirt, a network filter, the volume
    /// that [`Self::start_network_and_pool`] creates, and more devices (XML).
    ///
    /// # Panics
    /// If it cannot be defined.
    pub fn define_with_volume(&self, name: &str, mac: &str, network: &str, more: &str) {
        let devices = format!(
            "<interface type='network'><mac address='{mac}'/><source network='{network}'/><model type='virtio'/>
               <filterref filter='no-mac-spoofing'/></interface>
             <disk type='volume' device='disk'><driver name='qemu' type='raw'/><source pool='own' volume='disk'/>
               <target dev='hda' bus='ide'/></disk>{more}"
        );
        self.debian.write(&format!("/root/{name}.xml"), &qemu_domain_with(name, &devices));
        self.virsh(&format!("define /root/{name}.xml"));
    }

    /// The state of the domain, as virsh(1) prints it.
    #[must_use]
    pub fn state(&self) -> String {
        self.virsh(&format!("domstate {DOMAIN}"))
    }

    /// Runs a shell command that sends a packet on the other machine, and waits until the domain is running.
    ///
    /// # Panics
    /// If the domain is not running within the timeout.
    pub fn wake(&self, line: &str) {
        self.wake_with(line, || drop(self.lan.sh(line)));
    }

    /// Runs a shell command that sends a packet on the host, and waits until the domain is running.
    ///
    /// # Panics
    /// If the domain is not running within the timeout.
    pub fn wake_from_host(&self, line: &str) {
        self.wake_with(line, || drop(self.debian.sh(line)));
    }

    /// Calls `send`, which runs the shell command `line`, and waits until the domain is running.
    fn wake_with(&self, line: &str, send: impl FnOnce()) {
        // libvirt reports "running" before the start is complete, so wait for the actor's log.
        let started = || self.debian.journal("wakevirt-actor").matches("started: domain").count();
        let earlier = started();
        send();
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
