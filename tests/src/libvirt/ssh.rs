//! A second host with its own domains. The first host connects to it over SSH.

use std::process::Command;

use nix::sys::signal::{Signal, kill};

use crate::host::guard::PATH;
use crate::host::{Host, succeed};
use crate::libvirt::Libvirtd;
use crate::process::Process;
use crate::process::proc;
use crate::wait;

/// The second host's name in the first host's /etc/hosts.
pub const NAME: &str = "other.example";

/// A user on the second host, who is a member of the `libvirt` group and can log in with a key.
pub const USER: &str = "wake";

/// The home directory of that user.
const HOME: &str = "/var/lib/wake";

/// The second host, with libvirtd and an SSH server, dropbear(8).
#[derive(Debug)]
pub struct SshHost<'host> {
    host: &'host Host,
    /// The second host's libvirtd.
    pub libvirtd: Libvirtd<'host>,
    sshd: Option<Process>,
}

impl<'host> SshHost<'host> {
    /// Starts the servers on `other`, and connects the two hosts.
    ///
    /// # Panics
    /// If a program does not start.
    #[must_use]
    pub fn start(other: &'host Host, first: &Host) -> Self {
        connect(first, other);
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

    /// Allows the user to log in with this key, which has the format of `authorized_keys`.
    ///
    /// # Panics
    /// If there is no such user.
    pub fn authorize(&self, key: &str) {
        let file = format!("{HOME}/.ssh/authorized_keys");
        self.host.write(&file, key);
        self.host.sh(&format!("chown {USER} {file}; chmod 600 {file}"));
    }

    /// Starts the SSH server. This also works after [`Self::kill`].
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&mut self) {
        let mut dropbear = self.host.command("dropbear");
        dropbear.args(["-F", "-E", "-s", "-r", "/run/host-key", "-P", "/run/dropbear.pid"]);
        let sshd = Process::start("dropbear", &mut dropbear);
        // dropbear writes the file after it has opened its socket.
        let pid_file = self.host.path("/run/dropbear.pid");
        wait::until_true("the SSH server", || pid_file.exists());
        self.sshd = Some(sshd);
    }

    /// Kills the SSH server and all its sessions.
    ///
    /// # Panics
    /// If it is not running.
    pub fn kill(&mut self) {
        let mut sshd = self.sshd.take().expect("the SSH server is running");
        let sessions = proc::children(sshd.pid());
        sshd.kill();
        for session in sessions {
            // This fails if the session has just exited.
            let _ = kill(session, Signal::SIGKILL);
        }
        self.host.sh("rm -f /run/dropbear.pid");
    }
}

/// Connects two hosts. The first one has the address 192.0.2.1, the other one 192.0.2.2.
fn connect(first: &Host, other: &Host) {
    // Enters only the network namespace, because the process IDs are those of this process's PID namespace.
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
