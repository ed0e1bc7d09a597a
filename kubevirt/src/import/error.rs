//! Errors.

use std::io;

use wakevirt_service::logs::quoted;

/// Why an import fails.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The input cannot be read, or the output not written.
    #[error("cannot read the WolConfigs or write the result: {0}")]
    Io(#[from] io::Error),
    /// The input is too large.
    #[error("the input has more than {max} bytes; import fewer WolConfigs at a time")]
    TooLarge {
        /// The limit.
        max: usize,
    },
    /// The input is not JSON.
    #[error("the input is not JSON: {0}; pass the output of `kubectl get wolconfigs -o json`")]
    NotJson(#[source] serde_json::Error),
    /// The input contains another kind of object.
    #[error(
        "the input contains an object of the kind {} in {}, not a WolConfig in \"wol.pillon.org/v1beta1\"; pass the output \
         of `kubectl get wolconfigs -o json`",
        quoted(kind),
        quoted(version)
    )]
    Kind {
        /// Its `apiVersion`.
        version: String,
        /// Its `kind`.
        kind: String,
    },
    /// The list is empty.
    #[error("the input does not contain a WolConfig")]
    Empty,
    /// A WolConfig is invalid.
    #[error("WolConfig {}: {problem}", quoted(name))]
    Config {
        /// Its name.
        name: String,
        /// What is wrong, and where.
        problem: String,
    },
    /// A limit is exceeded.
    #[error("the WolConfigs need more than {max} {what}; import fewer of them at a time")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        max: usize,
    },
}
