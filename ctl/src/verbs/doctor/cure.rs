//! Commands that cure something, as a user can paste them into a shell.

/// Quotes a word for a POSIX shell, if it needs quotes.
#[must_use]
pub fn quote(word: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "-_./:=@+,%".contains(char);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A string of TOML, as in a configuration file.
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

/// The caller of doctor, who runs the commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// UID 0.
    Root,
    /// Somebody else, who needs sudo(8) for the system's services.
    User,
}

impl Caller {
    /// A command that needs root. It is a single program, or a list that a shell runs.
    #[must_use]
    pub fn as_root(self, command: &str) -> String {
        let needs_shell = command.contains(['|', '>', '<', '&', ';', '$', '`']);
        match self {
            Self::Root => command.to_owned(),
            Self::User if needs_shell => format!("sudo sh -c {}", quote(command)),
            Self::User => format!("sudo {command}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_words_for_the_shell_and_toml() {
        for (word, quoted) in
            [("win11", "win11"), ("", "''"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("*", "'*'")]
        {
            assert_eq!(quote(word), quoted);
        }
        assert_eq!(toml_string("a\"b\\\n"), r#""a\"b\\\u000A""#);
    }

    #[test]
    fn asks_for_root() {
        assert_eq!(Caller::Root.as_root("a && b"), "a && b");
        assert_eq!(Caller::User.as_root("systemctl start x"), "sudo systemctl start x");
        assert_eq!(Caller::User.as_root("a && b 'c'"), r"sudo sh -c 'a && b '\''c'\'''");
    }
}
