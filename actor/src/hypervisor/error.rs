//! Errors of a hypervisor, for the log and for the reason of an outcome.

use wakevirt_service::logs::quoted;

/// An error of a hypervisor.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    /// The hypervisor returned an error.
    #[error("cannot {action}: {}{advice}", quoted(message))]
    Call {
        /// What was called, as a verb and its object.
        action: &'static str,
        /// The hypervisor's message.
        message: String,
        /// What to do about it, if that is known: the end of a sentence.
        advice: &'static str,
    },
    /// The domain does not exist.
    #[error("cannot {action}: {}", quoted(message))]
    NoDomain {
        /// What was called, as a verb and its object.
        action: &'static str,
        /// The hypervisor's message.
        message: String,
    },
    /// The definition of a domain cannot be parsed.
    #[error("cannot read the domain's definition: {0}")]
    Definition(String),
    /// There is no open connection.
    #[error("there is no connection")]
    NotConnected,
    /// The domains are known, but no connection for wakes opens.
    #[error("the domains are known, but no connection for wakes opens: {}", quoted(.0))]
    NoSession(String),
    /// The thread that made the call has ended.
    #[error("the call to the hypervisor was interrupted")]
    Interrupted,
}
