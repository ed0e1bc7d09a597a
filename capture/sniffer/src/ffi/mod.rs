//! The system calls on packet sockets that no crate wraps: packet(7), socket(7), ip(7), ipv6(7).
//!
//! This module is the only one of the crate with unsafe code. It contains thin, safe wrappers, and makes no decisions.
#![expect(
    unsafe_code,
    reason = "packet sockets, their filters and their ancillary data have no safe wrapper"
)]

mod ring;

use std::ffi::CStr;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

pub use ring::Ring;

/// The buffer size for the ancillary data of one datagram, in bytes: a `tpacket_auxdata` or packet information, with
/// headers.
const CONTROL: usize = 128;

/// The metadata of a datagram.
#[derive(Debug, Default)]
pub struct Envelope {
    /// How many bytes of the payload are in the buffer.
    pub length: usize,
    /// Whether the filter or the buffer truncated the payload.
    pub truncated: bool,
    /// The sender.
    pub sender: Option<Sender>,
    /// The tag control information (host byte order) of the VLAN tag that the kernel removed.
    pub tag: Option<u16>,
    /// The ingress interface and the destination address; only for UDP sockets.
    pub arrival: Option<Arrival>,
}

impl Envelope {
    /// The kernel's index of the ingress interface, or 0 if it is unknown.
    pub const fn interface(&self) -> u32 {
        match (&self.sender, self.arrival) {
            (Some(Sender::Link { interface, .. }), _) => *interface,
            (_, Some(Arrival::V4 { interface, .. } | Arrival::V6 { interface, .. })) => interface,
            _ => 0,
        }
    }
}

/// The sender of a frame or datagram, depending on the kind of socket.
#[derive(Debug)]
pub enum Sender {
    /// From a packet socket: `struct sockaddr_ll`.
    Link {
        /// The EtherType, in host byte order.
        protocol: u16,
        /// The index of the ingress interface.
        interface: u32,
        /// The kind of the interface: an ARPHRD number.
        kind: u16,
        /// The length of the sender's link address.
        address_length: u8,
        /// The sender's link address.
        address: [u8; 8],
    },
    /// From a UDP socket.
    Inet(SocketAddr),
}

/// Where a datagram arrived: `struct in_pktinfo` (ip(7)) or `struct in6_pktinfo` (ipv6(7)).
#[derive(Debug, Clone, Copy)]
pub enum Arrival {
    /// On an IPv4 socket.
    V4 {
        /// The index of the ingress interface.
        interface: u32,
        /// The destination address in the header.
        destination: Ipv4Addr,
    },
    /// On an IPv6 socket.
    V6 {
        /// The index of the ingress interface.
        interface: u32,
        /// The destination address in the header.
        destination: Ipv6Addr,
    },
}

/// Queries the kernel's Landlock version: landlock(7). The landlock crate also queries it, but does not return the
/// error.
///
/// # Errors
/// `ENOSYS` if the kernel has no Landlock, `EOPNOTSUPP` if it is disabled. Any other error comes from a
/// seccomp filter.
pub fn probe_landlock() -> io::Result<()> {
    // landlock_create_ruleset(2): a query for the version has no attributes and a size of zero.
    const VERSION: libc::c_uint = 1;
    let attributes = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the call reads no memory and opens no descriptor.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, attributes, 0_usize, VERSION) };
    if version < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Opens a packet socket that delivers frames without their link header. It has no protocol, and therefore receives
/// nothing until it is bound.
///
/// # Errors
/// `EPERM` without `CAP_NET_RAW`.
pub fn packet_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket() takes no pointer.
    let fd = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
    // SAFETY: the descriptor is new and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Binds a packet socket to all protocols on the interface, or on all interfaces if `interface` is 0.
///
/// # Errors
/// `ENODEV` if the interface does not exist.
pub fn bind_packet_socket(socket: impl AsFd, interface: u32) -> io::Result<()> {
    let protocol = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?;
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?,
        sll_protocol: protocol.to_be(),
        sll_ifindex: i32::try_from(interface).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the address is a complete sockaddr_ll that outlives the call, and its length is correct.
    check(unsafe { libc::bind(fd, (&raw const address).cast(), length_of::<libc::sockaddr_ll>()?) })?;
    Ok(())
}

/// Attaches the filter, which the kernel runs from then on: `SO_ATTACH_FILTER`.
///
/// # Errors
/// `EINVAL` if the program is invalid, `EPERM` if the socket's filter is locked.
pub fn attach_filter(socket: impl AsFd, program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        // The kernel only reads the program, although the pointer is not const.
        filter: program.as_ptr().cast_mut(),
    };
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Sets an option with an `int` value.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_int_option(socket: impl AsFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    set_option(socket, level, option, &value)
}

fn set_option<Value>(socket: impl AsFd, level: i32, option: i32, value: &Value) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the value outlives the call, and its length is correct.
    check(unsafe { libc::setsockopt(fd, level, option, (&raw const *value).cast(), length_of::<Value>()?) })?;
    Ok(())
}

/// Returns how many frames a packet socket has dropped since the last call: `PACKET_STATISTICS`.
///
/// # Errors
/// Those of getsockopt(2).
pub fn take_packet_drops(socket: impl AsFd) -> io::Result<u32> {
    let statistics: libc::tpacket_stats = get_option(socket, libc::SOL_PACKET, libc::PACKET_STATISTICS)?;
    Ok(statistics.tp_drops)
}

/// Returns how many datagrams a socket has dropped since it was opened: `SO_MEMINFO`, the last of nine numbers
/// (`SK_MEMINFO_DROPS` in linux/sock_diag.h).
///
/// # Errors
/// Those of getsockopt(2).
pub fn drops(socket: impl AsFd) -> io::Result<u32> {
    let [.., drops]: [u32; 9] = get_option(socket, libc::SOL_SOCKET, libc::SO_MEMINFO)?;
    Ok(drops)
}

/// A type of plain numbers, valid for all bit patterns.
trait Plain {}
impl Plain for libc::tpacket_stats {}
impl Plain for [u32; 9] {}

fn get_option<Value: Plain>(socket: impl AsFd, level: i32, option: i32) -> io::Result<Value> {
    let mut value = MaybeUninit::<Value>::zeroed();
    let mut length = length_of::<Value>()?;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `length` bytes, the size of the value.
    check(unsafe { libc::getsockopt(fd, level, option, value.as_mut_ptr().cast(), &raw mut length) })?;
    // SAFETY: the value was zeroed, and every bit pattern that the kernel can write is valid.
    Ok(unsafe { value.assume_init() })
}

/// Receives a datagram from a packet socket, a UDP socket or the socketpair.
///
/// A payload longer than the buffer is truncated.
///
/// # Errors
/// `EAGAIN` if none is pending; otherwise those of recvmsg(2).
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Envelope> {
    // SAFETY: all zeros is a valid sockaddr_storage.
    let mut address: libc::sockaddr_storage = unsafe { MaybeUninit::zeroed().assume_init() };
    // u64, for the alignment of cmsghdr.
    let mut control = [0_u64; CONTROL / 8];
    let mut payload = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeros is a valid msghdr with null pointers.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_name = (&raw mut address).cast();
    message.msg_namelen = length_of::<libc::sockaddr_storage>()?;
    message.msg_iov = &raw mut payload;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = convert(CONTROL)?;

    // SAFETY: all buffers of the message outlive the call, and their lengths are correct.
    let received = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let length = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    let mut envelope = Envelope {
        length,
        truncated: message.msg_flags & libc::MSG_TRUNC != 0,
        sender: sender(&address, usize::try_from(message.msg_namelen).unwrap_or(0)),
        ..Envelope::default()
    };
    // SAFETY: recvmsg() filled in the message, and its control buffer is alive.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: the macros return pointers to complete, aligned headers inside the control buffer.
        unsafe { read_control(header, &mut envelope) };
        // SAFETY: the header came from this message.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok(envelope)
}

fn sender(address: &libc::sockaddr_storage, length: usize) -> Option<Sender> {
    let family = i32::from(address.ss_family);
    if family == libc::AF_PACKET && length >= std::mem::offset_of!(libc::sockaddr_ll, sll_addr) + 6 {
        // SAFETY: the storage is larger than a sockaddr_ll and aligned for it, and its family identifies it as one.
        let link = unsafe { &*(&raw const *address).cast::<libc::sockaddr_ll>() };
        return Some(Sender::Link {
            protocol: u16::from_be(link.sll_protocol),
            interface: u32::try_from(link.sll_ifindex).ok()?,
            kind: link.sll_hatype,
            address_length: link.sll_halen,
            address: link.sll_addr,
        });
    }
    if family == libc::AF_INET && length >= size_of::<libc::sockaddr_in>() {
        // SAFETY: as above, for a sockaddr_in.
        let inet = unsafe { &*(&raw const *address).cast::<libc::sockaddr_in>() };
        let ip = Ipv4Addr::from(u32::from_be(inet.sin_addr.s_addr));
        return Some(Sender::Inet(SocketAddrV4::new(ip, u16::from_be(inet.sin_port)).into()));
    }
    if family == libc::AF_INET6 && length >= size_of::<libc::sockaddr_in6>() {
        // SAFETY: as above, for a sockaddr_in6.
        let inet = unsafe { &*(&raw const *address).cast::<libc::sockaddr_in6>() };
        let ip = Ipv6Addr::from(inet.sin6_addr.s6_addr);
        let port = u16::from_be(inet.sin6_port);
        return Some(Sender::Inet(SocketAddrV6::new(ip, port, 0, inet.sin6_scope_id).into()));
    }
    None
}

/// Reads one item of ancillary data.
///
/// # Safety
/// `CMSG_FIRSTHDR` or `CMSG_NXTHDR` returned `header` for a control buffer that recvmsg(2) filled in and that is still
/// alive: an aligned header, followed by as many bytes as its length field specifies.
unsafe fn read_control(header: *const libc::cmsghdr, envelope: &mut Envelope) {
    // SAFETY: guaranteed by the caller: the header is complete and aligned.
    let libc::cmsghdr { cmsg_level, cmsg_type, .. } = *unsafe { &*header };
    match (cmsg_level, cmsg_type) {
        (libc::SOL_PACKET, libc::PACKET_AUXDATA) => {
            // SAFETY: guaranteed by the caller; this level and type have this value (packet(7)).
            if let Some(data) = unsafe { control_data::<libc::tpacket_auxdata>(header) } {
                if data.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                    envelope.tag = Some(data.tp_vlan_tci);
                }
                // `tp_snaplen` is the length after the filter.
                envelope.truncated |= data.tp_len > data.tp_snaplen;
            }
        }
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            // SAFETY: as above (ip(7)).
            if let Some(info) = unsafe { control_data::<libc::in_pktinfo>(header) } {
                envelope.arrival = Some(Arrival::V4 {
                    interface: u32::try_from(info.ipi_ifindex).unwrap_or(0),
                    destination: Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)),
                });
            }
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            // SAFETY: as above (ipv6(7)).
            if let Some(info) = unsafe { control_data::<libc::in6_pktinfo>(header) } {
                envelope.arrival = Some(Arrival::V6 {
                    interface: info.ipi6_ifindex,
                    destination: Ipv6Addr::from(info.ipi6_addr.s6_addr),
                });
            }
        }
        _ => {}
    }
}

/// The value after a header of ancillary data; `None` if the length in the header is too short.
///
/// # Safety
/// `header` must be as for [`read_control`], and `Data` must be a type of plain numbers, valid for all bit patterns.
unsafe fn control_data<Data: Copy>(header: *const libc::cmsghdr) -> Option<Data> {
    // SAFETY: guaranteed by the caller: the header is complete and aligned.
    let length: usize = convert(unsafe { &*header }.cmsg_len).ok()?;
    // SAFETY: CMSG_LEN only performs arithmetic.
    let needed: usize = convert(unsafe { libc::CMSG_LEN(convert(size_of::<Data>()).ok()?) }).ok()?;
    if length < needed {
        return None;
    }
    // SAFETY: guaranteed by the caller: the header is complete.
    let data = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: the length shows that the buffer contains a complete value of plain numbers, with any alignment.
    Some(unsafe { data.cast::<Data>().read_unaligned() })
}

/// The buffer size for the description of an error, in bytes.
pub const MAX_DESCRIPTION: usize = 128;

/// Describes an error number: strerror(3). The result is empty if the C library fails.
pub fn describe(code: i32, buffer: &mut [u8; MAX_DESCRIPTION]) -> &str {
    // SAFETY: the function writes at most as many bytes as the length, which is that of the buffer.
    let failed = unsafe { libc::strerror_r(code, buffer.as_mut_ptr().cast(), buffer.len()) } != 0;
    let text = CStr::from_bytes_until_nul(buffer).ok().filter(|_| !failed);
    text.and_then(|text| text.to_str().ok()).unwrap_or_default()
}

/// Exits the process at once with exit_group(2). `std::process::exit` would first run handlers that
/// make system calls that the sandbox forbids.
pub fn exit(code: i32) -> ! {
    // SAFETY: _exit() takes no pointer and does not return.
    unsafe { libc::_exit(code) }
}

/// Ignores the signals with which a terminal or a service manager stops a process group. The announcer also receives
/// them, and the sniffer exits after the announcer. Restores the default action of SIGSEGV and SIGBUS: the standard
/// library's handler makes a system call that the sandbox forbids, and the resulting SIGSYS would hide the cause of the
/// crash.
///
/// # Errors
/// Those of signal(2).
pub fn set_signal_dispositions() -> io::Result<()> {
    for (signal, disposition) in [
        (libc::SIGHUP, libc::SIG_IGN),
        (libc::SIGINT, libc::SIG_IGN),
        (libc::SIGTERM, libc::SIG_IGN),
        (libc::SIGSEGV, libc::SIG_DFL),
        (libc::SIGBUS, libc::SIG_DFL),
    ] {
        // SAFETY: none of the dispositions is a function of this program.
        if unsafe { libc::signal(signal, disposition) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn length_of<Value>() -> io::Result<libc::socklen_t> {
    convert(size_of::<Value>())
}

/// Converts a number to the type that the C library expects: the lengths of ancillary data are `size_t` in glibc and
/// `socklen_t` in musl.
fn convert<Number, Wanted>(number: Number) -> io::Result<Wanted>
where
    Wanted: TryFrom<Number, Error: std::error::Error + Send + Sync + 'static>,
{
    Wanted::try_from(number).map_err(io::Error::other)
}
