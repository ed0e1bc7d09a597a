//! A host with libvirt's access driver: docs/RESTRICTED.md.

use crate::bus::polkitd::Polkitd;
use crate::bus::{Bus, Kind};
use crate::host::{Host, User, project};
use crate::libvirt::{Libvirtd, QEMU, RULE, install_polkit, qemu_domain_with};

/// A host whose libvirtd asks polkit about each call. See the [documentation of the module](self).
#[derive(Debug)]
pub struct Restricted<'host> {
    host: &'host Host,
    /// The libvirtd.
    pub libvirtd: Libvirtd<'host>,
    /// The polkitd, which authorises calls to libvirt.
    pub polkitd: Polkitd<'host>,
    _bus: Bus<'host>,
}

impl<'host> Restricted<'host> {
    /// Creates the `br0` bridge, and starts the bus, polkitd with the shipped rule, and libvirtd.
    ///
    /// # Panics
    /// If a program does not start.
    #[must_use]
    pub fn new(host: &'host Host) -> Self {
        host.bridge("br0");
        let mut polkitd = install_polkit(host);
        let bus = Bus::start(host, Kind::DbusDaemon);
        polkitd.start();
        let libvirtd = Libvirtd::start_restricted(host);
        Self { host, libvirtd, polkitd, _bus: bus }
    }

    /// Runs a virsh(1) command as root, and returns its output.
    ///
    /// # Panics
    /// If it fails.
    pub fn virsh_as_root(&self, line: &str) -> String {
        self.libvirtd.virsh(QEMU, &line.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs a virsh(1) command as this user on a terminal, because some commands need one. Returns the output.
    ///
    /// # Errors
    /// The output, if the command fails.
    ///
    /// # Panics
    /// If script(1) cannot be run.
    pub fn virsh(&self, user: User, line: &str) -> Result<String, String> {
        let line = format!("virsh -q -c {QEMU} {line}");
        let output = self.host.command_as(user, "script").args(["-qec", &line, "/dev/null"]).output();
        let output = output.expect("script runs");
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() { Ok(text) } else { Err(text) }
    }

    /// Checks that libvirt denies each of these commands to this user.
    ///
    /// # Panics
    /// If libvirt allows one.
    pub fn assert_denied(&self, user: User, lines: &[&str]) {
        for line in lines {
            let result = self.virsh(user, line);
            let denied = result.as_ref().is_err_and(|error| error.contains("access denied"));
            assert!(denied, "{user:?}: {line}: {result:?}");
        }
    }

    /// Defines a QEMU domain with only these devices.
    ///
    /// # Panics
    /// If libvirt rejects it.
    pub fn define(&self, name: &str, devices: &str) {
        self.libvirtd.define(QEMU, &qemu_domain_with(name, devices));
    }

    /// Writes the XML to a file, and runs a virsh(1) command with that file as its argument, as root.
    ///
    /// # Panics
    /// If it fails.
    pub fn virsh_as_root_with(&self, command: &str, xml: &str) {
        self.host.write("/run/object.xml", xml);
        self.virsh_as_root(&format!("{command} /run/object.xml"));
    }

    /// Replaces the content of the shipped rules file, and restarts polkit.
    ///
    /// # Panics
    /// If polkit does not start again.
    pub fn replace_rule(&mut self, script: &str) {
        let name = RULE.rsplit_once('/').map_or(RULE, |(_, name)| name);
        self.host.write(&format!("/usr/share/polkit-1/rules.d/{name}"), script);
        self.restart_polkit();
    }

    /// Restarts polkit, so that it reads its rules again.
    ///
    /// # Panics
    /// If it does not start again.
    pub fn restart_polkit(&mut self) {
        self.polkitd.stop();
        self.polkitd.start();
    }
}

/// The content of one of this project's files.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn shipped(path: &str) -> String {
    std::fs::read_to_string(project().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
