//! A journal socket: "Native Journal Protocol" in systemd's documentation.

use crate::host::Host;
use crate::process::lines::Lines;
use crate::process::socket::MessageSocket;

/// The path of the journal's socket.
const SOCKET: &str = "/run/systemd/journal/socket";

/// A replacement for systemd-journald on a host, until it is dropped.
#[derive(Debug)]
pub struct Journal(MessageSocket);

impl Journal {
    /// Opens the journal's socket on the host.
    ///
    /// # Panics
    /// If the socket cannot be opened, for example because it exists.
    #[must_use]
    pub fn start(host: &Host) -> Self {
        let path = host.path(SOCKET);
        std::fs::create_dir_all(path.parent().expect("a parent directory")).expect("a directory in /run");
        Self(MessageSocket::bind(&path, |lines, entry| {
            let fields = match fields(entry) {
                Ok(fields) => fields,
                // Other programs can truncate their entries; an entry from a service under test must be complete.
                Err(part) if !is_from_a_service(entry) => {
                    lines.push(format!("ignored an incomplete entry from another program, field {part:?}"));
                    return;
                }
                Err(part) => panic!("a service sent a malformed journal entry after {part:?}"),
            };
            let fields = fields
                .into_iter()
                .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value).escape_debug()));
            lines.push(fields.collect::<Vec<_>>().join(" | ") + " |");
        }))
    }

    /// The received entries, one per line: `FIELD=value | FIELD=value |`. Values are escaped.
    #[must_use]
    pub fn entries(&self) -> &Lines {
        self.0.lines()
    }
}

/// Whether a service under test sent this entry. Finds the field even if another field is incomplete.
fn is_from_a_service(entry: &[u8]) -> bool {
    let (key, program) = (b"SYSLOG_IDENTIFIER", b"wakevirt");
    entry.windows(key.len()).enumerate().filter(|(_, part)| part == key).any(|(at, _)| {
        let rest = entry.get(at + key.len()..).unwrap_or_default();
        // The value follows `=`, or a newline and the length in 8 bytes.
        [1, 9].iter().any(|&skip| rest.get(skip..).is_some_and(|value| value.starts_with(program)))
    })
}

/// The fields of an entry. A field is `NAME=value`, or the name, the length of the value in 8 bytes, and the value.
///
/// # Errors
/// If a value is incomplete: the name of its field.
fn fields(entry: &[u8]) -> Result<Vec<(String, &[u8])>, String> {
    let (mut fields, mut rest) = (Vec::new(), entry);
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = rest.split_at(end);
        let after = after.get(1..).unwrap_or_default();
        let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        if let Some(at) = line.iter().position(|byte| *byte == b'=') {
            let (key, value) = line.split_at(at);
            fields.push((name(key), value.strip_prefix(b"=").unwrap_or_default()));
            rest = after;
        } else {
            let (value, after) = counted(after).ok_or_else(|| name(line))?;
            fields.push((name(line), value));
            rest = after;
        }
    }
    Ok(fields)
}

/// Reads a value after its length. Returns the value and the rest of the entry.
fn counted(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, after) = text.split_first_chunk()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (value, after) = after.split_at_checked(length)?;
    Some((value, after.strip_prefix(b"\n")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms_of_a_field() {
        let entry = b"A=1\nB\n\x03\0\0\0\0\0\0\0x\ny\nC=\n";
        let expected: [(&str, &[u8]); 3] = [("A", b"1"), ("B", b"x\ny"), ("C", b"")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value)).to_vec();
        assert_eq!(fields(entry), Ok(expected));
    }

    #[test]
    fn recognizes_entries_from_the_services() {
        assert!(is_from_a_service(b"SYSLOG_IDENTIFIER\n\x0e\0\0\0\0\0\0\0wakevirt-actor\nMESSAGE\n\x03"));
        assert!(is_from_a_service(b"SYSLOG_IDENTIFIER=wakevirt-capture\n"));
        assert!(!is_from_a_service(
            b"SYSLOG_IDENTIFIER=dbus-broker\nNAME=org.wakevirt.Actor1\nMESSAGE\n\x03"
        ));
    }

    #[test]
    fn names_the_field_of_an_incomplete_value() {
        for end in [&b""[..], b"\x03\0\0", b"\x03\0\0\0\0\0\0\0x", b"\x01\0\0\0\0\0\0\0x"] {
            assert_eq!(fields(&[b"A=1\nB\n", end].concat()), Err("B".to_owned()));
        }
    }
}
