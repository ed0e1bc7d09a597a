//! Which interfaces are heard on.

use core::fmt;
use core::str::FromStr;

use globset::GlobMatcher;
use serde::{Deserialize, Deserializer};
use wakevirt_protocol::details::MAX_INTERFACE_NAME;
use wakevirt_service::config::{from_text, glob, is_glob};
use wakevirt_service::logs::quoted;

use crate::config::list;
use crate::network::links::Interface;

/// A name or glob of interfaces, which includes them, or excludes them where it begins with `!`.
#[derive(Debug, Clone)]
pub struct Pattern {
    excludes: bool,
    matcher: GlobMatcher,
}

/// A text that is no name or glob of interfaces.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not the name or glob of an interface: {problem}", quoted(text))]
pub struct BadPattern {
    text: String,
    problem: String,
}

impl Pattern {
    /// Whether this is the name, or a glob for it. A name may hold characters of globs.
    fn matches(&self, name: &str) -> bool {
        self.matcher.glob().glob() == name || self.matcher.is_match(name)
    }

    /// Whether this is the plain name of one interface that is to be heard on.
    fn plain_name(&self) -> Option<&str> {
        let glob = self.matcher.glob().glob();
        (!self.excludes && !is_glob(glob)).then_some(glob)
    }
}

impl FromStr for Pattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let whole = text;
        let bad = |problem: String| BadPattern { text: whole.to_owned(), problem };
        let (excludes, text) = match text.strip_prefix('!') {
            Some(text) => (true, text),
            None => (false, text),
        };
        if text.is_empty() {
            return Err(bad("it is empty; \"*\" stands for every interface".to_owned()));
        }
        let matcher = glob(text).map_err(|error| bad(error.to_string()))?;
        let pattern = Self { excludes, matcher };
        match pattern.plain_name() {
            Some(name) if !is_interface_name(name) => Err(bad(format!(
                "a name has at most {MAX_INTERFACE_NAME} bytes, none of them white space, ':' or '/'"
            ))),
            _ => Ok(pattern),
        }
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        from_text(input, "the name or glob of an interface")
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.excludes { "!" } else { "" }, self.matcher.glob())
    }
}

/// The interfaces to be heard on.
#[derive(Debug, Clone)]
pub struct Patterns(Vec<Pattern>);

impl Patterns {
    /// These patterns. An interface is heard on if one of them includes it and none excludes it;
    /// where all of them exclude, whatever is left is included.
    #[must_use]
    pub const fn new(patterns: Vec<Pattern>) -> Self {
        Self(patterns)
    }

    /// Whether the interface is heard on: any of its names includes or excludes it.
    #[must_use]
    pub fn include(&self, interface: &Interface) -> bool {
        let (exclude, include): (Vec<&Pattern>, Vec<&Pattern>) =
            self.0.iter().partition(|pattern| pattern.excludes);
        let matches = |pattern: &&Pattern| interface.names().any(|name| pattern.matches(name));
        (include.is_empty() || include.iter().any(matches)) && !exclude.iter().any(matches)
    }

    /// Whether even an interface that vanished before its name was known is heard on.
    #[must_use]
    pub fn include_everything(&self) -> bool {
        let everything = |pattern: &Pattern| pattern.matcher.glob().glob() == "*";
        self.0.iter().all(|pattern| !pattern.excludes) && (self.0.is_empty() || self.0.iter().any(everything))
    }

    /// The plain names among them, which no interface may bear yet.
    pub fn plain_names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(Pattern::plain_name)
    }
}

impl fmt::Display for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            // None at all includes every interface, as this does.
            [] => f.write_str("[\"*\"]"),
            patterns => f.write_str(&list(patterns)),
        }
    }
}

/// Whether an interface can have this name, be it an alternative one: `dev_valid_name` in the kernel's
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

    /// An interface with these names, the first one first.
    fn called(names: &[&str]) -> Interface {
        let (name, alternatives) = names.split_first().unwrap();
        let alternatives = alternatives.iter().map(|name| (*name).to_owned()).collect();
        Interface { name: (*name).to_owned(), alternatives }
    }

    fn patterns(texts: &[&str]) -> Patterns {
        Patterns::new(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn include_what_is_included_and_not_excluded() {
        for (texts, name, included) in [
            (&["*"] as &[&str], "eth0", true),
            (&["*", "!vnet*"], "vnet3", false),
            (&["*", "!vnet*"], "br0", true),
            (&["!vnet*"], "br0", true),
            (&["!vnet*"], "vnet0", false),
            (&["br0", "en*"], "br0", true),
            (&["br0", "en*"], "enp3s0", true),
            (&["br0", "en*"], "br01", false),
            (&["br[0-3]"], "br2", true),
            (&["!br0", "br0"], "br0", false),
        ] {
            assert_eq!(patterns(texts).include(&called(&[name])), included, "{texts:?} {name}");
        }
    }

    #[test]
    fn include_and_exclude_by_alternative_names() {
        let card = called(&["eth0", "enp1s0", "enx525400000001"]);
        for (texts, included) in [
            (&["enp1s0"] as &[&str], true),
            (&["eth0"], true),
            (&["enp1*"], true),
            (&["wlan*"], false),
            (&["*", "!enp1s0"], false),
            (&["eth0", "!enx*"], false),
            (&["eth0", "!wlan*"], true),
        ] {
            assert_eq!(patterns(texts).include(&card), included, "{texts:?}");
        }
    }

    #[test]
    fn include_everything_only_without_exceptions() {
        assert!(patterns(&["*"]).include_everything());
        assert!(patterns(&["br0", "*"]).include_everything());
        assert!(!patterns(&["*", "!vnet*"]).include_everything());
        assert!(!patterns(&["br0"]).include_everything());
    }

    #[test]
    fn tell_plain_names_from_globs() {
        let patterns = patterns(&["br0", "en*", "!wlan0"]);
        assert_eq!(patterns.plain_names().collect::<Vec<_>>(), ["br0"]);
    }

    #[test]
    fn refuse_what_no_interface_can_be_called() {
        for text in ["", "!", "a name", &"x".repeat(128), "a/b", "a:1", "..", "br[0", &"{".repeat(200)] {
            assert!(text.parse::<Pattern>().is_err(), "{text:?}");
        }
    }
}
