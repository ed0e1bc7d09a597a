//! The caller of doctor, who runs the commands that it prints.

use crate::quoting::quote;

/// The caller of doctor, who runs the commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// UID 0.
    Root,
    /// Somebody else, who needs sudo(8) for the system's services.
    User,
}

impl Caller {
    /// A command that needs root. It is a single program, or a list that a shell runs.
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
    fn asks_for_root() {
        assert_eq!(Caller::Root.as_root("a && b"), "a && b");
        assert_eq!(Caller::User.as_root("systemctl start x"), "sudo systemctl start x");
        assert_eq!(Caller::User.as_root("a && b 'c'"), r"sudo sh -c 'a && b '\''c'\'''");
    }
}
