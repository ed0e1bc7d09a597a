//! `wakevirt-test-flood packets`: floods an interface with frames.
//!
//! `wakevirt-test-flood packets INTERFACE KIND COUNT RATE [MAC]`: COUNT is the number of frames, and RATE the maximum
//! number of frames per second, or `max`. The program prints `flooding` when it has sent the first frames, and `flooded`
//! at the end.

use std::io::{self, IoSlice, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockType, bind, sendmmsg, socket,
};
use wakevirt_protocol::MacAddr;

use crate::host::PROGRAMS;
use crate::network::frames::{BROADCAST, WAKE_ON_LAN, ethernet, magic, udp4};
use crate::network::{FAR_END, Peer, ffi};
use crate::process::Process;

/// The number of frames in one system call.
const BATCH: usize = 64;
/// The lengths of the headers before the payload.
const ETHERNET: usize = 14;
const UDP: usize = ETHERNET + 20 + 8;
/// The length of the synchronisation stream, and of a magic packet without a password.
const SYNC: usize = 6;
const MAGIC: usize = 102;
/// The addresses in the datagrams. The destination is the broadcast address of the subnet.
const SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const DESTINATION: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 255);

/// The frames of a flood. Each frame has a random sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketKind {
    /// Magic packets for random addresses from 52:54:80:00:00:00 to 52:54:ff:ff:ff:ff.
    Strangers,
    /// The same in UDP datagrams to this port of 192.0.2.255.
    Udp(u16),
    /// Random bytes, alternately in datagrams to port 9 and in frames with the EtherType 0x0842.
    Junk,
    /// Magic packets for this address.
    Address(MacAddr),
    /// Magic packets for this address with random SecureOn passwords.
    Passwords(MacAddr),
}

impl PacketKind {
    /// The arguments after the name of the interface, without the number of frames and their rate.
    fn arguments(self) -> (String, Option<String>) {
        match self {
            Self::Strangers => ("strangers".into(), None),
            Self::Udp(port) => (format!("udp:{port}"), None),
            Self::Junk => ("junk".into(), None),
            Self::Address(mac) => ("address".into(), Some(mac.to_string())),
            Self::Passwords(mac) => ("passwords".into(), Some(mac.to_string())),
        }
    }

    fn parse(kind: &str, mac: Option<&String>) -> Option<Self> {
        let mac = || mac.and_then(|mac| mac.parse().ok());
        match kind {
            "strangers" => Some(Self::Strangers),
            "junk" => Some(Self::Junk),
            "address" => mac().map(Self::Address),
            "passwords" => mac().map(Self::Passwords),
            _ => kind.strip_prefix("udp:").and_then(|port| port.parse().ok()).map(Self::Udp),
        }
    }

    /// A frame of this kind, whose variable parts [`Self::vary`] replaces. `odd` selects one of two alternating frames.
    fn frame(self, odd: bool) -> Vec<u8> {
        let frame = |ethertype, payload: &[u8]| ethernet(BROADCAST, [2, 1, 0, 0, 0, 0], ethertype, payload);
        let datagram = |port, payload: &[u8]| frame(0x0800, &udp4(SOURCE, DESTINATION, port, payload));
        let magic = |mac: MacAddr, password: &[u8]| magic(&mac.to_string(), password);
        match self {
            Self::Strangers => frame(WAKE_ON_LAN, &magic(MacAddr::new([0x52, 0x54, 0x80, 0, 0, 0]), &[])),
            Self::Udp(port) => datagram(port, &magic(MacAddr::new([0x52, 0x54, 0x80, 0, 0, 0]), &[])),
            Self::Junk if odd => datagram(9, &[0; MAGIC]),
            Self::Junk => frame(WAKE_ON_LAN, &[0; MAGIC]),
            Self::Address(mac) => frame(WAKE_ON_LAN, &magic(mac, &[])),
            Self::Passwords(mac) => frame(WAKE_ON_LAN, &magic(mac, &[0; 6])),
        }
    }

    /// Replaces the sender and the other variable parts of a frame with random bytes.
    fn vary(self, frame: &mut [u8], odd: bool, random: &mut Random) {
        let [a, b, c, d, e, f, g, h] = random.next().to_ne_bytes();
        overwrite(frame, 8, &[a, b, c, d]);
        match self {
            Self::Strangers => set_address(frame, ETHERNET, [0x52, 0x54, e | 0x80, f, g, h]),
            Self::Udp(_) => set_address(frame, UDP, [0x52, 0x54, e | 0x80, f, g, h]),
            Self::Junk => {
                let payload = frame.get_mut(if odd { UDP } else { ETHERNET }..).unwrap_or_default();
                for part in payload.chunks_mut(8) {
                    part.iter_mut()
                        .zip(random.next().to_ne_bytes())
                        .for_each(|(byte, random)| *byte = random);
                }
            }
            Self::Address(_) => {}
            Self::Passwords(_) => {
                let [i, j, ..] = random.next().to_ne_bytes();
                overwrite(frame, ETHERNET + MAGIC, &[e, f, g, h, i, j]);
            }
        }
    }
}

/// Writes the address sixteen times into the magic packet at this offset of a frame.
fn set_address(frame: &mut [u8], offset: usize, mac: [u8; 6]) {
    let copies = frame.get_mut(offset + SYNC..offset + MAGIC).unwrap_or_default();
    copies.as_chunks_mut::<6>().0.fill(mac);
}

fn overwrite(frame: &mut [u8], offset: usize, bytes: &[u8]) {
    let place = frame.get_mut(offset..).unwrap_or_default();
    place.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
}

/// Marsaglia's xorshift, so that the frames are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Runs the program. `arguments` are those after `packets`.
///
/// # Errors
/// If the arguments are invalid, or the kernel rejects a frame.
pub fn run(arguments: &[String]) -> io::Result<()> {
    let usage = || {
        io::Error::other(
            "usage: packets INTERFACE strangers|udp:PORT|junk|address|passwords COUNT RATE|max [MAC]",
        )
    };
    let [interface, kind, count, rate, mac @ ..] = arguments else { return Err(usage()) };
    let kind = PacketKind::parse(kind, mac.first()).ok_or_else(usage)?;
    let count: u64 = count.parse().map_err(|_| usage())?;
    let rate: Option<f64> = if rate == "max" { None } else { Some(rate.parse().map_err(|_| usage())?) };
    let socket = open(interface)?;

    let is_odd = |number: usize| number % 2 == 1;
    let mut frames: Vec<_> = (0..BATCH).map(|number| kind.frame(is_odd(number))).collect();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut headers = MultiHeaders::<LinkAddr>::preallocate(BATCH, None);
    let (mut sent, start) = (0, Instant::now());
    while sent < count {
        for (number, frame) in frames.iter_mut().enumerate() {
            kind.vary(frame, is_odd(number), &mut random);
        }
        let batch: Vec<_> = frames.iter().map(|frame| [IoSlice::new(frame)]).collect();
        let to = [None; BATCH];
        match sendmmsg(socket.as_raw_fd(), &mut headers, &batch, to, [], MsgFlags::empty()) {
            Ok(taken) => {
                if sent == 0 {
                    writeln!(io::stdout(), "flooding")?;
                }
                sent += taken.count() as u64;
            }
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => std::thread::yield_now(),
            Err(error) => return Err(error.into()),
        }
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(sent as f64 / rate);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }
    writeln!(io::stdout(), "flooded")
}

/// A socket that sends through this interface, without the kernel's queue.
fn open(interface: &str) -> io::Result<OwnedFd> {
    let address = getifaddrs()?
        .filter(|found| found.interface_name == interface)
        .find_map(|found| found.address?.as_link_addr().copied())
        .ok_or_else(|| io::Error::other(format!("there is no interface {interface}")))?;
    // With protocol 0, the socket does not receive frames.
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    ffi::bypass_queue(&socket)?;
    bind(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

impl Peer<'_> {
    /// Floods the host with `count` frames, at most `rate` per second or as fast as possible, until all are sent or the
    /// value is dropped. Returns when the first frames are sent.
    ///
    /// # Panics
    /// If the flood does not start.
    #[must_use]
    pub fn flood(&self, kind: PacketKind, count: u64, rate: Option<u32>) -> Process {
        let rate = rate.map_or_else(|| "max".to_owned(), |rate| rate.to_string());
        let (kind, mac) = kind.arguments();
        let mut command = self.command(&format!("{PROGRAMS}/wakevirt-test-flood"));
        command.args(["packets", FAR_END, &kind, &count.to_string(), &rate]).args(mac);
        let flood = Process::start("wakevirt-test-flood", &mut command);
        let _ = flood.log().wait_for("flooding");
        flood
    }
}

#[cfg(test)]
mod tests {
    use wakevirt_protocol::MagicPacket;

    use super::*;

    const MAC: MacAddr = MacAddr::new([0x52, 0x54, 0, 1, 2, 3]);

    fn varied(kind: PacketKind, odd: bool, random: &mut Random) -> Vec<u8> {
        let mut frame = kind.frame(odd);
        kind.vary(&mut frame, odd, random);
        frame
    }

    #[test]
    fn frames_of_a_flood_differ_and_contain_what_their_kind_says() {
        let mut random = Random(1);
        for (kind, offset, own) in [
            (PacketKind::Strangers, ETHERNET, None),
            (PacketKind::Udp(9), UDP, None),
            (PacketKind::Address(MAC), ETHERNET, Some(MAC)),
            (PacketKind::Passwords(MAC), ETHERNET, Some(MAC)),
        ] {
            let [one, other] = [false, true].map(|odd| varied(kind, odd, &mut random));
            assert_ne!(one[..ETHERNET], other[..ETHERNET], "{kind:?}");
            assert_eq!(one[6..8], [2, 1], "{kind:?}");
            let macs = [&one, &other].map(|frame| {
                MagicPacket::find(&frame[offset..]).map(|packet| packet.target()).collect::<Vec<_>>()
            });
            match own {
                Some(mac) => assert_eq!(macs, [[mac], [mac]], "{kind:?}"),
                None => assert_ne!(macs[0], macs[1], "{kind:?}"),
            }
            assert!(macs.iter().all(|macs| macs.len() == 1), "{kind:?}: {macs:?}");
        }
        for odd in [false, true] {
            let junk = varied(PacketKind::Junk, odd, &mut random);
            assert_eq!(MagicPacket::find(&junk[ETHERNET..]).count(), 0);
        }
    }
}
