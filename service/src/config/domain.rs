//! Patterns for domains.

use globset::GlobMatcher;
use serde::Deserialize;
use uuid::Uuid;

use super::{BadGlob, glob, is_glob};

/// A domain's name, a glob that matches names, or a UUID.
///
/// The name itself always matches. The text is a glob only until a domain with exactly this name is known: then
/// `win[1]` matches that domain, and no longer `win1`.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct DomainPattern {
    text: String,
    uuid: Option<Uuid>,
    /// `None` if the text is not a glob, or is the name of a domain.
    glob: Option<GlobMatcher>,
}

impl DomainPattern {
    /// Whether the pattern matches the domain with this name and, if known, this UUID.
    #[must_use]
    pub fn matches(&self, name: &str, uuid: Option<Uuid>) -> bool {
        self.text == name
            || self.uuid.is_some_and(|own| uuid == Some(own))
            || self.glob.as_ref().is_some_and(|glob| glob.is_match(name))
    }

    /// Compares the pattern with the name of a domain. Returns whether the pattern was a glob until now, and matches
    /// only this domain from now on. The pattern does not become a glob again: the removal of a domain must not allow
    /// other domains.
    pub fn note_name(&mut self, name: &str) -> bool {
        self.text == name && self.glob.take().is_some()
    }

    /// Whether the pattern is a glob.
    #[must_use]
    pub const fn is_glob(&self) -> bool {
        self.glob.is_some()
    }

    /// The value of the key.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl PartialEq for DomainPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for DomainPattern {}

impl TryFrom<String> for DomainPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() {
            return Err(
                "an empty string does not match any domain; write a name, a glob such as \"web-*\", or a UUID"
                    .to_owned(),
            );
        }
        let glob = match glob(&text) {
            Ok(glob) => is_glob(&text).then_some(glob),
            // A name can contain any characters, as in "[win11".
            Err(BadGlob::Syntax(_)) => None,
            Err(error) => return Err(error.to_string()),
        };
        Ok(Self { uuid: Uuid::parse_str(&text).ok(), glob, text })
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn matches_a_name_a_glob_or_a_uuid() {
        let uuid = Uuid::from_u128(0x6695_eb01_f6a4_8304_79aa_97f2_502e_193f);
        for (pattern, name, known, matches) in [
            ("win11", "win11", None, true),
            ("win11", "win10", Some(uuid), false),
            ("win*", "win10", None, true),
            ("6695eb01-f6a4-8304-79aa-97f2502e193f", "a", Some(uuid), true),
            ("6695EB01-F6A4-8304-79AA-97F2502E193F", "a", Some(uuid), true),
            ("6695eb01-f6a4-8304-79aa-97f2502e193f", "a", None, false),
        ] {
            let parsed = DomainPattern::try_from(pattern.to_owned()).unwrap();
            assert_eq!(parsed.matches(name, known), matches, "{pattern} {name}");
        }
    }

    #[test]
    fn rejects_invalid_patterns() {
        for text in [String::new(), "x".repeat(511), "{".repeat(17)] {
            assert!(DomainPattern::try_from(text).is_err());
        }
    }

    proptest! {
        /// When another domain becomes known, no domain matches that did not match before.
        #[test]
        fn more_known_domains_never_match_more(
            pattern in r"[ab\[\]{},*?!\\-]{1,6}",
            names in vec(r"[ab\[\]{},*?!-]{1,4}", 1..10),
        ) {
            let Ok(mut pattern) = DomainPattern::try_from(pattern) else { return Ok(()) };
            for known in &names {
                let before: Vec<bool> = names.iter().map(|name| pattern.matches(name, None)).collect();
                pattern.note_name(known);
                for (name, before) in names.iter().zip(before) {
                    prop_assert!(before || !pattern.matches(name, None), "{} because of {}", name, known);
                }
            }
        }
    }
}
