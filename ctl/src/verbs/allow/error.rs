//! Why a rule cannot be written or removed.

use std::io;
use std::path::{Path, PathBuf};

use wakevirt_service::logs::quoted;

use crate::client;
use crate::exit::Exit;

/// Why a rule cannot be written or removed. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// The argument is empty.
    #[error("an empty name does not match any domain; give a name, a glob such as \"web-*\", or a UUID")]
    Empty,
    /// The actor would reject the rule.
    #[error("{} cannot be used in a rule: {reason}", quoted(.text))]
    Pattern {
        /// The argument.
        text: String,
        /// The cause.
        reason: String,
    },
    /// The file name of the drop-in is too long.
    #[error(
        "the file name of the drop-in would have {length} bytes; the maximum is {max}. Use the UUID of the domain, or \
         add the rule to {}", main_file(.folder).display()
    )]
    FileName {
        /// The length of the file name.
        length: usize,
        /// Its maximum.
        max: usize,
        /// The folder of the drop-in.
        folder: PathBuf,
    },
    /// No domain matches.
    #[error("no known domain matches {}; {}\"wakevirtctl list\" lists all domains, and --force skips this check", quoted(.text), suggestion(.nearest.as_deref()))]
    Unmatched {
        /// The argument.
        text: String,
        /// The most similar name.
        nearest: Option<String>,
    },
    /// It is unknown whether a domain matches.
    #[error("cannot check whether a domain matches: {0}; --force skips this check")]
    Unlisted(client::Error),
    /// The caller cannot write the file.
    #[error("changing /etc/wakevirt/actor.d requires root; run: {command}")]
    NeedsRoot {
        /// The command to run.
        command: String,
    },
    /// The home directory of the user is unknown.
    #[error(
        "cannot find the configuration of your own actor: set HOME or XDG_CONFIG_HOME to an absolute path"
    )]
    NoHome,
    /// The drop-in exists with different content.
    #[error("{} does not have the content that \"wakevirtctl allow\" writes, so it was left unchanged; edit or remove it", .0.display())]
    Edited(PathBuf),
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", .path.display())]
    File {
        /// What failed.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The actor did not reload its configuration.
    #[error("the actor did not reload its configuration, so nothing was changed: {0}")]
    Reload(client::Error),
    /// The actor has read its configuration again, but does not use the rule.
    #[error(
        "the actor does not read {}, so nothing was changed; if the actor was started with --config, add the rule to the \
         file that this option names", .0.display()
    )]
    NotRead(PathBuf),
    /// virsh(1) failed.
    #[error("{command} failed: {reason}")]
    Virsh {
        /// The command.
        command: String,
        /// The cause.
        reason: String,
    },
}

impl RuleError {
    /// The exit status.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::NeedsRoot { .. } => Exit::Denied,
            Self::Unlisted(error) => error.exit(),
            Self::Empty | Self::Pattern { .. } => Exit::Usage,
            _ => Exit::Failure,
        }
    }
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("did you mean {}? ", quoted(name))).unwrap_or_default()
}

/// The main file beside a folder of drop-ins.
fn main_file(folder: &Path) -> PathBuf {
    folder.with_extension("toml")
}
