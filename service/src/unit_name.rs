//! Names of systemd units.

/// The maximum length of a unit's name, in bytes (`UNIT_NAME_MAX` in systemd).
pub const MAX_UNIT_NAME: usize = 255;

/// Escapes a string for the name of a unit, as systemd-escape(1) does. The result is also a valid file name.
#[must_use]
pub fn systemd_escape(text: &str) -> String {
    let mut escaped = String::new();
    for (index, byte) in text.bytes().enumerate() {
        let is_plain = byte.is_ascii_alphanumeric() || b":_".contains(&byte) || (byte == b'.' && index > 0);
        match byte {
            b'/' => escaped.push('-'),
            _ if is_plain => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("\\x{byte:02x}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [(&str, &str); 7] = [
        ("win11", "win11"),
        ("my server", "my\\x20server"),
        (".hidden.1", "\\x2ehidden.1"),
        ("web-*", "web\\x2d\\x2a"),
        ("a/b\\c", "a-b\\x5cc"),
        ("Küche", "K\\xc3\\xbcche"),
        ("a:b_c@d", "a:b_c\\x40d"),
    ];

    #[test]
    fn escapes_for_file_names() {
        for (name, escaped) in NAMES {
            assert_eq!(systemd_escape(name), escaped);
        }
    }

    #[test]
    fn escapes_like_systemd_escape() {
        for (name, _) in NAMES {
            let output = std::process::Command::new("systemd-escape").arg("--").arg(name).output();
            let Ok(output) = output else { return };
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), systemd_escape(name));
        }
    }
}
