//! The network interfaces with all their names, as the kernel lists them: rtnetlink(7), `RTM_GETLINK`.
//!
//! The request goes out on the socket by which the kernel tells of changes, since under its unit the announcer
//! may open no other netlink socket. It takes no privilege.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::libc::{
    IFLA_ALT_IFNAME, IFLA_EXT_MASK, IFLA_IFNAME, IFLA_PROP_LIST, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, RTEXT_FILTER_SKIP_STATS, RTM_GETLINK, RTM_NEWLINK,
};
use nix::sys::socket::{MsgFlags, recv, send};
use wakevirt_protocol::details::MAX_ALTERNATIVES;

/// A part of the kernel's answer is at most half as long (`NLMSG_GOODSIZE`, and more only where one interface
/// takes more).
const BUFFER: usize = 65_536;
/// How often to ask, until nothing changes meanwhile.
const ATTEMPTS: u32 = 4;
/// The length of `struct nlmsghdr` (linux/netlink.h).
const HEADER: usize = 16;
/// The length of `struct ifinfomsg` (linux/rtnetlink.h).
const INFO: usize = 16;
/// `NLM_F_DUMP_INTR` (linux/netlink.h): the list has changed while it was written.
const INTERRUPTED: u16 = 0x10;
/// `NLA_TYPE_MASK` (linux/netlink.h): the rest are flags.
const ATTRIBUTE: u16 = 0x3fff;

/// What an interface is called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its alternative names (`altname` in ip-link(8)): at most [`MAX_ALTERNATIVES`].
    pub alternatives: Vec<String>,
}

impl Interface {
    /// All its names, the first one first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.name).chain(&self.alternatives).map(String::as_str)
    }
}

/// The interfaces by their index.
pub type Links = HashMap<u32, Arc<Interface>>;

/// Asks the kernel for the interfaces, until nothing changes while it lists them.
///
/// Returns those of the last whole list, where there was one, and whether it is settled: if not, ask again
/// later. `sequence` is the number of the last request on this socket.
///
/// # Errors
/// Those of send(2) and recv(2), and what the kernel answers.
pub fn list(socket: &OwnedFd, sequence: &mut u32) -> io::Result<(Option<Links>, bool)> {
    let mut whole = None;
    for _ in 0..ATTEMPTS {
        *sequence = sequence.wrapping_add(1);
        let answer = ask(socket, *sequence)?;
        if answer.done {
            whole = Some(answer.links);
        }
        if answer.settled {
            return Ok((whole, true));
        }
    }
    Ok((whole, false))
}

/// The kernel's answer, as far as it has come.
#[derive(Debug, Default)]
struct Answer {
    links: Links,
    settled: bool,
    done: bool,
}

fn ask(socket: &OwnedFd, sequence: u32) -> io::Result<Answer> {
    send(socket.as_raw_fd(), &request(sequence)?, MsgFlags::MSG_DONTWAIT)?;
    let mut answer = Answer { settled: true, ..Answer::default() };
    let mut buffer = vec![0; BUFFER];
    while !answer.done {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => answer.read(buffer.get(..length).unwrap_or_default(), sequence)?,
            Err(Errno::EINTR) => {}
            // Something was lost: news, or a part of the answer.
            Err(Errno::ENOBUFS) => answer.settled = false,
            // The kernel writes the next part when the last one is read, so there is one until the end.
            Err(Errno::EAGAIN) => {
                answer.settled = false;
                break;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(answer)
}

/// `struct nlmsghdr`, `struct ifinfomsg` of zeros, and an attribute that leaves out the statistics.
fn request(sequence: u32) -> io::Result<Vec<u8>> {
    let flags = u16::try_from(NLM_F_REQUEST | NLM_F_DUMP).map_err(io::Error::other)?;
    let mut bytes = Vec::new();
    bytes.extend(u32::try_from(HEADER + INFO + 8).map_err(io::Error::other)?.to_ne_bytes());
    bytes.extend(RTM_GETLINK.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4 + INFO]);
    bytes.extend(8_u16.to_ne_bytes());
    bytes.extend(IFLA_EXT_MASK.to_ne_bytes());
    bytes.extend(RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    Ok(bytes)
}

impl Answer {
    /// Reads the messages of one datagram. What is no part of the answer is news.
    fn read(&mut self, datagram: &[u8], sequence: u32) -> io::Result<()> {
        for message in messages(datagram) {
            if message.sequence != sequence || message.port == 0 {
                self.settled = false;
                continue;
            }
            self.settled &= message.flags & INTERRUPTED == 0;
            let kind = i32::from(message.kind);
            if kind == NLMSG_ERROR {
                match error_in(message.body) {
                    // The answer to an earlier request, which was not read to its end.
                    Some(Errno::EBUSY) => self.settled = false,
                    Some(error) => return Err(error.into()),
                    None => {}
                }
                self.done = true;
            } else if kind == NLMSG_DONE {
                self.done = true;
            } else if message.kind == RTM_NEWLINK {
                self.links.extend(link(message.body));
            }
        }
        Ok(())
    }
}

/// A netlink message.
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    /// Whom it answers: 0 in most news.
    port: u32,
    body: &'a [u8],
}

fn messages(mut rest: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let (header, _) = rest.split_first_chunk::<HEADER>()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, p0, p1, p2, p3] = *header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let body = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            port: u32::from_ne_bytes([p0, p1, p2, p3]),
            body,
        })
    })
}

/// The error in `struct nlmsgerr`, a negative number; none where it is an acknowledgement.
fn error_in(body: &[u8]) -> Option<Errno> {
    let error = i32::from_ne_bytes(*body.first_chunk()?);
    (error != 0).then(|| Errno::from_raw(error.wrapping_neg()))
}

/// The index and the names in `struct ifinfomsg` and its attributes.
fn link(body: &[u8]) -> Option<(u32, Arc<Interface>)> {
    let (info, rest) = body.split_first_chunk::<INFO>()?;
    let [_, _, _, _, i0, i1, i2, i3, ..] = *info;
    let index = u32::try_from(i32::from_ne_bytes([i0, i1, i2, i3])).ok()?;
    let mut interface = Interface::default();
    for (kind, value) in attributes(rest) {
        match kind {
            IFLA_IFNAME => interface.name = text(value),
            IFLA_PROP_LIST => {
                let alternatives = attributes(value).filter(|(kind, _)| *kind == IFLA_ALT_IFNAME);
                interface.alternatives =
                    alternatives.map(|(_, value)| text(value)).take(MAX_ALTERNATIVES).collect();
            }
            _ => {}
        }
    }
    (!interface.name.is_empty()).then(|| (index, Arc::new(interface)))
}

/// Attributes (`struct rtattr`): each its length with this header, its kind, its value.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let ([l0, l1, k0, k1], _) = rest.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let value = rest.get(4..length)?;
        let kind = u16::from_ne_bytes([*k0, *k1]) & ATTRIBUTE;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A name, without the zero at its end.
fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, flags: u16, sequence: u32, port: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + body.len()).unwrap();
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes()].concat();
        bytes.extend([sequence.to_ne_bytes(), port.to_ne_bytes()].concat());
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn info(index: u32) -> Vec<u8> {
        [&[0; 4][..], &index.to_ne_bytes(), &[0; 8]].concat()
    }

    fn eth0() -> Vec<u8> {
        let names = [
            attribute(IFLA_ALT_IFNAME, b"enp1s0\0"),
            attribute(IFLA_ALT_IFNAME, b"a-longer-name-than-fits\0"),
        ];
        let list = attribute(IFLA_PROP_LIST | 0x8000, &names.concat());
        [info(7), attribute(1, &[2; 6]), attribute(IFLA_IFNAME, b"eth0\0"), list].concat()
    }

    #[test]
    fn lists_an_interface_with_all_its_names() {
        let mut answer = Answer { settled: true, ..Answer::default() };
        let end = message(u16::try_from(NLMSG_DONE).unwrap(), 2, 3, 99, &[0; 4]);
        let lo = [info(1), attribute(IFLA_IFNAME, b"lo\0")].concat();
        let datagram =
            [message(RTM_NEWLINK, 2, 3, 99, &lo), message(RTM_NEWLINK, 2, 3, 99, &eth0())].concat();
        answer.read(&datagram, 3).unwrap();
        assert!(!answer.done);
        answer.read(&end, 3).unwrap();
        assert!(answer.done && answer.settled);
        assert_eq!(answer.links.len(), 2);
        let names: Vec<&str> = answer.links[&7].names().collect();
        assert_eq!(names, ["eth0", "enp1s0", "a-longer-name-than-fits"]);
    }

    #[test]
    fn is_not_settled_where_something_changes_meanwhile() {
        for (kind, flags, sequence, port) in [
            (RTM_NEWLINK, 0, 0, 0),
            (RTM_NEWLINK, 0, 3, 0),
            (RTM_NEWLINK, 0, 2, 99),
            (RTM_NEWLINK, 2 | INTERRUPTED, 3, 99),
        ] {
            let mut answer = Answer { settled: true, ..Answer::default() };
            answer.read(&message(kind, flags, sequence, port, &eth0()), 3).unwrap();
            assert!(!answer.settled, "{kind} {flags} {sequence} {port}");
        }
    }

    #[test]
    fn tells_the_kernels_error() {
        let refused = |errno: i32| {
            let mut answer = Answer { settled: true, ..Answer::default() };
            let body = [&(-errno).to_ne_bytes()[..], &[0; 16]].concat();
            answer
                .read(&message(u16::try_from(NLMSG_ERROR).unwrap(), 0, 3, 99, &body), 3)
                .map(|()| answer.settled)
        };
        assert!(!refused(nix::libc::EBUSY).unwrap());
        assert_eq!(refused(nix::libc::EPERM).unwrap_err().raw_os_error(), Some(nix::libc::EPERM));
    }

    #[test]
    fn reads_whatever_is_cut_off_without_a_panic() {
        let whole = message(RTM_NEWLINK, 2, 3, 99, &eth0());
        for length in 0..whole.len() {
            let mut answer = Answer::default();
            answer.read(&whole[..length], 3).unwrap();
            assert!(answer.links.is_empty(), "{length} bytes");
            let _ = link(&eth0()[..length.min(eth0().len())]);
        }
        for length in 0..=u8::MAX {
            let mut lying = whole.clone();
            lying[0] = length;
            Answer::default().read(&lying, 3).unwrap();
            let mut lying = eth0();
            lying[INFO] = length;
            let _ = link(&lying);
        }
    }

    #[test]
    fn keeps_so_many_alternative_names_and_no_more() {
        let names: Vec<_> =
            (0..40).map(|n| attribute(IFLA_ALT_IFNAME, format!("name{n}\0").as_bytes())).collect();
        let body =
            [info(7), attribute(IFLA_IFNAME, b"eth0\0"), attribute(IFLA_PROP_LIST, &names.concat())].concat();
        assert_eq!(link(&body).unwrap().1.alternatives.len(), MAX_ALTERNATIVES);
    }
}
