//! The format of magic packets, and the search for them.
//!
//! A magic packet has six bytes `FF` (the synchronisation stream) followed by sixteen copies of the target's MAC
//! address without a break, anywhere in the payload (AMD publication 20213, "Magic Packet Technology", 1995), and
//! optionally a SecureOn password. More than six `FF` and more than sixteen copies are allowed.
//!
//! A payload can contain several: the kernel merges datagrams of one flow that arrive together (UDP GRO:
//! `rx-udp-gro-forwarding` and `rx-gro-list` in ethtool(8)), and so can the sender (UDP GSO). The payload does not
//! show where one datagram ends, so passwords in such a payload are ignored.

use serde::{Deserialize, Serialize};

use crate::{MacAddr, Password};

/// The length of the synchronisation stream, in bytes.
const SYNC: usize = 6;
/// The sixteen copies of the address, in bytes.
const COPIES: usize = 16 * 6;

/// The length of the shortest magic packet, in bytes.
pub const SHORTEST: usize = SYNC + COPIES;

/// In sixteen copies, this many consecutive bytes equal the byte six places later.
const REPEATED: usize = COPIES - 6;
/// The search compares this many bytes with those six places later: one operation of a processor.
const PROBE: usize = 16;
/// The search compares at the end of each step of this many bytes, so that at least one probe is within the repeated bytes
/// of a packet, wherever the packet begins.
const STEP: usize = 72;
const _: () = assert!(STEP + PROBE - 1 <= REPEATED && (STEP - PROBE).is_multiple_of(8));

/// A valid magic packet. Its target is a unicast address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct MagicPacket {
    target: MacAddr,
    password: Option<Password>,
}

/// A deserialized [`MagicPacket`] with an unchecked target.
#[derive(Deserialize)]
struct Unchecked {
    target: MacAddr,
    password: Option<Password>,
}

impl TryFrom<Unchecked> for MagicPacket {
    type Error = &'static str;

    fn try_from(unchecked: Unchecked) -> Result<Self, Self::Error> {
        Self::new(unchecked.target, unchecked.password)
            .ok_or("the target of a magic packet must be a unicast address")
    }
}

impl MagicPacket {
    /// A magic packet for this target; `None` if it is a broadcast, multicast or all-zero address.
    #[must_use]
    pub fn new(target: MacAddr, password: Option<Password>) -> Option<Self> {
        target.is_unicast().then_some(Self { target, password })
    }

    /// The MAC address of the machine to wake.
    #[must_use]
    pub const fn target(&self) -> MacAddr {
        self.target
    }

    /// The SecureOn password, if there is one.
    #[must_use]
    pub const fn password(&self) -> Option<&Password> {
        self.password.as_ref()
    }

    /// Finds magic packets anywhere in the payload.
    #[must_use]
    pub fn find(payload: &[u8]) -> MagicPackets<'_> {
        MagicPackets::starting_with(Self::first(payload))
    }

    /// Finds a magic packet at the start of the payload, and those anywhere after it. Empty if the payload does not
    /// begin with one.
    #[must_use]
    pub fn at_start(payload: &[u8]) -> MagicPackets<'_> {
        let run = run_of_ff(payload);
        let after_sync = payload.get(run..).filter(|_| run >= SYNC);
        MagicPackets::starting_with(after_sync.and_then(Self::after_sync))
    }

    /// The first magic packet anywhere in the payload, and the bytes after the copies of its address.
    ///
    /// The time is linear in the number of bytes up to the end of that packet, for any payload: at most one
    /// comparison of 16 bytes for each step of 72, and if these are equal, one of the step and one of the length of
    /// a packet.
    fn first(payload: &[u8]) -> Option<(Self, &[u8])> {
        let (steps, _) = payload.as_chunks::<STEP>();
        let (shifted, _) = payload.get(6..)?.as_chunks::<STEP>();
        let ends = (STEP..).step_by(STEP);
        steps
            .iter()
            .zip(shifted)
            .zip(ends)
            .filter(|((step, shifted), _)| step.last_chunk::<PROBE>() == shifted.last_chunk())
            .find_map(|(_, end)| Self::around(payload, end - PROBE))
    }

    /// The magic packet whose copies include this position and that begins less than a step before it, and the bytes
    /// after it.
    fn around(payload: &[u8], position: usize) -> Option<(Self, &[u8])> {
        let before = payload.get(..position)?;
        let shifted = payload.get(6..position + 6)?;
        let start = position - common_suffix(before, shifted);
        // The repetition begins with the address, or up to five bytes earlier in the stream if the address contains
        // FF as well. Not six: no unicast address begins with FF.
        let start = start + run_of_ff(payload.get(start..start + 6)?);
        let (before, rest) = payload.split_at_checked(start)?;
        before.ends_with(&[0xff; SYNC]).then(|| Self::after_sync(rest)).flatten()
    }

    /// The magic packet whose synchronisation stream precedes these bytes, and the bytes after it.
    fn after_sync(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (first, more) = bytes.split_first_chunk::<6>()?;
        let magic = Self::new(MacAddr::new(*first), None)?;
        // If each copy equals the one before it, all are equal: one comparison is enough.
        let copies = bytes.get(..COPIES)?;
        if more.get(..COPIES - 6)? != copies.get(..COPIES - 6)? {
            return None;
        }
        let mut tail = bytes.get(COPIES..)?;
        while let Some(shorter) = tail.strip_prefix(first) {
            tail = shorter;
        }
        Some((magic, tail))
    }
}

/// The magic packets of one payload, in order.
///
/// Only a single packet can have a password.
#[derive(Debug, Clone)]
pub struct MagicPackets<'a> {
    /// The next one, without its password, and the bytes after its copies.
    next: Option<(MagicPacket, &'a [u8])>,
    /// Whether to read passwords; `false` once there are several packets.
    passwords: bool,
}

impl<'a> MagicPackets<'a> {
    const fn starting_with(first: Option<(MagicPacket, &'a [u8])>) -> Self {
        Self { next: first, passwords: true }
    }

    /// The same packets without passwords.
    #[must_use]
    pub const fn without_passwords(mut self) -> Self {
        self.passwords = false;
        self
    }

    /// Whether there are no more packets.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.next.is_none()
    }
}

impl Iterator for MagicPackets<'_> {
    type Item = MagicPacket;

    fn next(&mut self) -> Option<MagicPacket> {
        let (magic, tail) = self.next.take()?;
        self.next = MagicPacket::first(tail);
        self.passwords &= self.next.is_none();
        let password = self.passwords.then(|| password_in(tail, &magic.target.octets())).flatten();
        Some(MagicPacket { password, ..magic })
    }
}

/// The password in the bytes after the copies of the address.
///
/// A part of another copy is not a password. If the bytes are long enough for another magic packet, they are
/// probably another datagram, perhaps for a group address, whose six `FF` would look like a password.
fn password_in(tail: &[u8], address: &[u8; 6]) -> Option<Password> {
    if address.starts_with(tail) || tail.len() >= SHORTEST {
        return None;
    }
    if let Some(six) = tail.first_chunk::<6>() {
        return Some(Password::Six(*six));
    }
    tail.first_chunk::<4>().map(|four| Password::Four(*four))
}

/// The number of bytes `FF` at the start of the slice.
fn run_of_ff(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| **byte == 0xff).count()
}

/// The number of equal bytes at the end of two slices, at most [`STEP`].
///
/// Both slices have the same length, a multiple of eight bytes.
fn common_suffix(one: &[u8], other: &[u8]) -> usize {
    let (_, one) = one.as_rchunks::<8>();
    let (_, other) = other.as_rchunks::<8>();
    let mut equal = 0;
    for (one, other) in one.iter().zip(other).rev().take(STEP / 8) {
        let difference = u64::from_le_bytes(*one) ^ u64::from_le_bytes(*other);
        if difference != 0 {
            return equal + difference.leading_zeros() as usize / 8;
        }
        equal += 8;
    }
    equal
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    fn packet(sync: usize, mac: [u8; 6], copies: usize, tail: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xff; sync];
        bytes.extend(mac.repeat(copies));
        bytes.extend_from_slice(tail);
        bytes
    }

    fn first(payload: &[u8]) -> Option<MagicPacket> {
        MagicPacket::find(payload).next()
    }

    fn plain() -> MagicPacket {
        MagicPacket::new(MacAddr::new(MAC), None).unwrap()
    }

    #[test]
    fn finds_a_packet_at_any_offset() {
        for before in 0..3 * STEP {
            for sync in [6, 7, 8, 13, 200] {
                let mut bytes = vec![0x11; before];
                bytes.extend(packet(sync, MAC, 16, &[]));
                assert_eq!(first(&bytes), Some(plain()), "{before} before, {sync} FF");
                assert_eq!(
                    !MagicPacket::at_start(&bytes).is_empty(),
                    before == 0,
                    "{before} before, {sync} FF"
                );
            }
        }
    }

    #[test]
    fn finds_a_packet_for_any_address() {
        for mac in [
            [2, 0xff, 0xff, 0xff, 0xff, 0xff],
            [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff],
            [2, 0xff, 0xff, 0xff, 0xff, 0],
            [2, 0, 0xff, 0, 0, 0xff],
            [2; 6],
            [0, 0, 0, 0, 0, 1],
            [2, 0, 0, 2, 0, 0],
        ] {
            for before in 0..3 * STEP {
                // The bytes before the packet repeat the address as well.
                let mut bytes = mac.repeat(before / 6 + 1)[..before].to_vec();
                bytes.extend(packet(6, mac, 16, &[0x11; 9]));
                let found = first(&bytes).map(|magic| magic.target());
                assert_eq!(found, Some(MacAddr::new(mac)), "{before} before");
            }
        }
    }

    #[test]
    fn finds_a_packet_after_an_incomplete_one() {
        for incomplete in [
            packet(6, MAC, 15, &[]),
            packet(6, [1; 6], 16, &[]),
            vec![0xff; 5],
            packet(6, MAC, 1, &[0xff; 5]),
        ] {
            let mut bytes = incomplete;
            bytes.push(0);
            bytes.extend(packet(6, MAC, 16, &[]));
            assert_eq!(first(&bytes), Some(plain()));
        }
    }

    #[test]
    fn rejects_incomplete_packets() {
        assert_eq!(first(&packet(5, MAC, 16, &[])), None);
        assert_eq!(first(&packet(6, MAC, 15, &MAC[..5])), None);
        for wrong in 6..SHORTEST {
            let mut bytes = packet(6, MAC, 16, &[]);
            bytes[wrong] ^= 0x40;
            assert_eq!(first(&bytes), None, "byte {wrong}");
        }
    }

    #[test]
    fn rejects_group_targets() {
        for mac in [[0xff; 6], [0; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
            assert_eq!(first(&packet(6, mac, 16, &[])), None, "{mac:?}");
        }
    }

    #[test]
    fn reads_passwords_of_four_or_six_bytes() {
        let four = Some(Password::Four([1, 2, 3, 4]));
        let six = Some(Password::Six([1, 2, 3, 4, 5, 6]));
        for (length, password) in
            [(0, None), (3, None), (4, four.clone()), (5, four), (6, six.clone()), (7, six)]
        {
            let bytes = packet(6, MAC, 16, &[1, 2, 3, 4, 5, 6, 7][..length]);
            assert_eq!(first(&bytes).unwrap().password(), password.as_ref(), "{length} bytes left");
        }
    }

    #[test]
    fn does_not_read_a_copy_of_the_address_as_a_password() {
        for copies in [17, 20, 40] {
            for part in 0..6 {
                let magic = first(&packet(6, MAC, copies, &MAC[..part])).unwrap();
                assert_eq!(magic.password(), None, "{copies} copies and {part} bytes");
            }
        }
        let magic = first(&packet(6, MAC, 20, b"secret")).unwrap();
        assert_eq!(magic.password(), Some(&Password::Six(*b"secret")));
    }

    const OTHER: [u8; 6] = [0x52, 0x54, 0, 0xab, 0xcd, 0xef];

    /// The target of each packet, and whether it has a password.
    fn found(packets: MagicPackets<'_>) -> Vec<([u8; 6], bool)> {
        packets.map(|magic| (magic.target().octets(), magic.password().is_some())).collect()
    }

    #[test]
    fn finds_several_packets_without_passwords() {
        let both = [(MAC, false), (OTHER, false)];
        for sync in [6, 7] {
            for (first_tail, last_tail) in
                [("", ""), ("secret", ""), ("secret", "secret"), ("pass", "pass"), ("", "secret")]
            {
                let bytes = [
                    packet(6, MAC, 16, first_tail.as_bytes()),
                    packet(sync, OTHER, 16, last_tail.as_bytes()),
                ]
                .concat();
                assert_eq!(
                    found(MagicPacket::find(&bytes)),
                    both,
                    "{first_tail:?}, {sync} FF, {last_tail:?}"
                );
                assert_eq!(
                    found(MagicPacket::at_start(&bytes)),
                    both,
                    "{first_tail:?}, {sync} FF, {last_tail:?}"
                );
            }
        }
        let three =
            [packet(6, MAC, 20, &[]), packet(6, OTHER, 16, &[]), packet(6, MAC, 16, &[1; 50])].concat();
        assert_eq!(found(MagicPacket::find(&three)), [(MAC, false), (OTHER, false), (MAC, false)]);
        let late = [&[0][..], &three].concat();
        assert_eq!(found(MagicPacket::find(&late)).len(), 3);
        assert!(MagicPacket::at_start(&late).is_empty(), "the payload does not begin with a packet");
    }

    #[test]
    fn reads_a_password_of_ff_unless_another_packet_may_follow() {
        let six = Some(Password::Six([0xff; 6]));
        assert_eq!(first(&packet(6, MAC, 16, &[0xff; 6])).unwrap().password(), six.as_ref());
        // The following bytes are as long as a packet and not a valid one: a packet for a group, or an incomplete one.
        for next in
            [packet(6, [0xff; 6], 16, &[]), packet(6, [0x33; 6], 16, &[]), packet(6, OTHER, 15, &[0; 6])]
        {
            assert_eq!(found(MagicPacket::find(&[packet(6, MAC, 16, &[]), next].concat())), [(MAC, false)]);
        }
    }

    #[test]
    fn deserialization_rejects_group_targets() {
        let good = postcard::to_allocvec(&plain()).unwrap();
        assert_eq!(postcard::from_bytes::<MagicPacket>(&good), Ok(plain()));
        let mut bad = good;
        bad[0] |= 1;
        assert!(postcard::from_bytes::<MagicPacket>(&bad).is_err());
    }
}
