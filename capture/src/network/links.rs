//! The network interfaces with all their names, as the kernel lists them: rtnetlink(7), `RTM_GETLINK`.
//!
//! Requests use the socket that receives notifications about link changes, because the unit does not allow the
//! announcer to open another netlink socket. They do not require a privilege.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use libc::{
    EBUSY, IFLA_ALT_IFNAME, IFLA_EXT_MASK, IFLA_IFNAME, IFLA_PROP_LIST, NLM_F_DUMP, NLM_F_REQUEST,
    NLMSG_DONE, NLMSG_ERROR, RTEXT_FILTER_SKIP_STATS, RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK,
};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use wakevirt_protocol::details::MAX_ALTERNATIVES;

use crate::network::removed::Removed;

/// The size of the receive buffer, in bytes. A datagram of the reply occupies at most half of the buffer
/// (`netlink_recvmsg` in net/netlink/af_netlink.c), unless a single interface needs more.
const BUFFER: usize = 65_536;
/// The maximum number of requests to obtain a consistent reply.
const ATTEMPTS: u32 = 4;
/// The length of `struct nlmsghdr` (linux/netlink.h).
const HEADER: usize = 16;
/// The length of `struct ifinfomsg` (linux/rtnetlink.h).
const INFO: usize = 16;
/// `NLM_F_DUMP_INTR` (linux/netlink.h): the interfaces changed while the kernel listed them.
const INTERRUPTED: u16 = 0x10;
/// `AF_UNSPEC` (socket.h). Notifications with `AF_BRIDGE` only report that an interface has left a bridge.
const AF_UNSPEC: u8 = 0;
/// `NLA_TYPE_MASK` (linux/netlink.h): the other bits of an attribute's type are flags.
const TYPE_MASK: u16 = 0x3fff;

/// The names of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// The name.
    pub name: String,
    /// The alternative names (`altname` in ip-link(8)), at most [`MAX_ALTERNATIVES`].
    pub alternatives: Vec<String>,
}

impl Interface {
    /// All names, starting with the main one.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.name).chain(&self.alternatives).map(String::as_str)
    }
}

/// The interfaces by index.
pub type Links = HashMap<u32, Arc<Interface>>;

/// Lists the interfaces. Repeats the request if they change while the kernel lists them.
///
/// Returns the interfaces of the last complete reply, if any, and whether they are consistent. If they are not, the
/// caller must list them again later. `sequence` is the sequence number of the most recent request on this socket. The
/// interfaces that the kernel has removed in the meantime are added to `removed`.
///
/// # Errors
/// Those of send(2) and recv(2), and the error in the kernel's reply.
pub fn list(
    socket: &OwnedFd,
    sequence: &mut u32,
    removed: &mut Removed,
) -> io::Result<(Option<Links>, bool)> {
    let mut complete = None;
    for _ in 0..ATTEMPTS {
        *sequence = sequence.wrapping_add(1);
        let reply = request(socket, *sequence, removed)?;
        if reply.done {
            complete = Some(reply.links);
        }
        if reply.consistent {
            return Ok((complete, true));
        }
    }
    Ok((complete, false))
}

/// The received part of the kernel's reply to a request.
#[derive(Debug)]
struct Reply {
    links: Links,
    /// Whether no interface changed while the kernel listed them.
    consistent: bool,
    /// Whether the reply is complete.
    done: bool,
}

fn request(socket: &OwnedFd, sequence: u32, removed: &mut Removed) -> io::Result<Reply> {
    send(socket, &encode_request(sequence)?, SendFlags::DONTWAIT)?;
    let mut reply = Reply::default();
    let mut buffer = vec![0; BUFFER];
    while !reply.done {
        match recv(socket, &mut buffer, RecvFlags::DONTWAIT) {
            Ok((length, _)) => {
                let datagram = buffer.get(..length).unwrap_or_default();
                record_removal(datagram, removed);
                reply.read(datagram, sequence)?;
            }
            Err(Errno::INTR) => {}
            // The kernel dropped a notification or a part of the reply.
            Err(Errno::NOBUFS) => {
                reply.consistent = false;
                removed.add_all();
            }
            // The kernel writes each part when the previous part is read, so a part is always pending until the end.
            Err(Errno::AGAIN) => {
                reply.consistent = false;
                break;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(reply)
}

/// Adds the interface to `removed` if the datagram is a notification that it was removed. The datagram can be truncated
/// after its headers.
pub fn record_removal(datagram: &[u8], removed: &mut Removed) {
    let Some(([_, _, _, _, k0, k1, ..], body)) = datagram.split_first_chunk::<HEADER>() else { return };
    // Each notification is a datagram of its own (`rtmsg_ifinfo_send` in net/core/rtnetlink.c).
    if u16::from_ne_bytes([*k0, *k1]) == RTM_DELLINK
        && let Some((AF_UNSPEC, index)) = family_and_index(body)
    {
        removed.add(index);
    }
}

/// Encodes `struct nlmsghdr`, a `struct ifinfomsg` of zeros, and an attribute that omits the statistics.
fn encode_request(sequence: u32) -> io::Result<Vec<u8>> {
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

impl Default for Reply {
    fn default() -> Self {
        Self { links: Links::new(), consistent: true, done: false }
    }
}

impl Reply {
    /// Reads the messages in one datagram. A message that does not belong to the reply is a notification.
    fn read(&mut self, datagram: &[u8], sequence: u32) -> io::Result<()> {
        for message in messages(datagram) {
            if message.sequence != sequence || message.port == 0 {
                self.consistent = false;
                continue;
            }
            self.consistent &= message.flags & INTERRUPTED == 0;
            let kind = i32::from(message.kind);
            if kind == NLMSG_ERROR {
                match error_number(message.body) {
                    // The reply to an earlier request has not been read completely.
                    Some(EBUSY) => self.consistent = false,
                    Some(number) => return Err(io::Error::from_raw_os_error(number)),
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
    /// The port of the requesting socket; 0 in most notifications.
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

/// The positive error number in `struct nlmsgerr`; `None` for an acknowledgement.
fn error_number(body: &[u8]) -> Option<i32> {
    let error = i32::from_ne_bytes(*body.first_chunk()?);
    (error != 0).then(|| error.wrapping_neg())
}

/// Reads the address family and the index from `struct ifinfomsg`.
fn family_and_index(body: &[u8]) -> Option<(u8, u32)> {
    let [family, _, _, _, i0, i1, i2, i3, ..] = *body.first_chunk::<INFO>()?;
    Some((family, u32::try_from(i32::from_ne_bytes([i0, i1, i2, i3])).ok()?))
}

/// Reads the index and the names from `struct ifinfomsg` and its attributes.
fn link(body: &[u8]) -> Option<(u32, Arc<Interface>)> {
    let (_, index) = family_and_index(body)?;
    let rest = body.get(INFO..)?;
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

/// The attributes (`struct rtattr`): each has a length that includes this header, a type and a value.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let ([l0, l1, k0, k1], _) = rest.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let value = rest.get(4..length)?;
        let kind = u16::from_ne_bytes([*k0, *k1]) & TYPE_MASK;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Decodes a name, without the terminating zero.
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
        let mut reply = Reply::default();
        let end = message(u16::try_from(NLMSG_DONE).unwrap(), 2, 3, 99, &[0; 4]);
        let lo = [info(1), attribute(IFLA_IFNAME, b"lo\0")].concat();
        let datagram =
            [message(RTM_NEWLINK, 2, 3, 99, &lo), message(RTM_NEWLINK, 2, 3, 99, &eth0())].concat();
        reply.read(&datagram, 3).unwrap();
        assert!(!reply.done);
        reply.read(&end, 3).unwrap();
        assert!(reply.done && reply.consistent);
        assert_eq!(reply.links.len(), 2);
        let names: Vec<&str> = reply.links[&7].names().collect();
        assert_eq!(names, ["eth0", "enp1s0", "a-longer-name-than-fits"]);
    }

    #[test]
    fn is_inconsistent_if_an_interface_changes_in_the_meantime() {
        for (kind, flags, sequence, port) in [
            (RTM_NEWLINK, 0, 0, 0),
            (RTM_NEWLINK, 0, 3, 0),
            (RTM_NEWLINK, 0, 2, 99),
            (RTM_NEWLINK, 2 | INTERRUPTED, 3, 99),
        ] {
            let mut reply = Reply::default();
            reply.read(&message(kind, flags, sequence, port, &eth0()), 3).unwrap();
            assert!(!reply.consistent, "{kind} {flags} {sequence} {port}");
        }
    }

    #[test]
    fn finds_removed_interfaces() {
        let find = |datagram: &[u8]| {
            let mut removed = Removed::default();
            record_removal(datagram, &mut removed);
            removed
        };
        let mut expected = Removed::default();
        expected.add(7);
        let removal = message(RTM_DELLINK, 0, 0, 0, &eth0());
        for length in 0..removal.len() {
            let truncated = find(&removal[..length]);
            assert_eq!(truncated, if length < HEADER + INFO { Removed::default() } else { expected.clone() });
        }
        assert_eq!(find(&removal), expected);
        assert!(find(&message(RTM_NEWLINK, 0, 0, 0, &eth0())).is_empty());
        let mut left_a_bridge = removal;
        left_a_bridge[HEADER] = u8::try_from(libc::AF_BRIDGE).unwrap();
        assert!(find(&left_a_bridge).is_empty());
    }

    #[test]
    fn returns_the_kernels_error() {
        let read_error = |errno: i32| {
            let mut reply = Reply::default();
            let body = [&(-errno).to_ne_bytes()[..], &[0; 16]].concat();
            reply
                .read(&message(u16::try_from(NLMSG_ERROR).unwrap(), 0, 3, 99, &body), 3)
                .map(|()| reply.consistent)
        };
        assert!(!read_error(libc::EBUSY).unwrap());
        assert_eq!(read_error(libc::EPERM).unwrap_err().raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn reads_truncated_and_inconsistent_messages_without_a_panic() {
        let whole = message(RTM_NEWLINK, 2, 3, 99, &eth0());
        for length in 0..whole.len() {
            let mut reply = Reply::default();
            reply.read(&whole[..length], 3).unwrap();
            assert!(reply.links.is_empty(), "{length} bytes");
            let _ = link(&eth0()[..length.min(eth0().len())]);
        }
        for length in 0..=u8::MAX {
            let mut inconsistent = whole.clone();
            inconsistent[0] = length;
            Reply::default().read(&inconsistent, 3).unwrap();
            let mut inconsistent = eth0();
            inconsistent[INFO] = length;
            let _ = link(&inconsistent);
        }
    }

    #[test]
    fn limits_the_number_of_alternative_names() {
        let names: Vec<_> =
            (0..40).map(|n| attribute(IFLA_ALT_IFNAME, format!("name{n}\0").as_bytes())).collect();
        let body =
            [info(7), attribute(IFLA_IFNAME, b"eth0\0"), attribute(IFLA_PROP_LIST, &names.concat())].concat();
        assert_eq!(link(&body).unwrap().1.alternatives.len(), MAX_ALTERNATIVES);
    }
}
