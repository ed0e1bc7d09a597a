//! Texts from outside, made harmless for a log.

use core::fmt::{self, Write as _};
use std::path::Path;

/// Shows a text from outside in double quotes.
///
/// What could forge a log line or change how it is read (line breaks, escape sequences, marks that
/// reverse the direction, invisible and combining characters) is escaped; what goes beyond 200
/// characters is cut off, with an ellipsis behind the closing quote.
pub fn quoted(text: &str) -> impl fmt::Display {
    Shown { text, quote: true, most: 200 }
}

/// The same without quotes, for what shows by itself where it ends; cut after `most` characters.
pub fn plain(text: &str, most: usize) -> impl fmt::Display {
    Shown { text, quote: false, most }
}

/// Shows a path: as it is where it has ordinary characters alone, so that it can be copied, else as [`quoted`].
pub fn shown(path: &Path) -> impl fmt::Display {
    struct ShownPath(String);
    impl fmt::Display for ShownPath {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let ordinary = |c: char| c.is_ascii_alphanumeric() || "/._-+@%~".contains(c);
            if !self.0.is_empty() && self.0.chars().all(ordinary) {
                return f.write_str(&self.0);
            }
            quoted(&self.0).fmt(f)
        }
    }
    ShownPath(path.to_string_lossy().into_owned())
}

struct Shown<'a> {
    text: &'a str,
    quote: bool,
    most: usize,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut characters = self.text.chars();
        if self.quote {
            f.write_char('"')?;
        }
        for character in characters.by_ref().take(self.most) {
            match character {
                '"' | '\\' if self.quote => write!(f, "\\{character}")?,
                ' '..='~' => f.write_char(character)?,
                // Escapes what Unicode calls control, format, separator, unassigned or combining.
                other => write!(f, "{}", other.escape_debug())?,
            }
        }
        if self.quote {
            f.write_char('"')?;
        }
        if characters.next().is_some() { f.write_char('…') } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_what_is_harmless_as_it_is() {
        for text in ["", "br0", "a name with spaces", "it's", "Küche", "虚拟机", "{}"] {
            assert_eq!(quoted(text).to_string(), format!("\"{text}\""));
        }
    }

    #[test]
    fn escapes_what_could_forge_or_reorder() {
        for (text, shown) in [
            ("a\nb", r#""a\nb""#),
            ("\r\t\0", r#""\r\t\0""#),
            ("\u{1b}[2J", r#""\u{1b}[2J""#),
            ("\u{9b}31m", r#""\u{9b}31m""#),
            ("\u{7f}", r#""\u{7f}""#),
            ("\" mac=\"", r#""\" mac=\"""#),
            ("\\n", r#""\\n""#),
            ("\u{202e}gpj", r#""\u{202e}gpj""#),
            ("\u{2066}\u{2069}\u{200f}", r#""\u{2066}\u{2069}\u{200f}""#),
            ("\u{2028}\u{2029}\u{85}", r#""\u{2028}\u{2029}\u{85}""#),
            ("\u{200b}\u{feff}\u{a0}", r#""\u{200b}\u{feff}\u{a0}""#),
            ("e\u{301}", r#""e\u{301}""#),
            ("\u{e0041}\u{f8ff}", r#""\u{e0041}\u{f8ff}""#),
        ] {
            assert_eq!(quoted(text).to_string(), shown);
        }
    }

    #[test]
    fn cuts_what_is_too_long() {
        let most = "ü".repeat(200);
        assert_eq!(quoted(&most).to_string(), format!("\"{most}\""));
        assert_eq!(quoted(&format!("{most}ü")).to_string(), format!("\"{most}\"…"));
        assert_eq!(plain(&format!("{most}ü"), 200).to_string(), format!("{most}…"));
    }

    #[test]
    fn paths_are_quoted_where_they_are_not_ordinary() {
        assert_eq!(
            shown(Path::new("/etc/wakevirt/a-b_c.d/1.toml")).to_string(),
            "/etc/wakevirt/a-b_c.d/1.toml"
        );
        for (path, text) in [
            ("", "\"\""),
            ("/a b", "\"/a b\""),
            ("/a\nb", "\"/a\\nb\""),
            ("/a\u{1b}[2J", "\"/a\\u{1b}[2J\""),
            ("/a: error", "\"/a: error\""),
        ] {
            assert_eq!(shown(Path::new(path)).to_string(), text);
        }
    }

    #[test]
    fn plain_leaves_quotes_and_backslashes() {
        assert_eq!(plain("a = \"b\\c\"\u{1b}", 20).to_string(), "a = \"b\\c\"\\u{1b}");
    }
}
