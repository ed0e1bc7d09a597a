//! The caller, who runs the commands that doctor and `host check` print.

use nix::unistd::geteuid;

use crate::quoting::quote;

/// The caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Caller {
    /// UID 0.
    Root,
    /// Another user, who needs sudo(8) to manage system services.
    #[default]
    User,
}

impl Caller {
    /// Who runs this process.
    #[must_use]
    pub fn current() -> Self {
        if geteuid().is_root() { Self::Root } else { Self::User }
    }

    /// Returns a command that runs this command as root. If it contains shell operators, a shell runs it.
    #[must_use]
    pub fn as_root(self, command: &str) -> String {
        let needs_shell = command.contains(['|', '>', '<', '&', ';', '$', '`']);
        match self {
            Self::Root => command.to_owned(),
            Self::User if needs_shell => format!("sudo sh -c {}", quote(command)),
            Self::User => format!("sudo {command}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_sudo_for_other_users() {
        assert_eq!(Caller::Root.as_root("a && b"), "a && b");
        assert_eq!(Caller::User.as_root("systemctl start x"), "sudo systemctl start x");
        assert_eq!(Caller::User.as_root("a && b 'c'"), r"sudo sh -c 'a && b '\''c'\'''");
    }
}
