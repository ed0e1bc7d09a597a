//! The loopback test: sends a packet for an unused address to this host, and waits until capture announces it.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use tokio::time::timeout;
use wakevirt_protocol::{MacAddr, MagicPacket};

use super::network::Link;
use crate::client::{CaptureStatus, Client};
use crate::verbs::PORT;
use crate::verbs::finding::{Seen, not_checked};

/// The first octets of the test addresses. Network cards rarely have such an address, because it is locally
/// administered (IEEE 802-2014, 8.4).
const PREFIX: [u8; 4] = [0x02, b'W', b'O', b'L'];
/// How long to wait for the announcement.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The result of the test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopBack {
    /// The address in the packet.
    pub mac: String,
    /// The addresses to which it was sent.
    pub destinations: Vec<String>,
    /// The time until capture announced it, and the interface. `None` if it did not.
    pub announced: Option<(Duration, String)>,
}

/// Whether an address is one that this test uses.
#[must_use]
pub fn is_test(mac: MacAddr) -> bool {
    mac.octets().starts_with(&PREFIX)
}

/// Runs the test. `has_socket` says whether a UDP socket is bound to the port: packet sockets do not receive the
/// broadcasts of this host.
///
/// # Errors
/// If no packet can be sent to an interface on which capture receives.
pub async fn test(
    client: &Client,
    capture: &CaptureStatus,
    links: &[Link],
    has_socket: bool,
) -> Seen<LoopBack> {
    let failed =
        |reason: String| not_checked("the path of a packet through capture", reason, "wakevirtctl send MAC");
    let destinations = destinations(capture, links, has_socket);
    if destinations.is_empty() {
        let reason = "capture receives packets from this host neither on the loopback interface, nor as broadcasts on a UDP socket";
        return Err(failed(reason.to_owned()));
    }
    let mut packets = client.packets().await.map_err(|error| failed(error.to_string()))?;
    let mac = unused_address();
    let start = Instant::now();
    send(mac, &destinations).map_err(|error| failed(format!("cannot send a packet: {error}")))?;
    let announced = timeout(TIMEOUT, async {
        while let Some(packet) = packets.next().await {
            if packet.mac.parse() == Ok(mac) {
                return Some((start.elapsed(), packet.interface.unwrap_or_default()));
            }
        }
        None
    });
    let announced = announced.await.ok().flatten();
    let is_limited = |now: &CaptureStatus| now.limited > capture.limited;
    if announced.is_none() && client.capture_status().await.is_ok_and(|now| is_limited(&now)) {
        return Err(failed("packets for unknown addresses exceed capture's limit".to_owned()));
    }
    let destinations = destinations.iter().map(IpAddr::to_string).collect();
    Ok(LoopBack { mac: mac.to_string(), destinations, announced })
}

/// Returns an address that differs on each call.
fn unused_address() -> MacAddr {
    let [a, b, c, d] = PREFIX;
    let [e, f, ..] = RandomState::new().hash_one(0).to_ne_bytes();
    MacAddr::new([a, b, c, d, e, f])
}

/// The loopback address, or the broadcast addresses of the interfaces, which the kernel loops back.
fn destinations(capture: &CaptureStatus, links: &[Link], has_socket: bool) -> Vec<IpAddr> {
    if capture.interfaces.iter().any(|name| name == "lo") {
        return vec![Ipv4Addr::LOCALHOST.into()];
    }
    let captured =
        links.iter().filter(|link| has_socket && link.is_up() && capture.interfaces.contains(&link.name));
    let addresses = captured.flat_map(|link| &link.addr_info);
    addresses.filter_map(|address| address.broadcast.as_deref()?.parse().ok()).collect()
}

fn send(mac: MacAddr, destinations: &[IpAddr]) -> std::io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_broadcast(true)?;
    // The prefix makes it a unicast address, so `new` does not return `None`.
    let packet = MagicPacket::new(mac, None).map(|packet| packet.payload()).unwrap_or_default();
    destinations.iter().try_for_each(|destination| socket.send_to(&packet, (*destination, PORT)).map(drop))
}
