//! Patterns for the names of network interfaces.

use core::fmt;
use core::str::FromStr;

use globset::GlobMatcher;
use serde::{Deserialize, Deserializer};
use wakevirt_protocol::details::MAX_INTERFACE_NAME;

use super::{BadGlob, from_text, glob, is_glob};

/// The name of an interface, or a glob that matches names. A glob uses much more memory than a name.
#[derive(Debug, Clone)]
pub struct InterfacePattern {
    text: String,
    /// `None` if the text is a plain name.
    glob: Option<GlobMatcher>,
}

/// Why a string is not an interface pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadInterfacePattern {
    /// An empty string.
    #[error(
        "an empty string does not match any interface; write a name such as \"br0\", or a glob such as \"eth*\""
    )]
    Empty,
    /// It begins with `!`.
    #[error("not an interface: \"!\" cannot exclude interfaces here; write only the interfaces to match")]
    Exclusion,
    /// An invalid glob.
    #[error("{0}; write a name such as \"br0\", or a glob such as \"eth*\"")]
    Glob(#[from] BadGlob),
    /// A name that no interface can have.
    #[error(
        "not an interface: a name has at most {MAX_INTERFACE_NAME} bytes, and no white space, ':' or '/'"
    )]
    Name,
}

impl InterfacePattern {
    /// The pattern as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The name, if the pattern is not a glob.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.glob.is_none().then_some(&self.text)
    }

    /// Whether an interface with this name matches. A name can contain special characters of globs, so the text
    /// itself always matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.text == name || self.glob.as_ref().is_some_and(|glob| glob.is_match(name))
    }
}

impl FromStr for InterfacePattern {
    type Err = BadInterfacePattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(BadInterfacePattern::Empty);
        }
        if text.starts_with('!') {
            return Err(BadInterfacePattern::Exclusion);
        }
        let matcher = glob(text)?;
        let glob = is_glob(text).then_some(matcher);
        if glob.is_none() && !is_interface_name(text) {
            return Err(BadInterfacePattern::Name);
        }
        Ok(Self { text: text.to_owned(), glob })
    }
}

impl<'de> Deserialize<'de> for InterfacePattern {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        from_text(input, "the name or glob of an interface")
    }
}

impl fmt::Display for InterfacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for InterfacePattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for InterfacePattern {}

/// Whether an interface can have this name, including as an alternative name: `dev_valid_name` in the kernel's
/// net/core/dev.c.
#[must_use]
pub fn is_interface_name(name: &str) -> bool {
    (1..=MAX_INTERFACE_NAME).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.bytes().any(|byte| byte.is_ascii_whitespace() || matches!(byte, b':' | b'/' | 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> InterfacePattern {
        text.parse().unwrap()
    }

    #[test]
    fn matches_names_and_globs() {
        for (text, name, matches) in [
            ("br0", "br0", true),
            ("br0", "br01", false),
            ("en*", "enp3s0", true),
            ("br[0-3]", "br2", true),
            ("br[0-3]", "br[0-3]", true),
            ("*", "any", true),
        ] {
            assert_eq!(pattern(text).matches(name), matches, "{text} {name}");
        }
        assert_eq!(pattern("br0").name(), Some("br0"));
        assert_eq!(pattern("br*").name(), None);
        assert_eq!(pattern(&"x".repeat(127)).text().len(), 127);
    }

    #[test]
    fn rejects_impossible_names_and_invalid_globs() {
        let error = |text: &str| text.parse::<InterfacePattern>().unwrap_err();
        assert_eq!(error(""), BadInterfacePattern::Empty);
        assert_eq!(error("!br0"), BadInterfacePattern::Exclusion);
        for text in ["a name", &"x".repeat(128), "a/b", "a:1", ".."] {
            assert_eq!(error(text), BadInterfacePattern::Name, "{text:?}");
        }
        for text in ["br[0", &"{".repeat(200)] {
            assert!(matches!(error(text), BadInterfacePattern::Glob(_)), "{text:?}");
        }
    }
}
