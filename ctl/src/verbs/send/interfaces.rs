//! The interfaces of this host on which a magic packet can be sent, and their addresses.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{LinkAddr, SockaddrLike as _, SockaddrStorage};

/// The hardware type of Ethernet: `ARPHRD_ETHER` in packet(7).
const ETHERNET: u16 = 1;

/// An interface of this host.
#[derive(Debug, Default)]
pub struct HostInterface {
    /// Whether it is up.
    pub is_up: bool,
    /// The broadcast addresses of its IPv4 networks.
    pub broadcasts: Vec<Ipv4Addr>,
    /// Its index, if it has an IPv6 link-local address.
    pub link_local: Option<u32>,
    /// Its MAC address and index, if it is an Ethernet interface.
    pub link: Option<LinkAddr>,
    index: Option<u32>,
    has_link_local: bool,
}

/// The interfaces by name.
///
/// # Errors
/// If the kernel does not list them.
pub fn interfaces() -> nix::Result<BTreeMap<String, HostInterface>> {
    let mut found: BTreeMap<String, HostInterface> = BTreeMap::new();
    for entry in getifaddrs()? {
        // The name can include a label, as in eth0:1.
        let name = entry.interface_name.split(':').next().unwrap_or_default().to_owned();
        found.entry(name).or_default().add(&entry);
    }
    for interface in found.values_mut() {
        interface.link_local = interface.index.filter(|_| interface.has_link_local);
    }
    Ok(found)
}

/// Whether the interface is a port of a bridge. Packets that are sent on the bridge are also sent on its ports.
#[must_use]
pub fn is_bridge_port(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).join("brport").exists()
}

impl HostInterface {
    fn add(&mut self, entry: &InterfaceAddress) {
        self.is_up |= entry.flags.contains(InterfaceFlags::IFF_UP);
        let is_loopback = entry.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        let Some(address) = &entry.address else { return };
        if let Some(link) = address.as_link_addr() {
            self.index = u32::try_from(link.ifindex()).ok();
            self.link = Some(*link).filter(|link| link.hatype() == ETHERNET && !is_loopback);
        } else if let Some(address) = address.as_sockaddr_in6() {
            let multicasts = entry.flags.contains(InterfaceFlags::IFF_MULTICAST) && !is_loopback;
            self.has_link_local |= multicasts && address.ip().is_unicast_link_local();
        } else if entry.flags.contains(InterfaceFlags::IFF_BROADCAST) {
            self.broadcasts.extend(entry.broadcast.as_ref().and_then(ipv4).filter(|it| !it.is_unspecified()));
        }
    }
}

fn ipv4(address: &SockaddrStorage) -> Option<Ipv4Addr> {
    address.family().filter(|family| *family == nix::sys::socket::AddressFamily::Inet)?;
    Some(address.as_sockaddr_in()?.ip())
}

/// The IPv6 address of all nodes on a link: RFC 4291, section 2.7.1.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
