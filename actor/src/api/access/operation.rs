//! The operations that require authorisation.

use crate::model::WakeTarget;

/// An operation that a caller requests.
#[derive(Debug, Clone, Copy)]
pub enum Operation<'a> {
    /// Wake a domain.
    Wake(&'a WakeTarget),
    /// Reload the configuration.
    Reload,
}
