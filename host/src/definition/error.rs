//! Why a definition is rejected.

use wakevirt_protocol::host::MAX_XML;

/// Why a domain's XML cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// Longer than [`MAX_XML`], or the hook could not pass it.
    #[error("the definition is empty or longer than {MAX_XML} bytes")]
    Length,
    /// Not well-formed, or with a document type.
    #[error("the definition is not well-formed XML: {0}")]
    Syntax(String),
    /// Not a domain.
    #[error("the definition is not that of a domain: its root element is not <domain>")]
    NotADomain,
    /// A value that is not valid or beyond a limit.
    #[error("{element} in the definition: {problem}")]
    Value {
        /// The element, such as `<memory>`.
        element: &'static str,
        /// What is wrong.
        problem: String,
    },
}
