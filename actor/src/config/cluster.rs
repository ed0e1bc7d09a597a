//! The keys that only the program for a cluster has.

use std::time::Duration;

use serde::{Deserialize, Deserializer};
use wakevirt_service::config::{self, HumanDuration};

/// The maximum length of a label selector, in bytes.
const MAX_SELECTOR: usize = 4096;
/// The maximum number of namespaces in a list.
const MAX_NAMESPACES: usize = 1024;
/// The minimum of `start-wait`.
const MIN_START_WAIT: Duration = Duration::from_secs(1);
/// The maximum of `start-wait`.
const MAX_START_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Which virtual machines of a cluster the actor knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// A label selector for namespaces
    /// (<https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#api>). `None` selects all.
    pub namespaces: Option<String>,
    /// A label selector for virtual machines. `None` selects all.
    pub machines: Option<String>,
}

/// A label selector. The API server parses it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Selector(pub String);

impl TryFrom<String> for Selector {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err(
                "the selector is empty; write one such as \"wake=true\", or remove the key".to_owned()
            );
        }
        config::check_text(&text, MAX_SELECTOR).map(|()| Self(text))
    }
}

/// The name of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Namespace(pub String);

impl TryFrom<String> for Namespace {
    type Error = String;

    /// A DNS label: RFC 1123 section 2.1, with at most 63 bytes.
    fn try_from(text: String) -> Result<Self, String> {
        let is_label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if (1..=63).contains(&text.len()) && text.bytes().all(is_label) {
            return Ok(Self(text));
        }
        Err("not the name of a namespace: it consists of a-z, 0-9 and -, and cannot contain a glob"
            .to_owned())
    }
}

pub(super) fn namespaces<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<Namespace>>, D::Error> {
    config::list(input, MAX_NAMESPACES, "namespaces").map(Some)
}

pub(super) fn start_wait<'de, D: Deserializer<'de>>(input: D) -> Result<Option<HumanDuration>, D::Error> {
    config::duration(input, MIN_START_WAIT..=MAX_START_WAIT).map(Some)
}
