//! An SSH server on a booted Debian system: sshd(8), as Debian's package installs it.

use std::process::Command;

use crate::debian::Debian;
use crate::host::{project, succeed};
use crate::wait;

/// The directory of sshd's drop-ins.
pub const DROP_INS: &str = "/etc/ssh/sshd_config.d";

/// Installs the server, with a key with which root logs in as other users of the system: [`authorize`].
///
/// # Panics
/// If a step fails.
pub fn install(debian: &Debian<'_>) {
    let packages = succeed(&mut Command::new(project().join("scripts/ssh-server")));
    debian.sh("mkdir /root/ssh-server");
    for package in std::fs::read_dir(packages.trim()).expect("a directory").flatten() {
        let name = package.file_name();
        debian.copy(&package.path(), &format!("/root/ssh-server/{}", name.to_string_lossy()));
    }
    debian.sh("DEBIAN_FRONTEND=noninteractive dpkg --install /root/ssh-server/*.deb
         install -d -m 700 ~/.ssh
         ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519
         ssh-keyscan -t ed25519 127.0.0.1 >~/.ssh/known_hosts");
}

/// Allows root to log in as this user.
///
/// # Panics
/// If a step fails.
pub fn authorize(debian: &Debian<'_>, user: &str) {
    // Without PAM, sshd rejects users whose password is locked with an exclamation mark.
    debian.sh(&format!(
        "usermod --password '*' {user}
         install -d -m 700 -o {user} -g {user} /home/{user}/.ssh
         install -m 600 -o {user} -g {user} ~/.ssh/id_ed25519.pub /home/{user}/.ssh/authorized_keys"
    ));
}

/// Writes a drop-in of sshd's configuration, and waits until new connections use it.
///
/// # Panics
/// If sshd rejects it.
pub fn configure(debian: &Debian<'_>, name: &str, text: &str) {
    debian.write(&format!("{DROP_INS}/{name}"), text);
    let listening = || debian.journal("ssh").matches("Server listening on 0.0.0.0").count();
    let before = listening();
    debian.sh("sshd -t && systemctl reload ssh");
    wait::until_true("sshd to read its configuration", || listening() > before);
}

/// A command that runs a shell command as this user, in a new SSH connection.
#[must_use]
pub fn command(debian: &Debian<'_>, user: &str, line: &str) -> Command {
    let mut ssh = debian.command("ssh");
    ssh.args(["-o", "BatchMode=yes", &format!("{user}@127.0.0.1"), line]);
    ssh
}

/// Runs a shell command as this user, in a new SSH connection, and returns its output.
///
/// # Panics
/// If it fails.
pub fn run(debian: &Debian<'_>, user: &str, line: &str) -> String {
    succeed(&mut command(debian, user, line))
}
