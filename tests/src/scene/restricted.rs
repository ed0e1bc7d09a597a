//! A host on which libvirt's access driver is on, as docs/RESTRICTED.md says.

use crate::bus::polkitd::Polkitd;
use crate::bus::{Bus, Kind};
use crate::host::{Host, User, project};
use crate::libvirt::{Libvirtd, QEMU, RULE, install_polkit, qemu_domain_with};

/// A host with a libvirtd that asks polkit about each call. See the [module's documentation](self).
#[derive(Debug)]
pub struct Restricted<'host> {
    host: &'host Host,
    /// libvirt.
    pub libvirtd: Libvirtd<'host>,
    /// It decides who may do what with libvirt.
    pub polkitd: Polkitd<'host>,
    _bus: Bus<'host>,
}

impl<'host> Restricted<'host> {
    /// Starts the bus, polkitd and libvirtd, with the shipped rule. There is a bridge `br0`.
    ///
    /// # Panics
    /// If anything does not start.
    #[must_use]
    pub fn new(host: &'host Host) -> Self {
        host.bridge("br0");
        let mut polkitd = install_polkit(host);
        let bus = Bus::start(host, Kind::DbusDaemon);
        polkitd.start();
        let libvirtd = Libvirtd::start_restricted(host);
        Self { host, libvirtd, polkitd, _bus: bus }
    }

    /// Runs a line of virsh(1) as root, and returns what it wrote.
    ///
    /// # Panics
    /// If it fails.
    pub fn root(&self, line: &str) -> String {
        self.libvirtd.virsh(QEMU, &line.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs a line of virsh(1) as this user, on a terminal, which some of its commands need. Returns what it
    /// wrote.
    ///
    /// # Errors
    /// What it wrote, if it fails.
    ///
    /// # Panics
    /// If script(1) does not run.
    pub fn virsh(&self, user: User, line: &str) -> Result<String, String> {
        let line = format!("virsh -q -c {QEMU} {line}");
        let output = self.host.command_as(user, "script").args(["-qec", &line, "/dev/null"]).output();
        let output = output.expect("script runs");
        let wrote = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() { Ok(wrote) } else { Err(wrote) }
    }

    /// Checks that libvirt refuses each of these lines to this user, and says so.
    ///
    /// # Panics
    /// If it does not.
    pub fn assert_refused(&self, user: User, lines: &[&str]) {
        for line in lines {
            let result = self.virsh(user, line);
            let refused = result.as_ref().is_err_and(|error| error.contains("access denied"));
            assert!(refused, "{user:?}: {line}: {result:?}");
        }
    }

    /// Defines a domain of QEMU, diskless but for these devices.
    ///
    /// # Panics
    /// If libvirt refuses it.
    pub fn define(&self, name: &str, devices: &str) {
        self.libvirtd.define(QEMU, &qemu_domain_with(name, devices));
    }

    /// Writes a file in /run, and has virsh(1) read it: `command FILE`.
    ///
    /// # Panics
    /// If it fails.
    pub fn root_with(&self, command: &str, xml: &str) {
        self.host.write("/run/object.xml", xml);
        self.root(&format!("{command} /run/object.xml"));
    }

    /// Replaces the rules file that this project ships by another text, and has polkit read it.
    ///
    /// # Panics
    /// If polkit does not start again.
    pub fn replace_rule(&mut self, script: &str) {
        let name = RULE.rsplit_once('/').map_or(RULE, |(_, name)| name);
        self.host.write(&format!("/usr/share/polkit-1/rules.d/{name}"), script);
        self.restart_polkit();
    }

    /// Has polkit read its rules again.
    ///
    /// # Panics
    /// If it does not start again.
    pub fn restart_polkit(&mut self) {
        self.polkitd.stop();
        self.polkitd.start();
    }
}

/// The text of a file of this project.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn shipped(path: &str) -> String {
    std::fs::read_to_string(project().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
