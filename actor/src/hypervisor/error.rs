//! Hypervisor errors, for the log and for the reasons of outcomes.

use wakevirt_service::logs::quoted;

/// A hypervisor error.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    /// The hypervisor returned an error.
    #[error("cannot {action}: {}{advice}", quoted(message))]
    Call {
        /// The action that failed: a verb and its object.
        action: &'static str,
        /// The hypervisor's message.
        message: String,
        /// What to do about it, appended to the message. Empty if unknown.
        advice: &'static str,
    },
    /// The hypervisor needs another daemon for this action, which is not running.
    #[error("cannot {action}, because {daemon} is not running: {}", quoted(message))]
    Daemon {
        /// The action that failed: a verb and its object.
        action: &'static str,
        /// The name of the daemon.
        daemon: String,
        /// The hypervisor's message.
        message: String,
    },
    /// The domain does not exist.
    #[error("cannot {action}: {}", quoted(message))]
    NoDomain {
        /// The action that failed: a verb and its object.
        action: &'static str,
        /// The hypervisor's message.
        message: String,
    },
    /// The definition of a domain cannot be parsed.
    #[error("cannot read the domain's definition: {0}")]
    Definition(String),
    /// The selected namespaces of a cluster have changed, so that the domains must be listed again.
    #[error("the namespaces that namespace-selector selects have changed")]
    Scope,
    /// There is no open connection.
    #[error("not connected")]
    NotConnected,
    /// The domains were listed, but no connection for wakes can be opened.
    #[error("cannot open a connection for wakes: {}", quoted(.0))]
    NoSession(String),
    /// The thread that made the call has exited.
    #[error("the call to the hypervisor was interrupted")]
    Interrupted,
}
