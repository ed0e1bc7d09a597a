//! Whether the guest of a running domain answers: through its guest agent, or at an address that libvirt's DHCP server
//! has leased to it.
//!
//! virsh(1) and ip(8) run with the privileges of the caller. At most one empty datagram per second is sent to each
//! leased address.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use roxmltree::{Document, Node};
use serde::Deserialize;
use wakevirt_protocol::MacAddr;

use super::progress::Progress;
use crate::client::Domain;
use crate::{program, virsh};

/// The channel of the guest agent: <https://libvirt.org/formatdomain.html#channel>.
const AGENT: &str = "org.qemu.guest_agent.0";
/// How often to check.
const INTERVAL: Duration = Duration::from_secs(1);
/// The discard port (RFC 863).
const DISCARD: u16 = 9;

/// The result of waiting for a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The guest agent has opened its channel.
    Agent,
    /// The host's neighbour table shows that the address is reachable.
    Address(IpAddr),
    /// The domain has neither a channel for an agent nor an interface on a network with DHCP.
    Undetectable,
    /// The domain is no longer running.
    Stopped,
    /// libvirt does not show the domain to the caller, for this reason.
    Unchecked(String),
}

/// The devices of a running domain with which its guest can answer.
#[derive(Debug, Default, PartialEq, Eq)]
struct Devices {
    /// Whether the guest agent is connected. `None` if it has no channel.
    agent: Option<bool>,
    /// The libvirt networks to which the domain is attached.
    networks: BTreeSet<String>,
}

/// Waits until the guest answers. If the domain has just started, answers from before the start do not count.
pub(super) async fn wait(domain: &Domain, has_started: bool, progress: &Progress) -> Answer {
    let start = has_started.then(Instant::now);
    // A network does not lose its DHCP server while a domain uses it.
    let mut dhcp = None;
    loop {
        let (domain, known) = (domain.clone(), dhcp);
        let check = tokio::task::spawn_blocking(move || check(&domain, known, start)).await;
        match check.unwrap_or_else(|error| Check::Ended(Answer::Unchecked(error.to_string()))) {
            Check::Ended(answer) => return answer,
            Check::Waiting { for_agent, for_lease } => {
                dhcp = Some(for_lease);
                progress.show(match (for_agent, for_lease) {
                    (true, true) => "running, waiting for the guest agent or a DHCP lease",
                    (true, false) => "running, waiting for the guest agent",
                    (false, _) => "running, waiting for a DHCP lease",
                });
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The result of one check.
enum Check {
    Ended(Answer),
    Waiting { for_agent: bool, for_lease: bool },
}

/// Checks once. `dhcp` says whether a network of the domain has a DHCP server, if this is known. Only answers after
/// `start` count.
fn check(domain: &Domain, dhcp: Option<bool>, start: Option<Instant>) -> Check {
    let devices =
        match virsh::output(&domain.connection, &["dumpxml", &domain.uuid]).and_then(|xml| devices(&xml)) {
            Ok(Some(devices)) => devices,
            Ok(None) => return Check::Ended(Answer::Stopped),
            Err(reason) => return Check::Ended(Answer::Unchecked(reason)),
        };
    let for_lease = dhcp.unwrap_or_else(|| devices.networks.iter().any(|name| has_dhcp(domain, name)));
    if devices.agent == Some(true) {
        return Check::Ended(Answer::Agent);
    }
    let leases = if for_lease { leases(domain) } else { Vec::new() };
    let max_age = start.map(|start| start.elapsed());
    if let Some((_, address)) = leases.into_iter().find(|(mac, address)| answers(*mac, *address, max_age)) {
        return Check::Ended(Answer::Address(address));
    }
    match (devices.agent.is_some(), for_lease) {
        (false, false) => Check::Ended(Answer::Undetectable),
        (for_agent, for_lease) => Check::Waiting { for_agent, for_lease },
    }
}

/// Parses the definition of a domain. `None` if it is not running.
fn devices(xml: &str) -> Result<Option<Devices>, String> {
    let document = Document::parse(xml).map_err(|error| error.to_string())?;
    let root = document.root_element();
    // Only a running domain has this number.
    if !root.has_attribute("id") {
        return Ok(None);
    }
    let child = |node: Node<'_, '_>, name: &str, attribute: &str| {
        let child = node.children().find(|child| child.has_tag_name(name));
        child.and_then(|child| child.attribute(attribute)).map(str::to_owned)
    };
    let mut found = Devices::default();
    let list = root.children().filter(|node| node.has_tag_name("devices"));
    for device in list.flat_map(|devices| devices.children()) {
        match device.tag_name().name() {
            "channel" if child(device, "target", "name").as_deref() == Some(AGENT) => {
                found.agent = Some(child(device, "target", "state").as_deref() == Some("connected"));
            }
            "interface" => found.networks.extend(child(device, "source", "network")),
            _ => {}
        }
    }
    Ok(Some(found))
}

/// Whether libvirt provides a DHCP server on this network.
fn has_dhcp(domain: &Domain, network: &str) -> bool {
    let xml = virsh::output(&domain.connection, &["net-dumpxml", network]).unwrap_or_default();
    Document::parse(&xml).is_ok_and(|document| document.descendants().any(|node| node.has_tag_name("dhcp")))
}

/// The leases for the interfaces of the domain. They can be from before the domain started.
fn leases(domain: &Domain) -> Vec<(MacAddr, IpAddr)> {
    let table = virsh::output(&domain.connection, &["domifaddr", &domain.uuid, "--source", "lease"])
        .unwrap_or_default();
    table.lines().filter_map(lease).collect()
}

/// Parses a line of `virsh domifaddr`, such as `vnet0 52:54:00:12:34:56 ipv4 192.168.122.45/24`.
fn lease(line: &str) -> Option<(MacAddr, IpAddr)> {
    let mut columns = line.split_whitespace().skip(1);
    let mac = columns.next()?.parse().ok()?;
    let address = columns.nth(1)?.split('/').next()?.parse().ok()?;
    Some((mac, address))
}

/// Whether the guest answers the host's address resolution (ARP or neighbour discovery), which a firewall in the guest
/// usually does not block. A datagram makes the kernel start it. The latest answer must not be older than `max_age`.
fn answers(mac: MacAddr, address: IpAddr, max_age: Option<Duration>) -> bool {
    let local: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let sent =
        UdpSocket::bind((local, 0)).and_then(|socket| socket.send_to(&[], SocketAddr::new(address, DISCARD)));
    if sent.is_err() {
        return false;
    }
    let output =
        program::run("ip", &["-statistics", "-json", "neighbour", "show", "to", &address.to_string()]);
    output.is_ok_and(|output| is_reachable(&output.stdout, mac, max_age))
}

/// An entry of `ip -statistics -json neighbour`.
#[derive(Debug, Deserialize)]
struct Neighbour {
    #[serde(default)]
    lladdr: String,
    #[serde(default)]
    state: Vec<String>,
    /// The age of the latest answer, in seconds.
    confirmed: Option<u64>,
}

/// Whether the kernel's neighbour table lists this address as reachable. It does so for 15 to 45 s after an answer.
fn is_reachable(json: &str, mac: MacAddr, max_age: Option<Duration>) -> bool {
    let entries: Vec<Neighbour> = serde_json::from_str(json).unwrap_or_default();
    let is_confirmed = |entry: &Neighbour| {
        let age = Duration::from_secs(entry.confirmed.unwrap_or(0));
        entry.lladdr.parse() == Ok(mac)
            && entry.state.iter().any(|state| state == "REACHABLE")
            && max_age.is_none_or(|max_age| age + Duration::from_secs(1) <= max_age)
    };
    entries.iter().any(is_confirmed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: &str = "52:54:00:12:34:56";

    #[test]
    fn finds_the_devices_of_a_running_domain() {
        let xml = "<domain id='3'><devices>
  <interface type='network'><source network='default' portid='1' bridge='virbr0'/></interface>
  <interface type='bridge'><source bridge='br0'/></interface>
  <channel type='unix'><target type='virtio' name='com.redhat.spice.0' state='connected'/></channel>
  <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='disconnected'/></channel>
</devices></domain>";
        let networks = BTreeSet::from(["default".to_owned()]);
        assert_eq!(devices(xml), Ok(Some(Devices { agent: Some(false), networks: networks.clone() })));
        let connected = xml.replace("disconnected", "connected");
        assert_eq!(devices(&connected), Ok(Some(Devices { agent: Some(true), networks })));
        assert_eq!(devices(&xml.replace(" id='3'", "")), Ok(None));
        assert_eq!(devices("<domain id='3'/>"), Ok(Some(Devices::default())));
        assert!(devices("error: failed").is_err());
    }

    #[test]
    fn reads_leases() {
        let mac: MacAddr = MAC.parse().unwrap();
        let expected = Some((mac, "192.168.122.45".parse().unwrap()));
        assert_eq!(lease(" vnet0      52:54:00:12:34:56    ipv4         192.168.122.45/24"), expected);
        let expected = Some((mac, "fd00::45".parse().unwrap()));
        assert_eq!(lease(" -          52:54:00:12:34:56    ipv6         fd00::45/64"), expected);
        for other in ["", " vnet0", " vnet0 52:54:00:12:34:56 N/A N/A"] {
            assert_eq!(lease(other), None, "{other}");
        }
    }

    #[test]
    fn trusts_only_recent_answers_of_the_domain() {
        let mac = MAC.parse().unwrap();
        let entry = |lladdr: &str, state: &str| {
            format!(
                "[{{\"dst\":\"192.0.2.1\",\"lladdr\":\"{lladdr}\",\"confirmed\":5,\"state\":[\"{state}\"]}}]"
            )
        };
        let reachable = |json: &str| is_reachable(json, mac, None);
        assert!(reachable(&entry(MAC, "REACHABLE")));
        assert!(!reachable(&entry(MAC, "STALE")));
        assert!(!reachable(&entry("52:54:00:00:00:01", "REACHABLE")));
        for other in ["", "[]", "[{\"dst\":\"192.0.2.1\",\"state\":[\"FAILED\"]}]"] {
            assert!(!reachable(other), "{other}");
        }
        let within =
            |seconds| is_reachable(&entry(MAC, "REACHABLE"), mac, Some(Duration::from_secs(seconds)));
        assert!(within(6) && !within(5));
    }
}
