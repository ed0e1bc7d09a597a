//! A journal socket: "Native Journal Protocol" in the documentation of systemd.

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
    /// If that fails, for example because the socket exists.
    #[must_use]
    pub fn start(host: &Host) -> Self {
        let path = host.path(SOCKET);
        std::fs::create_dir_all(path.parent().expect("a parent directory")).expect("a directory in /run");
        Self(MessageSocket::bind(&path, |lines, entry| {
            let fields = fields(entry)
                .into_iter()
                .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value).escape_debug()));
            lines.push(fields.collect::<Vec<_>>().join(" | ") + " |");
        }))
    }

    /// The received entries, one for each line: `FIELD=value | FIELD=value |`. Values are escaped.
    #[must_use]
    pub fn entries(&self) -> &Lines {
        self.0.lines()
    }
}

/// The fields of an entry. A field is `NAME=value`, or the name, the length of the value in 8 bytes, and the value.
fn fields(entry: &[u8]) -> Vec<(String, &[u8])> {
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
            let (length, after) = after.split_first_chunk().expect("a length");
            let length = usize::try_from(u64::from_le_bytes(*length)).expect("a length that fits");
            let (value, after) = after.split_at_checked(length).expect("a complete value");
            fields.push((name(line), value));
            rest = after.strip_prefix(b"\n").expect("the end of the value");
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms_of_a_field() {
        let entry = b"A=1\nB\n\x03\0\0\0\0\0\0\0x\ny\nC=\n";
        let expected: [(&str, &[u8]); 3] = [("A", b"1"), ("B", b"x\ny"), ("C", b"")];
        assert_eq!(fields(entry), expected.map(|(name, value)| (name.to_owned(), value)));
    }
}
