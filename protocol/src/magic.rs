//! The magic packet format, and the search for one.
//!
//! Six bytes `FF` (the synchronisation stream), then the target's MAC address sixteen times without
//! a break, anywhere in the payload (AMD publication 20213, "Magic Packet Technology", 1995); then
//! possibly a SecureOn password. More than six `FF` and more than sixteen copies are legal.
//!
//! A payload may hold several: the kernel merges datagrams of one flow that arrive together into one
//! (UDP GRO: `rx-udp-gro-forwarding` and `rx-gro-list` in ethtool(8)), and so may the sender (UDP GSO).
//! Nothing in the payload tells where one datagram ends, so no password is read from such a payload.

use serde::{Deserialize, Serialize};

use crate::{MacAddr, Password};

/// The length of the synchronisation stream, in bytes.
const SYNC: usize = 6;
/// The sixteen copies of the address, in bytes.
const COPIES: usize = 16 * 6;

/// The length of the shortest magic packet, in bytes.
pub const SHORTEST: usize = SYNC + COPIES;

/// Sixteen copies hold so many bytes, one behind the other, that equal the byte six places on.
const REPEATED: usize = COPIES - 6;
/// The search compares so many bytes with those six places on: what a processor does at once.
const PROBE: usize = 16;
/// It does so at the end of each step of so many bytes: often enough for one probe at least to lie
/// among the repeated bytes of a packet, wherever the packet begins.
const STEP: usize = 72;
const _: () = assert!(STEP + PROBE - 1 <= REPEATED && (STEP - PROBE).is_multiple_of(8));

/// A valid magic packet: its target can be one network card's address, never a group's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct MagicPacket {
    target: MacAddr,
    password: Option<Password>,
}

/// What a [`MagicPacket`] is read from, before its target is looked at.
#[derive(Deserialize)]
struct Unchecked {
    target: MacAddr,
    password: Option<Password>,
}

impl TryFrom<Unchecked> for MagicPacket {
    type Error = &'static str;

    fn try_from(unchecked: Unchecked) -> Result<Self, Self::Error> {
        Self::new(unchecked.target, unchecked.password)
            .ok_or("the target of a magic packet is a unicast address")
    }
}

impl MagicPacket {
    /// A magic packet for this target; `None` where it is a broadcast, multicast or all-zero address.
    #[must_use]
    pub fn new(target: MacAddr, password: Option<Password>) -> Option<Self> {
        target.is_unicast().then_some(Self { target, password })
    }

    /// The MAC address of the machine to be woken.
    #[must_use]
    pub const fn target(&self) -> MacAddr {
        self.target
    }

    /// The SecureOn password, where one came with it.
    #[must_use]
    pub const fn password(&self) -> Option<&Password> {
        self.password.as_ref()
    }

    /// The magic packets anywhere in the payload.
    #[must_use]
    pub fn find(payload: &[u8]) -> MagicPackets<'_> {
        MagicPackets::beginning_with(Self::first(payload))
    }

    /// The magic packet that the payload begins with, and those that follow it anywhere; none where it does
    /// not begin with one.
    #[must_use]
    pub fn at_start(payload: &[u8]) -> MagicPackets<'_> {
        let run = run_of_ff(payload);
        let behind_sync = payload.get(run..).filter(|_| run >= SYNC);
        MagicPackets::beginning_with(behind_sync.and_then(Self::behind_sync))
    }

    /// The first magic packet anywhere in the payload, and what follows the copies of its address.
    ///
    /// It takes a time linear in the number of bytes up to the end of that packet, whatever the payload: no
    /// more than a comparison of 16 bytes for each step of 72, and for those where they are equal, one of the
    /// step and one of a packet's length.
    fn first(payload: &[u8]) -> Option<(Self, &[u8])> {
        let (steps, _) = payload.as_chunks::<STEP>();
        let (six_on, _) = payload.get(6..)?.as_chunks::<STEP>();
        let ends = (STEP..).step_by(STEP);
        steps
            .iter()
            .zip(six_on)
            .zip(ends)
            .filter(|((step, six_on), _)| step.last_chunk::<PROBE>() == six_on.last_chunk())
            .find_map(|(_, end)| Self::around(payload, end - PROBE))
    }

    /// The magic packet that repeats itself at this position, and begins less than a step in front
    /// of it, and what follows it.
    fn around(payload: &[u8], position: usize) -> Option<(Self, &[u8])> {
        let before = payload.get(..position)?;
        let six_on = payload.get(6..position + 6)?;
        let start = position - equal_at_the_end(before, six_on);
        // What repeats begins with the address, or up to five bytes earlier, in the stream, where
        // the address holds FF too. Not six: no address of a single card begins with FF.
        let start = start + run_of_ff(payload.get(start..start + 6)?);
        let (before, rest) = payload.split_at_checked(start)?;
        before.ends_with(&[0xff; SYNC]).then(|| Self::behind_sync(rest)).flatten()
    }

    /// The magic packet that has its synchronisation stream in front of these bytes, and what follows it.
    fn behind_sync(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (first, more) = bytes.split_first_chunk::<6>()?;
        let magic = Self::new(MacAddr::new(*first), None)?;
        // That each copy equals the one before it makes them all equal, in one comparison.
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

/// The magic packets of one payload, in their order.
///
/// A password is read where there is one packet alone.
#[derive(Debug, Clone)]
pub struct MagicPackets<'a> {
    /// The next one, still without a password, and what follows its copies.
    next: Option<(MagicPacket, &'a [u8])>,
    /// Whether passwords are read: not once there are several packets.
    passwords: bool,
}

impl<'a> MagicPackets<'a> {
    const fn beginning_with(first: Option<(MagicPacket, &'a [u8])>) -> Self {
        Self { next: first, passwords: true }
    }

    /// The same packets, without a password.
    #[must_use]
    pub const fn without_passwords(mut self) -> Self {
        self.passwords = false;
        self
    }

    /// Whether none is left.
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

/// The password in what follows the copies of the address.
///
/// Bytes that go on repeating the address are none, be it in part. Where a whole magic packet could follow,
/// that is probably another datagram, be it for a group: its six `FF` would look like a password.
fn password_in(tail: &[u8], address: &[u8; 6]) -> Option<Password> {
    if address.starts_with(tail) || tail.len() >= SHORTEST {
        return None;
    }
    if let Some(six) = tail.first_chunk::<6>() {
        return Some(Password::Six(*six));
    }
    tail.first_chunk::<4>().map(|four| Password::Four(*four))
}

/// How many bytes `FF` the slice begins with.
fn run_of_ff(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| **byte == 0xff).count()
}

/// How many bytes at the end of two slices are equal; [`STEP`] stands for more.
///
/// Both are of one length, a multiple of eight bytes.
fn equal_at_the_end(one: &[u8], other: &[u8]) -> usize {
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
    fn is_found_wherever_it_lies() {
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
    fn is_found_whatever_the_address_is() {
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
                // What stands in front repeats the address as well.
                let mut bytes = mac.repeat(before / 6 + 1)[..before].to_vec();
                bytes.extend(packet(6, mac, 16, &[0x11; 9]));
                let found = first(&bytes).map(|magic| magic.target());
                assert_eq!(found, Some(MacAddr::new(mac)), "{before} before");
            }
        }
    }

    #[test]
    fn is_found_behind_a_false_start() {
        for false_start in [
            packet(6, MAC, 15, &[]),
            packet(6, [1; 6], 16, &[]),
            vec![0xff; 5],
            packet(6, MAC, 1, &[0xff; 5]),
        ] {
            let mut bytes = false_start;
            bytes.push(0);
            bytes.extend(packet(6, MAC, 16, &[]));
            assert_eq!(first(&bytes), Some(plain()));
        }
    }

    #[test]
    fn needs_all_of_its_parts() {
        assert_eq!(first(&packet(5, MAC, 16, &[])), None);
        assert_eq!(first(&packet(6, MAC, 15, &MAC[..5])), None);
        for wrong in 6..SHORTEST {
            let mut bytes = packet(6, MAC, 16, &[]);
            bytes[wrong] ^= 0x40;
            assert_eq!(first(&bytes), None, "byte {wrong}");
        }
    }

    #[test]
    fn wakes_no_group() {
        for mac in [[0xff; 6], [0; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
            assert_eq!(first(&packet(6, mac, 16, &[])), None, "{mac:?}");
        }
    }

    #[test]
    fn has_a_password_of_four_or_six_bytes() {
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
    fn takes_no_copy_of_the_address_for_a_password() {
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

    /// Each packet that is found: its target, and whether it has a password.
    fn found(packets: MagicPackets<'_>) -> Vec<([u8; 6], bool)> {
        packets.map(|magic| (magic.target().octets(), magic.password().is_some())).collect()
    }

    #[test]
    fn are_all_found_without_a_password_where_there_are_several() {
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
        assert!(MagicPacket::at_start(&late).is_empty(), "the first one is not at the beginning");
    }

    #[test]
    fn have_the_password_ff_where_it_is_one() {
        let six = Some(Password::Six([0xff; 6]));
        assert_eq!(first(&packet(6, MAC, 16, &[0xff; 6])).unwrap().password(), six.as_ref());
        // In front of what is no magic packet, but as long as one: a packet for a group, or a broken one.
        for next in
            [packet(6, [0xff; 6], 16, &[]), packet(6, [0x33; 6], 16, &[]), packet(6, OTHER, 15, &[0; 6])]
        {
            assert_eq!(found(MagicPacket::find(&[packet(6, MAC, 16, &[]), next].concat())), [(MAC, false)]);
        }
    }

    #[test]
    fn cannot_be_read_with_a_target_that_is_a_group() {
        let good = postcard::to_allocvec(&plain()).unwrap();
        assert_eq!(postcard::from_bytes::<MagicPacket>(&good), Ok(plain()));
        let mut bad = good;
        bad[0] |= 1;
        assert!(postcard::from_bytes::<MagicPacket>(&bad).is_err());
    }
}
