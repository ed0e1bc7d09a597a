//! The format of magic packets, and the search for them.
//!
//! A magic packet has six 0xFF bytes (the synchronisation stream) followed by sixteen copies of the target's MAC
//! address without a break, anywhere in the payload (AMD publication 20213, "Magic Packet Technology", 1995), and
//! optionally a SecureOn password. More than six 0xFF bytes and more than sixteen copies are allowed.
//!
//! A payload can contain several magic packets. The kernel merges datagrams of one flow that arrive together (UDP GRO:
//! `rx-udp-gro-forwarding` and `rx-gro-list` in ethtool(8)), and a sender can merge them, too (UDP GSO). The payload
//! does not show where one datagram ends, so passwords in such a payload are ignored.

use serde::{Deserialize, Serialize};

use crate::{MacAddr, Password};

/// The length of the synchronisation stream, in bytes.
const SYNC: usize = 6;
/// The sixteen copies of the address, in bytes.
const COPIES: usize = 16 * 6;

/// The length of the shortest magic packet, in bytes.
pub const SHORTEST: usize = SYNC + COPIES;

/// In sixteen copies, each of this many consecutive bytes equals the byte six positions later.
const REPEATED: usize = COPIES - 6;
/// The search compares this many bytes with those six positions later: one SIMD comparison.
const PROBE: usize = 16;
/// The search makes this comparison, the probe, at the end of each step of this many bytes. Wherever a packet begins,
/// at least one probe is therefore within its repeated bytes.
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
    /// A magic packet for this target; `None` if the target is a broadcast, multicast or all-zero address.
    #[must_use]
    pub fn new(target: MacAddr, password: Option<Password>) -> Option<Self> {
        target.is_unicast().then_some(Self { target, password })
    }

    /// The MAC address of the machine to wake.
    #[must_use]
    pub const fn target(&self) -> MacAddr {
        self.target
    }

    /// The SecureOn password, if the packet has one.
    #[must_use]
    pub const fn password(&self) -> Option<&Password> {
        self.password.as_ref()
    }

    /// The payload of a frame or datagram that consists of this packet.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        let password = self.password.as_ref().map(Password::as_bytes).unwrap_or_default();
        [&[0xff; SYNC][..], &self.target.octets().repeat(16), password].concat()
    }

    /// Finds magic packets anywhere in the payload.
    #[must_use]
    pub fn find(payload: &[u8]) -> MagicPackets<'_> {
        MagicPackets::starting_with(Self::first(payload))
    }

    /// Finds a magic packet at the start of the payload, and any magic packets after it. The result is empty if the
    /// payload does not begin with a magic packet.
    #[must_use]
    pub fn at_start(payload: &[u8]) -> MagicPackets<'_> {
        let run = run_of_ff(payload);
        let after_sync = payload.get(run..).filter(|_| run >= SYNC);
        MagicPackets::starting_with(after_sync.and_then(Self::after_sync))
    }

    /// The first magic packet anywhere in the payload, and the bytes after the copies of its address.
    ///
    /// For any payload, the time is linear in the number of bytes up to the end of that packet. Each step of 72 bytes
    /// requires at most one comparison of 16 bytes and, if these are equal, one comparison as long as a step and one as
    /// long as a packet.
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

    /// The magic packet that begins less than a step before this position and whose copies include it, and the bytes
    /// after that packet.
    fn around(payload: &[u8], position: usize) -> Option<(Self, &[u8])> {
        let before = payload.get(..position)?;
        let shifted = payload.get(6..position + 6)?;
        let start = position - common_suffix(before, shifted);
        // The repetition begins with the address, or up to five bytes earlier, in the stream, if the address ends with
        // 0xFF bytes. It does not begin six bytes earlier, because no unicast address begins with 0xFF.
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
    /// The next packet, without its password, and the bytes after its copies.
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

    /// Whether no packets remain.
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
/// Part of a further copy is not a password. If there are enough bytes for another magic packet, they are probably
/// another datagram, perhaps for a group address. Its six 0xFF bytes would look like a password.
fn password_in(tail: &[u8], address: &[u8; 6]) -> Option<Password> {
    if address.starts_with(tail) || tail.len() >= SHORTEST {
        return None;
    }
    if let Some(six) = tail.first_chunk::<6>() {
        return Some(Password::Six(*six));
    }
    tail.first_chunk::<4>().map(|four| Password::Four(*four))
}

/// The number of 0xFF bytes at the start of the slice.
fn run_of_ff(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| **byte == 0xff).count()
}

/// The number of equal bytes at the end of both slices, at most [`STEP`].
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
mod tests;
