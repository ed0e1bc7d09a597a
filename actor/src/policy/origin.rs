//! The location of a table in the configuration.

use std::path::Path;
use std::sync::Arc;

/// The file and the line in which a table of the configuration begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub file: Arc<Path>,
    /// The line, counted from 1.
    pub line: u32,
}
