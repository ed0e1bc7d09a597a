//! Quoting for shells and configuration files.

/// Quotes a word for a POSIX shell, if it needs quotes.
#[must_use]
pub fn quote(word: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "-_./:=@+,%".contains(char);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Returns the text as a TOML string, with quotes.
#[must_use]
pub fn toml_string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            char if char.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(char))),
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

/// Returns a TOML list of strings.
#[must_use]
pub fn toml_list<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    format!("[{}]", items.into_iter().map(toml_string).collect::<Vec<_>>().join(", "))
}

/// Returns the text as one word of a systemd unit, with quotes and without specifiers: systemd.syntax(7). The text must
/// not contain control characters.
#[must_use]
pub fn unit_word(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\"").replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_words_for_units() {
        assert_eq!(unit_word(r#"a "b" \ %I"#), r#""a \"b\" \\ %%I""#);
    }

    #[test]
    fn quotes_words_for_the_shell() {
        for (word, quoted) in
            [("win11", "win11"), ("", "''"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("*", "'*'")]
        {
            assert_eq!(quote(word), quoted);
        }
    }

    #[test]
    fn quotes_strings_for_toml() {
        assert_eq!(toml_string("a\"b\\\n"), r#""a\"b\\\u000A""#);
        assert_eq!(toml_list(["a", "b"]), r#"["a", "b"]"#);
    }
}
