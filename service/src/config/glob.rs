//! The globs that both services use. Limits on their length and on their number of groups also limit their cost.

use globset::{GlobBuilder, GlobMatcher};

/// The maximum length of a pattern, in bytes: a name of 255 bytes (NAME_MAX, limits.h(0p)) with every byte escaped.
pub const MAX_PATTERN: usize = 510;
/// The maximum number of groups of alternatives in a pattern. globset panics if they nest deeper than its regular
/// expressions support.
pub const MAX_GROUPS: usize = 16;

/// Why a string is not a valid glob.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadGlob {
    /// Longer than [`MAX_PATTERN`].
    #[error("the pattern has {0} bytes; the maximum is {MAX_PATTERN}")]
    TooLong(usize),
    /// More than [`MAX_GROUPS`] groups of alternatives.
    #[error("the pattern has {0} groups in braces; the maximum is {MAX_GROUPS}")]
    TooManyGroups(usize),
    /// Not a glob.
    #[error("not a glob ({0})")]
    Syntax(String),
}

/// Whether the string contains a special character of globs. A string without such a character is a plain name.
#[must_use]
pub fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '[', '{', '}', '\\'])
}

/// Parses a glob: `*`, `?`, `[…]`, `{…,…}`, and `\` before a literal character. `*` and `?` do not match `/`, but `**`
/// does: a virtual machine in a cluster has the name `NAMESPACE/NAME`.
///
/// # Errors
/// [`BadGlob`] describes the problem.
pub fn glob(text: &str) -> Result<GlobMatcher, BadGlob> {
    if text.len() > MAX_PATTERN {
        return Err(BadGlob::TooLong(text.len()));
    }
    // Counts all groups: which of them nest depends on escapes and classes.
    let groups = text.bytes().filter(|byte| *byte == b'{').count();
    if groups > MAX_GROUPS {
        return Err(BadGlob::TooManyGroups(groups));
    }
    let glob = GlobBuilder::new(text)
        .literal_separator(true)
        .build()
        .map_err(|error| BadGlob::Syntax(error.kind().to_string()))?;
    Ok(glob.compile_matcher())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn distinguishes_globs_from_names() {
        for (text, name, matches) in [
            ("web-*", "web-7", true),
            ("web-?", "web-10", false),
            ("{a,b{1,2}}", "b2", true),
            ("win[1]", "win1", true),
            (r"win\[1\]", "win[1]", true),
            (r"win\[1\]", "win1", false),
        ] {
            assert!(is_glob(text), "{text}");
            assert_eq!(glob(text).unwrap().is_match(name), matches, "{text} {name}");
        }
        assert!(!is_glob("a plain-name.1, (2) ]"));
    }

    #[test]
    fn rejects_long_patterns_and_too_many_groups() {
        assert!(glob(&"a".repeat(MAX_PATTERN)).is_ok());
        assert_eq!(glob(&"a".repeat(MAX_PATTERN + 1)).unwrap_err(), BadGlob::TooLong(511));
        let nested = |depth| format!("{}x{}", "{".repeat(depth), "}".repeat(depth));
        assert!(glob(&nested(MAX_GROUPS)).unwrap().is_match("x"));
        for depth in [MAX_GROUPS + 1, 200, 250] {
            assert_eq!(glob(&nested(depth)).unwrap_err(), BadGlob::TooManyGroups(depth));
        }
        for text in ["[", "{", "}", "a[b-a]", "\\"] {
            assert!(matches!(glob(text), Err(BadGlob::Syntax(_))), "{text}");
        }
    }

    proptest! {
        /// Any text is either accepted or rejected.
        #[test]
        fn never_panics(text in r"[a-c*?{}\[\],!^\\/.&~é-]{0,80}", name in "[a-cé]{0,8}") {
            if let Ok(glob) = glob(&text) {
                let _ = glob.is_match(&name);
            }
        }

        /// A name with every character escaped matches only itself.
        #[test]
        fn escaped_characters_are_literal(name in "[ -~]{1,20}", other in "[ -~]{1,20}") {
            let escaped: String = name.chars().flat_map(|character| ['\\', character]).collect();
            let glob = glob(&escaped);
            prop_assume!(!matches!(glob, Err(BadGlob::TooManyGroups(_))));
            let glob = glob.unwrap();
            prop_assert!(glob.is_match(&name));
            prop_assert_eq!(glob.is_match(&other), name == other);
        }
    }
}
