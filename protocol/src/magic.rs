//! The magic packet format, and the search for one.
//!
//! Six bytes `FF` (the synchronisation stream), then the target's MAC address sixteen times without
//! a break, anywhere in the payload (AMD publication 20213, "Magic Packet Technology", 1995); then
//! possibly a SecureOn password. More than six `FF` and more than sixteen copies are legal.

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

    /// The first magic packet anywhere in the payload.
    ///
    /// It takes a time linear in the payload's length, whatever the payload: no more than
    /// a comparison of 16 bytes for each step of 72, and for those where they are equal, one of the
    /// step and one of a packet's length.
    #[must_use]
    pub fn find(payload: &[u8]) -> Option<Self> {
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
    /// of it.
    fn around(payload: &[u8], position: usize) -> Option<Self> {
        let before = payload.get(..position)?;
        let six_on = payload.get(6..position + 6)?;
        let start = position - equal_at_the_end(before, six_on);
        // What repeats begins with the address, or up to five bytes earlier, in the stream, where
        // the address holds FF too. Not six: no address of a single card begins with FF.
        let start = start + run_of_ff(payload.get(start..start + 6)?);
        let (before, rest) = payload.split_at_checked(start)?;
        before.ends_with(&[0xff; SYNC]).then(|| Self::behind_sync(rest)).flatten()
    }

    /// The magic packet that the payload begins with.
    #[must_use]
    pub fn at_start(payload: &[u8]) -> Option<Self> {
        let run = run_of_ff(payload);
        if run < SYNC {
            return None;
        }
        Self::behind_sync(payload.get(run..)?)
    }

    /// The magic packet whose synchronisation stream ends where `rest` begins.
    fn behind_sync(rest: &[u8]) -> Option<Self> {
        let (first, more) = rest.split_first_chunk::<6>()?;
        let magic = Self::new(MacAddr::new(*first), None)?;
        // That each copy equals the one before it makes them all equal, in one comparison.
        let copies = rest.get(..COPIES)?;
        if more.get(..COPIES - 6)? != copies.get(..COPIES - 6)? {
            return None;
        }
        let mut tail = rest.get(COPIES..)?;
        while let Some(shorter) = tail.strip_prefix(first) {
            tail = shorter;
        }
        Some(Self { password: password_in(tail, first), ..magic })
    }
}

/// The password in what follows the copies of the address.
///
/// Bytes that go on repeating the address are none, be it in part.
fn password_in(tail: &[u8], address: &[u8; 6]) -> Option<Password> {
    if address.starts_with(tail) {
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

    fn plain() -> MagicPacket {
        MagicPacket::new(MacAddr::new(MAC), None).unwrap()
    }

    #[test]
    fn is_found_wherever_it_lies() {
        for before in 0..3 * STEP {
            for sync in [6, 7, 8, 13, 200] {
                let mut bytes = vec![0x11; before];
                bytes.extend(packet(sync, MAC, 16, &[]));
                assert_eq!(MagicPacket::find(&bytes), Some(plain()), "{before} before, {sync} FF");
                assert_eq!(
                    MagicPacket::at_start(&bytes).is_some(),
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
                let found = MagicPacket::find(&bytes).map(|magic| magic.target());
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
            assert_eq!(MagicPacket::find(&bytes), Some(plain()));
        }
    }

    #[test]
    fn needs_all_of_its_parts() {
        assert_eq!(MagicPacket::find(&packet(5, MAC, 16, &[])), None);
        assert_eq!(MagicPacket::find(&packet(6, MAC, 15, &MAC[..5])), None);
        for wrong in 6..SHORTEST {
            let mut bytes = packet(6, MAC, 16, &[]);
            bytes[wrong] ^= 0x40;
            assert_eq!(MagicPacket::find(&bytes), None, "byte {wrong}");
        }
    }

    #[test]
    fn wakes_no_group() {
        for mac in [[0xff; 6], [0; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
            assert_eq!(MagicPacket::find(&packet(6, mac, 16, &[])), None, "{mac:?}");
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
            assert_eq!(
                MagicPacket::find(&bytes).unwrap().password(),
                password.as_ref(),
                "{length} bytes left"
            );
        }
    }

    #[test]
    fn takes_no_copy_of_the_address_for_a_password() {
        for copies in [17, 20, 40] {
            for part in 0..6 {
                let magic = MagicPacket::find(&packet(6, MAC, copies, &MAC[..part])).unwrap();
                assert_eq!(magic.password(), None, "{copies} copies and {part} bytes");
            }
        }
        let magic = MagicPacket::find(&packet(6, MAC, 20, b"secret")).unwrap();
        assert_eq!(magic.password(), Some(&Password::Six(*b"secret")));
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
