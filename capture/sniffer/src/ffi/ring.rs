//! The receive ring of a packet socket: memory into which the kernel writes frames, so that reading one takes no system
//! call (`PACKET_RX_RING` with `TPACKET_V2`, Documentation/networking/packet_mmap.rst in the kernel's source).
//!
//! The ring consists of slots. A slot belongs to the kernel or to this process, depending on its status. The kernel
//! fills the slots in their order, and does not change a slot that belongs to this process. Nothing but the kernel
//! shares the memory.

use std::io;
use std::mem::{offset_of, size_of};
use std::num::NonZero;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{sockaddr_ll, tpacket_req, tpacket2_hdr};
use wakevirt_protocol::frame::SEARCHED;

use super::{Envelope, Sender, set_int_option, set_option};

/// The size of the status at the start of a slot, in bytes.
const STATUS: usize = size_of::<u32>();
/// The offset of the sender's address in a slot, in bytes: after the header.
const ADDRESS: usize = size_of::<tpacket2_hdr>().next_multiple_of(libc::TPACKET_ALIGNMENT);
/// The offset of the payload in a slot, in bytes, if the socket delivers frames without their link header
/// (`tpacket_rcv` in net/packet/af_packet.c).
const PAYLOAD: usize = libc::TPACKET2_HDRLEN.next_multiple_of(libc::TPACKET_ALIGNMENT) + 16;
/// The size of a slot, in bytes. Its payload is exactly the part of a frame that is searched.
const SLOT: usize = PAYLOAD + SEARCHED;
/// The size of a block, in bytes: a contiguous piece of the kernel's memory, and a multiple of every page size.
const BLOCK: usize = 64 * 1024;
const SLOTS_IN_BLOCK: usize = BLOCK / SLOT;
/// The maximum size of a ring, in bytes.
///
/// It holds 7680 frames: as many as arrive in 15 ms if a flood contains 500,000 a second.
const MAX_RING: usize = 16 << 20;

/// The ring of one packet socket.
#[derive(Debug)]
pub struct Ring {
    memory: NonNull<u8>,
    blocks: NonZero<usize>,
    /// The number of the slot that the kernel fills next, if it belongs to the kernel.
    next: usize,
}

const _: () = assert!(SLOT.is_multiple_of(libc::TPACKET_ALIGNMENT) && SLOTS_IN_BLOCK > 0);

impl Ring {
    /// Adds a ring to a packet socket that is not bound yet. From then on, the socket delivers frames only through the
    /// ring. Its size is at most `size` bytes and less if the kernel does not have enough memory. The memory is never
    /// released, because the sandbox forbids munmap(2).
    ///
    /// # Errors
    /// `ENOMEM` if the kernel has no memory for the smallest ring.
    pub fn new(socket: impl AsFd, size: usize) -> io::Result<Self> {
        let version = i32::try_from(libc::tpacket_versions::TPACKET_V2 as u32).map_err(io::Error::other)?;
        set_int_option(&socket, libc::SOL_PACKET, libc::PACKET_VERSION, version)?;
        let mut blocks = NonZero::new(size.min(MAX_RING) / BLOCK).ok_or(io::ErrorKind::InvalidInput)?;
        loop {
            let error = match request(&socket, blocks) {
                Ok(()) => break,
                Err(error) => error,
            };
            blocks = match NonZero::new(blocks.get() / 2) {
                Some(fewer) if error.raw_os_error() == Some(libc::ENOMEM) => fewer,
                _ => return Err(error),
            };
        }
        let (access, fd) = (libc::PROT_READ | libc::PROT_WRITE, socket.as_fd().as_raw_fd());
        let length = blocks.get().saturating_mul(BLOCK);
        // SAFETY: the kernel chooses the address, so that nothing else is mapped there.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, fd, 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { memory, blocks, next: 0 })
    }

    /// Calls `handle` with the oldest frame, then returns its slot to the kernel. Returns `None` if there is no frame.
    pub fn receive<Result>(&mut self, handle: impl FnOnce(&Envelope, &[u8]) -> Result) -> Option<Result> {
        // SAFETY: a slot begins with its status, is aligned for it, and stays mapped. Only atomic operations access it.
        let status = unsafe { AtomicU32::from_ptr(self.in_next_slot(0).as_ptr().cast()) };
        // Pairs with the kernel's barrier before it sets the status: the rest of the slot is complete.
        let flags = status.load(Ordering::Acquire);
        if flags & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: the slot stays mapped, and the kernel does not change it until its status changes below.
        let slot =
            unsafe { std::slice::from_raw_parts_mut(self.in_next_slot(STATUS).as_ptr(), SLOT - STATUS) };
        let (envelope, payload) = contents(slot, flags).unwrap_or_default();
        let payload = slot.get_mut(payload).unwrap_or_default();
        let result = handle(&envelope, payload);
        // It can contain a password, and the kernel might not overwrite it for years.
        payload.fill(0);
        status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        let slots = self.blocks.get().saturating_mul(SLOTS_IN_BLOCK);
        self.next = self.next.wrapping_add(1).checked_rem(slots).unwrap_or(0);
        Some(result)
    }

    /// The address of a byte in the next slot. The offset must be less than [`SLOT`].
    const fn in_next_slot(&self, offset: usize) -> NonNull<u8> {
        let (block, slot) = (self.next / SLOTS_IN_BLOCK, self.next % SLOTS_IN_BLOCK);
        // SAFETY: `next` is less than the number of slots, so the byte is within the mapped memory.
        unsafe { self.memory.add(block * BLOCK + slot * SLOT + offset) }
    }
}

/// The frame in a slot, of which the status was removed: its metadata, and where its payload is. Returns `None` only if
/// the kernel's header contradicts itself.
fn contents(slot: &[u8], flags: u32) -> Option<(Envelope, Range<usize>)> {
    let number = |offset| field(slot, offset).map(u32::from_ne_bytes);
    let short = |offset| field(slot, offset).map(u16::from_ne_bytes);
    let captured = number(offset_of!(tpacket2_hdr, tp_snaplen))?;
    let start = usize::from(short(offset_of!(tpacket2_hdr, tp_net))?).checked_sub(STATUS)?;
    let payload = start..start.checked_add(usize::try_from(captured).ok()?)?;
    slot.get(payload.clone())?;
    let tag = (flags & libc::TP_STATUS_VLAN_VALID != 0).then(|| short(offset_of!(tpacket2_hdr, tp_vlan_tci)));
    let sender = Sender::Link {
        protocol: field(slot, ADDRESS + offset_of!(sockaddr_ll, sll_protocol)).map(u16::from_be_bytes)?,
        interface: number(ADDRESS + offset_of!(sockaddr_ll, sll_ifindex))?,
        kind: short(ADDRESS + offset_of!(sockaddr_ll, sll_hatype))?,
        address_length: field(slot, ADDRESS + offset_of!(sockaddr_ll, sll_halen)).map(u8::from_ne_bytes)?,
        address: field(slot, ADDRESS + offset_of!(sockaddr_ll, sll_addr))?,
    };
    let envelope = Envelope {
        length: payload.len(),
        truncated: number(offset_of!(tpacket2_hdr, tp_len))? > captured,
        sender: Some(sender),
        tag: tag.flatten(),
        arrival: None,
    };
    Some((envelope, payload))
}

/// A field of a slot, of which the status was removed.
fn field<const SIZE: usize>(slot: &[u8], offset: usize) -> Option<[u8; SIZE]> {
    slot.get(offset.checked_sub(STATUS)?..)?.first_chunk().copied()
}

fn request(socket: impl AsFd, blocks: NonZero<usize>) -> io::Result<()> {
    let number = |value: usize| u32::try_from(value).map_err(io::Error::other);
    let ring = tpacket_req {
        tp_block_size: number(BLOCK)?,
        tp_block_nr: number(blocks.get())?,
        tp_frame_size: number(SLOT)?,
        tp_frame_nr: number(blocks.get().saturating_mul(SLOTS_IN_BLOCK))?,
    };
    set_option(socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &ring)
}
