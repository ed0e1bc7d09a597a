//! Values in the output of `--check`, which is a valid configuration file.

use core::fmt::{self, Write as _};

/// Displays a string in the format of a configuration file: a basic string of TOML
/// (<https://toml.io/en/v1.0.0#string>).
///
/// It escapes the same characters as [`quoted`](crate::logs::quoted), but does not truncate the text.
pub fn toml_string(text: &str) -> impl fmt::Display {
    Quoted(text)
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            let number = u32::from(character);
            match character {
                '"' | '\\' => write!(f, "\\{character}")?,
                ' '..='~' => f.write_char(character)?,
                other if other.escape_debug().len() == 1 => f.write_char(other)?,
                '\0'..='\u{ffff}' => write!(f, "\\u{number:04x}")?,
                _ => write!(f, "\\U{number:08x}")?,
            }
        }
        f.write_char('"')
    }
}

/// Formats a list of strings as in a configuration file.
#[must_use]
pub fn toml_array<T: fmt::Display>(items: &[T]) -> String {
    let texts: Vec<String> = items.iter().map(|item| toml_string(&item.to_string()).to_string()).collect();
    format!("[{}]", texts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parser_reads_the_same_text() {
        let all: String = ('\0'..='\u{2fff}').chain('\u{e000}'..='\u{10ffff}').collect();
        for text in
            ["", "br0", "Küche", "虚拟机", "a\\b\"c'", "\u{202e}\u{e0001}\u{301}", &all, &"x".repeat(5000)]
        {
            let shown = format!("key = {}", toml_string(text));
            assert!(!shown.contains(char::is_control), "{shown:?}");
            let table: toml::Table = toml::from_str(&shown).unwrap();
            assert_eq!(table["key"].as_str(), Some(text));
        }
    }
}
