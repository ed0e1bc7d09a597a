//! The kernel's filter: a classic BPF program that passes all frames that the parser accepts, and few others.
//!
//! Its input is what the socket delivers: the frame without its link header and outer VLAN tag, and the EtherType. It
//! reads the same headers as the parser in `wakevirt_protocol::frame`, in the same order, and leaves the search to the
//! parser. A load beyond the end of the frame drops the frame (Linux, Documentation/networking/filter.rst).
//!
//! libpcap's compiler is not used, because its filters for sockets without link headers support at most one tag and no
//! IPv6 extension headers.

mod assembler;

use libc::sock_filter;
use wakevirt_protocol::frame::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_WOL, ETHERTYPES_TAG, MAX_EXTENSION_HEADERS, MAX_TAGS, SEARCHED,
    UDP,
};
use wakevirt_protocol::magic::SHORTEST;

use assembler::{Address, Assembler, Label};

/// The frames that a filter passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Frames in any direction.
    Any,
    /// Only frames that leave through the interface.
    Outgoing,
}

/// Returns the program for these ports.
///
/// `None` if it exceeds the kernel's limit, which requires far more ports than the configuration allows.
#[must_use]
pub fn program(ports: &[u16], direction: Direction) -> Option<Vec<sock_filter>> {
    let mut code = Assembler::default();
    let pass = code.label();
    let drop = code.label();
    let udp = code.label();

    // Drop frames that are too short for a magic packet.
    code.load_length();
    code.unless_at_least(u32::try_from(SHORTEST).ok()?, drop);
    if direction == Direction::Outgoing {
        code.load_ancillary(libc::SKF_AD_PKTTYPE)?;
        code.unless_equal(u32::from(libc::PACKET_OUTGOING), drop);
    }

    let headers = link_headers(&mut code, pass, drop)?;
    for header in headers {
        ip_headers(&mut code, header, udp, drop);
    }

    // X is the offset of the UDP header.
    code.place(udp);
    code.load_half(Address::AtX(2));
    for port in ports {
        code.if_equal(u32::from(*port), pass);
    }
    begins_with_sync(&mut code, Address::AtX(8), pass, drop);

    code.place(pass);
    code.accept(u32::try_from(SEARCHED).ok()?);
    code.place(drop);
    code.accept(0);
    code.assemble()
}

/// The entry points of the code for an IP header at the offset `base`.
struct IpHeader {
    base: u32,
    ipv4: Label,
    ipv6: Label,
}

/// Skips VLAN tags and jumps by EtherType. Returns the labels of the IP headers, which the caller must place.
fn link_headers(code: &mut Assembler, pass: Label, drop: Label) -> Option<Vec<IpHeader>> {
    code.load_ancillary(libc::SKF_AD_PROTOCOL)?;
    let mut headers = Vec::new();
    // The parser counts a tag that the kernel removed, but this code cannot, so it may skip one more tag than the
    // parser allows.
    for tags in 0..=MAX_TAGS {
        let base = u32::try_from(4 * tags).ok()?;
        let (ipv4, ipv6, tag) = (code.label(), code.label(), code.label());
        headers.push(IpHeader { base, ipv4, ipv6 });
        code.if_equal(u32::from(ETHERTYPE_IPV4), ipv4);
        code.if_equal(u32::from(ETHERTYPE_IPV6), ipv6);
        code.if_equal(u32::from(ETHERTYPE_WOL), pass);
        if tags < MAX_TAGS {
            for ethertype in ETHERTYPES_TAG {
                code.if_equal(u32::from(ethertype), tag);
            }
        }
        begins_with_sync(code, Address::At(base), pass, drop);
        code.place(tag);
        code.load_half(Address::At(base + 2));
    }
    Some(headers)
}

/// Jumps to `udp` with X at the UDP header, or to `drop`.
fn ip_headers(code: &mut Assembler, IpHeader { base, ipv4, ipv6 }: IpHeader, udp: Label, drop: Label) {
    code.place(ipv4);
    code.load_byte(Address::At(base + 9));
    code.unless_equal(u32::from(UDP), drop);
    code.load_half(Address::At(base + 6));
    code.if_any_bit(0x1fff, drop);
    code.load_x_with_ipv4_header_length(base);
    code.x_to_a();
    code.add(base);
    code.a_to_x();
    code.go_to(udp);

    code.place(ipv6);
    code.load_x(base + 40);
    code.load_byte(Address::At(base + 6));
    extension_headers(code, udp, drop);
}

/// Passes a frame with six 0xFF bytes at this address, and drops any other.
fn begins_with_sync(code: &mut Assembler, at: Address, pass: Label, drop: Label) {
    code.load_word(at);
    code.unless_equal(0xffff_ffff, drop);
    code.load_half(at.plus(4));
    code.if_equal(0xffff, pass);
    code.go_to(drop);
}

/// Skips IPv6 extension headers: on entry, A is the next header's kind and X its offset.
///
/// A BPF program has no loops, so the step is repeated for each possible header.
fn extension_headers(code: &mut Assembler, udp: Label, drop: Label) {
    for _ in 0..MAX_EXTENSION_HEADERS {
        let (options, authentication, advance) = (code.label(), code.label(), code.label());
        code.if_equal(u32::from(UDP), udp);
        code.if_equal(0, options);
        code.if_equal(43, options);
        code.if_equal(60, options);
        code.if_equal(51, authentication);
        code.unless_equal(44, drop);

        code.load_half(Address::AtX(2));
        code.if_any_bit(0xfff8, drop);
        code.load_number(8);
        code.go_to(advance);

        code.place(options);
        code.load_byte(Address::AtX(1));
        code.add(1);
        code.shift_left(3);
        code.go_to(advance);

        code.place(authentication);
        code.load_byte(Address::AtX(1));
        code.add(2);
        code.shift_left(2);

        // A is this header's length; its first byte is the kind of the next header.
        code.place(advance);
        code.store(0);
        code.load_byte(Address::AtX(0));
        code.store(1);
        code.load_stored(0);
        code.add_x();
        code.a_to_x();
        code.load_stored(1);
    }
    code.if_equal(u32::from(UDP), udp);
    code.go_to(drop);
}

#[cfg(test)]
mod tests {
    use super::*;
    use wakevirt_protocol::sniffer::MAX_PORTS;

    #[test]
    fn fits_the_kernel_limits_with_the_maximum_number_of_ports() {
        let ports: Vec<u16> = (0..u16::try_from(MAX_PORTS).unwrap()).collect();
        let length = program(&ports, Direction::Outgoing).unwrap().len();
        // Well below BPF_MAXINSNS. The kernel charges the program, with 8 bytes for each instruction, against
        // `net.core.optmem_max`, which is at least 20 KiB by default.
        assert!(length < 1000, "{length} instructions");
    }

    #[test]
    fn loads_metadata_at_the_documented_offsets() {
        let program = program(&[9], Direction::Outgoing).unwrap();
        let loads: Vec<u32> = program.iter().filter(|i| i.code == 0x20).map(|i| i.k).take(2).collect();
        // SKF_AD_OFF is -0x1000; PKTTYPE is 4 and PROTOCOL 0.
        assert_eq!(loads, [0xffff_f004, 0xffff_f000]);
    }
}
