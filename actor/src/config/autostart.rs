//! The `autostart` key.

use serde::{Deserialize, Deserializer};
use wakevirt_service::config;

/// The maximum number of names.
const MAX_NAMES: usize = 256;
/// The maximum length of a name, in bytes. libvirt names files after domains (NAME_MAX, limits.h(0p)).
const MAX_NAME: usize = 255;

/// The name or UUID of a domain. It is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Name(pub String);

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a name is empty; write the name or UUID of a domain, such as \"win11\"".to_owned());
        }
        config::check_text(&text, MAX_NAME).map(|()| Self(text))
    }
}

pub(super) fn names<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<Name>>, D::Error> {
    config::list(input, MAX_NAMES, "names in autostart").map(Some)
}
