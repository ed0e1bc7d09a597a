//! Escapes untrusted text for a log.

use core::fmt::{self, Write as _};
use std::path::Path;

/// Displays untrusted text in double quotes.
///
/// It escapes all characters that could forge a log line or change its appearance: line breaks, escape sequences, marks
/// that reverse the text direction, and invisible and combining characters. It truncates the text after 200 characters,
/// with an ellipsis after the closing quote.
pub fn quoted(text: &str) -> impl fmt::Display {
    Escaped { text, quote: true, max: 200 }
}

/// Like [`quoted`], but without quotes, for text with an unambiguous end. Truncates the text after `max` characters.
pub fn plain(text: &str, max: usize) -> impl fmt::Display {
    Escaped { text, quote: false, max }
}

/// Displays a path: without quotes if it has only ordinary characters, so that it can be copied; otherwise like
/// [`quoted`].
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

struct Escaped<'a> {
    text: &'a str,
    quote: bool,
    max: usize,
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut characters = self.text.chars();
        if self.quote {
            f.write_char('"')?;
        }
        for character in characters.by_ref().take(self.max) {
            match character {
                '"' | '\\' if self.quote => write!(f, "\\{character}")?,
                ' '..='~' => f.write_char(character)?,
                // Escapes characters of the Unicode categories control, format, separator, unassigned and combining.
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
    fn quotes_ordinary_text_without_escapes() {
        for text in ["", "br0", "a name with spaces", "it's", "Küche", "虚拟机", "{}"] {
            assert_eq!(quoted(text).to_string(), format!("\"{text}\""));
        }
    }

    #[test]
    fn escapes_characters_that_forge_or_reorder_lines() {
        for (text, escaped) in [
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
            assert_eq!(quoted(text).to_string(), escaped);
        }
    }

    #[test]
    fn truncates_long_text() {
        let max = "ü".repeat(200);
        assert_eq!(quoted(&max).to_string(), format!("\"{max}\""));
        assert_eq!(quoted(&format!("{max}ü")).to_string(), format!("\"{max}\"…"));
        assert_eq!(plain(&format!("{max}ü"), 200).to_string(), format!("{max}…"));
    }

    #[test]
    fn quotes_paths_with_unusual_characters() {
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
    fn plain_does_not_escape_quotes_and_backslashes() {
        assert_eq!(plain("a = \"b\\c\"\u{1b}", 20).to_string(), "a = \"b\\c\"\\u{1b}");
    }
}
