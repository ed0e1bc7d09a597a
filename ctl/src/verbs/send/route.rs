//! The destinations of a magic packet, and the sockets that send to them.

use std::collections::BTreeMap;
use std::io;
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, ToSocketAddrs as _, UdpSocket,
};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, setsockopt, socket, sockopt,
};
use serde::Serialize;

use super::interfaces::{ALL_NODES, HostInterface, is_bridge_port};

/// The EtherType of Wake-on-LAN.
const WAKE_ON_LAN: [u8; 2] = [0x08, 0x42];
/// The Ethernet broadcast address.
const BROADCAST: [u8; 6] = [0xff; 6];

/// A destination of a magic packet.
#[derive(Debug)]
pub struct Route {
    interface: Option<String>,
    endpoint: Endpoint,
}

#[derive(Debug)]
enum Endpoint {
    Datagram(SocketAddr),
    /// An Ethernet frame from this address to all stations.
    Frame(LinkAddr),
}

/// What was sent, or why nothing was sent, to one destination.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sent {
    /// The outgoing interface; absent if the routing table selects it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// `udp4`, `udp6` or `ethernet`, as in the `MagicPacket` signal.
    pub transport: &'static str,
    /// The IP or MAC address.
    pub destination: String,
    /// The UDP port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How many packets were sent.
    pub packets: u32,
    /// Why a packet was not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Why there is no destination.
#[derive(Debug, thiserror::Error)]
pub enum NoRoute {
    /// `--interface` names an unknown interface.
    #[error("interface {0:?} does not exist; `ip -brief link` lists the interfaces")]
    NoInterface(String),
    /// `--interface` names an interface that is down.
    #[error("interface {0:?} is down; bring it up: ip link set {0} up")]
    Down(String),
    /// `--interface` names an interface without a usable address.
    #[error(
        "interface {0:?} has neither an IPv4 broadcast address nor an IPv6 link-local address; \
         send an Ethernet frame with --raw, or send to one address with --to"
    )]
    NoAddress(String),
    /// `--raw` on an interface that is not Ethernet.
    #[error("interface {0:?} is not an Ethernet interface; send without --raw")]
    NotEthernet(String),
    /// No interface has a usable address.
    #[error(
        "no interface that is up has an IPv4 broadcast address or an IPv6 link-local address; `ip -brief address` lists \
         the addresses, and --to sends to one address"
    )]
    Nothing,
    /// `--raw`, and no Ethernet interface is usable.
    #[error("no Ethernet interface is up, bridge ports aside; `ip -brief link` lists the interfaces")]
    NoEthernet,
    /// `--to` names an unknown host.
    #[error("cannot resolve {0:?}: {1}")]
    NoHost(String, io::Error),
}

/// The destinations on these interfaces, or on all interfaces if `names` is empty: the IPv4 broadcast addresses and the
/// IPv6 group of all nodes, or with `raw`, the Ethernet broadcast address.
///
/// # Errors
/// [`NoRoute`], including if one of the named interfaces cannot be used.
pub fn on_interfaces(
    known: &BTreeMap<String, HostInterface>,
    names: &[String],
    raw: bool,
    port: u16,
) -> Result<Vec<Route>, NoRoute> {
    let mut routes = Vec::new();
    for name in names {
        let interface = known.get(name).ok_or_else(|| NoRoute::NoInterface(name.clone()))?;
        if !interface.is_up {
            return Err(NoRoute::Down(name.clone()));
        }
        let found = on_interface(name, interface, raw, port);
        if found.is_empty() {
            let name = name.clone();
            return Err(if raw { NoRoute::NotEthernet(name) } else { NoRoute::NoAddress(name) });
        }
        routes.extend(found);
    }
    if names.is_empty() {
        let usable = known.iter().filter(|(name, interface)| interface.is_up && !is_bridge_port(name));
        routes.extend(usable.flat_map(|(name, interface)| on_interface(name, interface, raw, port)));
    }
    match routes {
        routes if !routes.is_empty() => Ok(routes),
        _ if raw => Err(NoRoute::NoEthernet),
        _ => Err(NoRoute::Nothing),
    }
}

fn on_interface(name: &str, interface: &HostInterface, raw: bool, port: u16) -> Vec<Route> {
    let route = |endpoint| Route { interface: Some(name.to_owned()), endpoint };
    if raw {
        return interface.link.map(|link| route(Endpoint::Frame(link))).into_iter().collect();
    }
    let broadcasts = interface.broadcasts.iter().map(|address| SocketAddrV4::new(*address, port).into());
    let group = interface.link_local.map(|index| SocketAddrV6::new(ALL_NODES, port, 0, index).into());
    broadcasts.chain(group).map(|address| route(Endpoint::Datagram(address))).collect()
}

/// The destinations for a host, which is given by name or address: each of its addresses on each of these interfaces.
/// If there are no interfaces, the routing table selects one.
///
/// # Errors
/// [`NoRoute::NoHost`].
pub fn to_host(host: &str, interfaces: &[String], port: u16) -> Result<Vec<Route>, NoRoute> {
    let unknown = |error| NoRoute::NoHost(host.to_owned(), error);
    let mut addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(unknown)?.collect();
    addresses.dedup();
    let via: Vec<_> = match interfaces {
        [] => vec![None],
        names => names.iter().cloned().map(Some).collect(),
    };
    let routes = via.into_iter().flat_map(|interface| {
        addresses.iter().map(move |address| Route {
            interface: interface.clone(),
            endpoint: Endpoint::Datagram(*address),
        })
    });
    Ok(routes.collect())
}

impl Route {
    /// Returns a result that counts no packets yet.
    #[must_use]
    pub fn result(&self) -> Sent {
        let (transport, destination, port) = match &self.endpoint {
            Endpoint::Datagram(address @ SocketAddr::V4(_)) => {
                ("udp4", address.ip().to_string(), Some(address.port()))
            }
            Endpoint::Datagram(address @ SocketAddr::V6(_)) => {
                ("udp6", address.ip().to_string(), Some(address.port()))
            }
            Endpoint::Frame(_) => ("ethernet", wakevirt_protocol::MacAddr::new(BROADCAST).to_string(), None),
        };
        Sent { interface: self.interface.clone(), transport, destination, port, packets: 0, error: None }
    }

    /// Opens the socket that sends to this destination.
    ///
    /// # Errors
    /// The message says what failed and, for a missing privilege, how to get it.
    pub fn open(&self) -> Result<PacketSocket, String> {
        match &self.endpoint {
            Endpoint::Datagram(address) => {
                let socket = datagram_socket(*address, self.interface.as_deref())
                    .map_err(|error| error.to_string())?;
                Ok(PacketSocket::Datagram(socket, *address))
            }
            Endpoint::Frame(link) => Ok(PacketSocket::Frame(frame_socket().map_err(frame_error)?, *link)),
        }
    }
}

/// A UDP socket that can send broadcasts, on this interface.
fn datagram_socket(address: SocketAddr, interface: Option<&str>) -> io::Result<UdpSocket> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_broadcast(address.is_ipv4())?;
    if let Some(name) = interface {
        // Two interfaces can have the same broadcast address. Binding needs no privilege since Linux 5.7; if it fails on
        // an earlier kernel, the routing table selects the interface.
        match setsockopt(&socket, sockopt::BindToDevice, &name.into()) {
            Ok(()) | Err(Errno::EPERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(socket)
}

/// A packet socket that does not receive anything: protocol 0 in packet(7).
fn frame_socket() -> nix::Result<OwnedFd> {
    socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
}

fn frame_error(error: Errno) -> String {
    match error {
        Errno::EPERM => {
            "sending frames requires CAP_NET_RAW: run the command with sudo, or send without --raw".to_owned()
        }
        error => format!("cannot open a packet socket: {}", error.desc()),
    }
}

/// An open socket and its destination.
#[derive(Debug)]
pub enum PacketSocket {
    /// Sends datagrams.
    Datagram(UdpSocket, SocketAddr),
    /// Sends Ethernet frames.
    Frame(OwnedFd, LinkAddr),
}

impl PacketSocket {
    /// Sends one packet.
    ///
    /// # Errors
    /// The error of the system call.
    pub fn send(&self, payload: &[u8]) -> io::Result<()> {
        match self {
            Self::Datagram(socket, address) => _ = socket.send_to(payload, address)?,
            Self::Frame(socket, link) => {
                let source = link.addr().unwrap_or_default();
                let frame = [&BROADCAST[..], &source, &WAKE_ON_LAN, payload].concat();
                sendto(socket.as_raw_fd(), &frame, link, MsgFlags::empty())?;
            }
        }
        Ok(())
    }
}

impl Sent {
    /// Describes the result in one line.
    #[must_use]
    pub fn describe(&self, mac: &str) -> String {
        let Self { interface, transport, destination, port, packets, .. } = self;
        let noun = if *packets == 1 { "packet" } else { "packets" };
        let port = port.map(|port| format!(" port {port}")).unwrap_or_default();
        let on = interface.as_ref().map(|name| format!(" on {name}")).unwrap_or_default();
        format!("{mac}: {packets} {noun} to {destination}{port}{on} ({transport})")
    }
}
