//! Errors as the API server reports them: a `Status` object.

use serde_json::{Value, json};

/// An error reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The HTTP status.
    pub code: u16,
    /// The machine-readable reason, such as `Conflict`.
    pub reason: &'static str,
    /// The sentence for people.
    pub message: String,
    /// The `Retry-After` header, in seconds.
    pub retry_after: Option<u32>,
}

impl Failure {
    /// An error with this code and message. The reason follows from the code.
    #[must_use]
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        let reason = match code {
            400 => "BadRequest",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "NotFound",
            409 => "Conflict",
            410 => "Expired",
            415 => "UnsupportedMediaType",
            422 => "Invalid",
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            504 => "Timeout",
            _ => "InternalError",
        };
        Self { code, reason, message: message.into(), retry_after: None }
    }

    /// Adds a `Retry-After` header.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    pub(crate) fn not_found(resource: &str, name: &str) -> Self {
        Self::new(404, format!("{resource} \"{name}\" not found"))
    }

    pub(crate) fn exists(resource: &str, name: &str) -> Self {
        Self { reason: "AlreadyExists", ..Self::new(409, format!("{resource} \"{name}\" already exists")) }
    }

    /// An update of an object that another client has changed in the meantime.
    pub(crate) fn stale(resource: &str, name: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {resource} \"{name}\": the object has been modified; please apply your \
             changes to the latest version and try again"
        );
        Self::new(409, message)
    }

    /// A revision that is no longer available.
    pub(crate) fn expired(requested: u64, oldest: u64) -> Self {
        Self::new(410, format!("too old resource version: {requested} ({oldest})"))
    }

    /// The `Status` object.
    #[must_use]
    pub fn body(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let (Some(seconds), Some(status)) = (self.retry_after, status.as_object_mut()) {
            status.insert("details".to_owned(), json!({ "retryAfterSeconds": seconds }));
        }
        status
    }
}
