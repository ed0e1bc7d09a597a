//! Another host with domains of its own, which a first one reaches by a cable and by SSH.

use std::process::Command;

use nix::sys::signal::{Signal, kill};

use crate::host::guard::PATH;
use crate::host::{Host, succeed};
use crate::libvirt::Libvirtd;
use crate::process::Process;
use crate::process::proc;
use crate::wait;

/// The name by which the first host knows it.
pub const NAME: &str = "other.example";

/// A user there, who may log in by a key, and do with libvirt what its group may.
pub const USER: &str = "wake";

/// The home of that user.
const HOME: &str = "/var/lib/wake";

/// The other host: a libvirtd, and an SSH server, `dropbear(8)`.
#[derive(Debug)]
pub struct SshHost<'host> {
    host: &'host Host,
    /// libvirt on the other host.
    pub libvirtd: Libvirtd<'host>,
    sshd: Option<Process>,
}

impl<'host> SshHost<'host> {
    /// Starts everything on `other`, and puts a cable between it and `first`.
    ///
    /// # Panics
    /// If anything does not start.
    #[must_use]
    pub fn start(other: &'host Host, first: &Host) -> Self {
        cable(first, other);
        first.sh(&format!("echo 192.0.2.2 {NAME} >>/etc/hosts"));
        other.sh(&format!(
            "useradd --create-home --home-dir {HOME} --shell /bin/sh --groups libvirt {USER}
             install -d -m 700 -o {USER} -g {USER} {HOME}/.ssh
             dropbearkey -t ed25519 -f /run/host-key >/dev/null"
        ));
        other.bridge("br0");
        let mut started = Self { host: other, libvirtd: Libvirtd::start(other), sshd: None };
        started.start_again();
        started
    }

    /// Lets the user log in by this key, as a line of `authorized_keys`.
    ///
    /// # Panics
    /// If there is no such user.
    pub fn authorize(&self, key: &str) {
        let file = format!("{HOME}/.ssh/authorized_keys");
        self.host.write(&file, key);
        self.host.sh(&format!("chown {USER} {file}; chmod 600 {file}"));
    }

    /// Starts the SSH server after [`Self::kill`].
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&mut self) {
        let mut dropbear = self.host.command("dropbear");
        dropbear.args(["-F", "-E", "-s", "-r", "/run/host-key", "-P", "/run/dropbear.pid"]);
        let sshd = Process::start("dropbear", &mut dropbear);
        // It writes the file when it listens.
        let listens = self.host.path("/run/dropbear.pid");
        wait::until_true("the SSH server", || listens.exists());
        self.sshd = Some(sshd);
    }

    /// Kills the SSH server, and every session.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill(&mut self) {
        let mut sshd = self.sshd.take().expect("the SSH server runs");
        let sessions = proc::children(sshd.pid());
        sshd.kill();
        for session in sessions {
            // One that has just ended is gone as well.
            let _ = kill(session, Signal::SIGKILL);
        }
        self.host.sh("rm -f /run/dropbear.pid");
    }
}

/// A cable between two hosts: 192.0.2.1 at the first one, 192.0.2.2 at the other one.
fn cable(first: &Host, other: &Host) {
    // Only the networks are theirs: the process IDs are those that this process knows.
    let ip = |host: &Host, line: &str| {
        let mut nsenter = Command::new("nsenter");
        nsenter.env("PATH", PATH).arg(format!("--net=/proc/{}/ns/net", host.init()));
        succeed(nsenter.arg("ip").args(line.split(' ')));
    };
    ip(first, &format!("link add cable1 type veth peer name cable2 netns {}", other.init()));
    for (host, end, address) in [(first, "cable1", "192.0.2.1/24"), (other, "cable2", "192.0.2.2/24")] {
        ip(host, &format!("address add {address} dev {end}"));
        ip(host, &format!("link set {end} up"));
    }
}
