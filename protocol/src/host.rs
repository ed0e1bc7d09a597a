//! What crosses the boundary between libvirt's hook and wakevirt-host: files in the spool, and messages on a socket.
//!
//! The hook runs as root and parses nothing. For each event it writes one file into the spool ([`entry_name`]), sends the
//! name of the file to the service's socket, and waits for [`Reply`] messages.

use core::time::Duration;

/// The directory of the spool. It belongs to root; the service's group can read and delete its files.
pub const SPOOL: &str = "/run/wakevirt-host/spool";
/// The service's socket: `SOCK_SEQPACKET`. Only root can connect to it.
pub const SOCKET: &str = "/run/wakevirt-host/socket";

/// The maximum number of files in the spool. The hook does not add more.
pub const MAX_ENTRIES: usize = 1024;
/// The maximum size of all files in the spool, in bytes. The hook does not add a file to a spool of this size. systemd
/// limits `/run`, which contains the spool, to a fifth of the memory.
pub const MAX_BYTES: u64 = 64 << 20;
/// The maximum size of a domain's XML, in bytes: twice the size of the largest definition that libvirt's own clients can
/// send (`REMOTE_STRING_MAX` is 4 MiB). The hook drops a longer one.
pub const MAX_XML: usize = 8 << 20;
/// The maximum length of a domain's name, in bytes. libvirt uses the name in file names.
pub const MAX_NAME: usize = 4096;
/// The maximum length of a reply, in bytes.
pub const MAX_REPLY: usize = 1024;

/// How long the hook waits for the first reply. While a hook runs, libvirt delays other clients.
pub const WAIT: Duration = Duration::from_secs(2);
/// The longest time that the hook waits, if the service asks for more time.
pub const MAX_WAIT: Duration = Duration::from_secs(120);

/// The operations that the hook passes on: <https://libvirt.org/hooks.html>. The hook ignores all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Before libvirt allocates anything for the domain. A failure prevents the start.
    Prepare,
    /// The domain is running.
    Started,
    /// The domain has stopped.
    Stopped,
    /// libvirt has released everything. Also called after a failed start.
    Release,
    /// libvirt's daemon has restarted and found the domain running. A failure would kill the domain.
    Reconnect,
}

impl Operation {
    /// All operations.
    pub const ALL: [Self; 5] = [Self::Prepare, Self::Started, Self::Stopped, Self::Release, Self::Reconnect];

    /// Its name in libvirt's second argument to the hook.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Started => "started",
            Self::Stopped => "stopped",
            Self::Release => "release",
            Self::Reconnect => "reconnect",
        }
    }

    /// The operation with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.name() == name)
    }
}

/// Returns the name of an entry's file: `00000012345678901234-4711.prepare`. Names in alphabetical order are in
/// chronological order.
///
/// `time` is CLOCK_BOOTTIME; `pid` is the process ID of the hook, which distinguishes events of the same time.
#[must_use]
pub fn entry_name(time: Duration, pid: u32, operation: Operation) -> String {
    format!("{:020}-{pid}.{}", time.as_nanos(), operation.name())
}

/// Returns the operation of the entry with this file name; `None` if it is not the name of an entry.
#[must_use]
pub fn entry_operation(file: &str) -> Option<Operation> {
    let (stem, operation) = file.split_once('.')?;
    let (time, pid) = stem.split_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (time.len() == 20 && is_number(time) && is_number(pid)).then_some(())?;
    Operation::from_name(operation)
}

/// Splits the content of an entry: the domain's name, a NUL byte, and the domain's XML as libvirt passed it. The XML is
/// empty if it was too long, or not complete in time. Returns `None` if there is no NUL byte.
#[must_use]
pub fn entry_parts(content: &[u8]) -> Option<(&[u8], &[u8])> {
    let nul = content.iter().position(|byte| *byte == 0)?;
    let (name, rest) = content.split_at_checked(nul)?;
    Some((name, rest.get(1..)?))
}

/// An answer of the service to the hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The service needs more time; the hook waits at most this long for the next reply, and never longer than
    /// [`MAX_WAIT`] in total.
    Wait(Duration),
    /// The event has been handled. The hook exits with 0.
    Done,
    /// The host cannot be prepared, and the configuration requires it. The hook prints the reason, and exits with 1 if
    /// the operation is [`Operation::Prepare`].
    Refused(String),
}

impl Reply {
    /// Encodes it as a message: `W` and the time in milliseconds (32 bits, little-endian), `D`, or `R` and the reason,
    /// which is cut to fit into [`MAX_REPLY`] bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Wait(time) => {
                let milliseconds = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
                [&b"W"[..], &milliseconds.to_le_bytes()].concat()
            }
            Self::Done => b"D".to_vec(),
            Self::Refused(reason) => {
                let (reason, _) = reason.split_at(reason.floor_char_boundary(MAX_REPLY - 1));
                [b"R", reason.as_bytes()].concat()
            }
        }
    }

    /// Decodes a message. Returns `None` if it is not a reply.
    #[must_use]
    pub fn decode(message: &[u8]) -> Option<Self> {
        match message.split_first()? {
            (b'W', rest) => {
                let milliseconds = u32::from_le_bytes(rest.try_into().ok()?);
                Some(Self::Wait(Duration::from_millis(milliseconds.into())))
            }
            (b'D', []) => Some(Self::Done),
            (b'R', reason) => Some(Self::Refused(core::str::from_utf8(reason).ok()?.to_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_names_sort_by_time_and_contain_the_operation() {
        let early = entry_name(Duration::from_secs(9), 4711, Operation::Release);
        let late = entry_name(Duration::from_secs(10), 12, Operation::Prepare);
        assert_eq!(early, "00000000009000000000-4711.release");
        assert!(early < late);
        for operation in Operation::ALL {
            assert_eq!(entry_operation(&entry_name(Duration::ZERO, 1, operation)), Some(operation));
        }
        for file in
            ["", "x", "1-2.prepare", "00000000009000000000-.prepare", "00000000009000000000-1.start", ".tmp"]
        {
            assert_eq!(entry_operation(file), None, "{file:?}");
        }
    }

    #[test]
    fn entries_have_a_name_and_xml() {
        assert_eq!(entry_parts(b"a b\0<domain/>"), Some((&b"a b"[..], &b"<domain/>"[..])));
        assert_eq!(entry_parts(b"a\0"), Some((&b"a"[..], &b""[..])));
        assert_eq!(entry_parts(b"a"), None);
    }

    #[test]
    fn replies_decode_to_themselves() {
        for reply in
            [Reply::Wait(Duration::from_secs(30)), Reply::Done, Reply::Refused("no pages".to_owned())]
        {
            assert_eq!(Reply::decode(&reply.encode()), Some(reply));
        }
        let long = Reply::Refused("ä".repeat(MAX_REPLY)).encode();
        assert!(long.len() <= MAX_REPLY && Reply::decode(&long).is_some());
        for message in [&b""[..], b"W", b"W12345", b"DD", b"R\xff", b"X"] {
            assert_eq!(Reply::decode(message), None);
        }
    }
}
