//! The isolated network of a share.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use roxmltree::{Document, Node};

use super::super::new::NewError;
use super::URI;
use crate::program;
use crate::virsh;

/// Where new networks are.
const RANGE: &str = "192.168.200.0/24 to 192.168.239.0/24";

/// An isolated network: its guests reach each other and the host, but nothing behind the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    name: String,
    bridge: String,
    /// The host's address, and the length of the prefix.
    address: Ipv4Net,
    /// Whether it must be defined.
    is_new: bool,
}

impl Network {
    /// A new network for this share, with addresses that neither the host nor another network of libvirt uses.
    ///
    /// # Errors
    /// If all networks are in use.
    pub fn new(share: &str) -> Result<Self, NewError> {
        let used = addresses_in_use();
        let is_free = |third: &u8| !used.contains(&format!("192.168.{third}."));
        let third = (200..240).find(is_free).ok_or(NewError::NoSubnet(RANGE))?;
        let name = format!("nas-{share}");
        let address = Ipv4Net::new_assert(Ipv4Addr::new(192, 168, third, 1), 24);
        Ok(Self { bridge: name.clone(), name, address, is_new: true })
    }

    /// An existing network of libvirt.
    ///
    /// # Errors
    /// If there is no such network, or it is not isolated, or the host has no IPv4 address on it.
    pub fn existing(name: &str) -> Result<Self, NewError> {
        let error = |reason: String| NewError::Network { name: name.to_owned(), reason };
        let xml = virsh::output(URI, &["net-dumpxml", "--", name]).map_err(error)?;
        Self::of_definition(name, &xml).map_err(|reason| error(reason.to_owned()))
    }

    fn of_definition(name: &str, xml: &str) -> Result<Self, &'static str> {
        let document = Document::parse(xml).map_err(|_| "its definition is not valid XML")?;
        let children = |tag| document.root_element().children().filter(move |node| node.has_tag_name(tag));
        if children("forward").next().is_some() {
            return Err(
                "it is not isolated, because its definition contains <forward>. Without --network, the share gets \
                        a network of its own",
            );
        }
        let bridge = children("bridge").find_map(|node| node.attribute("name"));
        let bridge = bridge.ok_or("its definition names no bridge")?;
        let address = children("ip").find_map(ipv4).ok_or("the host has no IPv4 address on it")?;
        Ok(Self { name: name.to_owned(), bridge: bridge.to_owned(), address, is_new: false })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of its bridge.
    #[must_use]
    pub fn bridge(&self) -> &str {
        &self.bridge
    }

    /// The host's address.
    #[must_use]
    pub const fn address(&self) -> Ipv4Addr {
        self.address.addr()
    }

    /// The host's address with the length of the prefix.
    #[must_use]
    pub const fn interface(&self) -> Ipv4Net {
        self.address
    }

    /// The addresses of its guests.
    #[must_use]
    pub fn subnet(&self) -> Ipv4Net {
        self.address.trunc()
    }

    /// Its definition (<https://libvirt.org/formatnetwork.html>), if it is new. Without `<forward>`, a network is
    /// isolated.
    #[must_use]
    pub fn definition(&self) -> Option<String> {
        let [first, second, third, _] = self.address.addr().octets();
        self.is_new.then(|| {
            format!(
                "<!-- Written by \"wakevirtctl host nas new\". Without <forward>, the network is isolated. -->\n\
                 <network>\n  <name>{}</name>\n  <bridge name='{}'/>\n  <dns enable='no'/>\n  \
                 <ip address='{}' netmask='255.255.255.0'>\n    <dhcp>\n      \
                 <range start='{first}.{second}.{third}.2' end='{first}.{second}.{third}.254'/>\n    </dhcp>\n  \
                 </ip>\n</network>\n",
                self.name,
                self.bridge,
                self.address.addr()
            )
        })
    }
}

/// The IPv4 address in an `<ip>` element.
fn ipv4(node: Node<'_, '_>) -> Option<Ipv4Net> {
    let address = node.attribute("address")?.parse().ok()?;
    match (node.attribute("netmask"), node.attribute("prefix")) {
        (Some(netmask), _) => Ipv4Net::with_netmask(address, netmask.parse().ok()?).ok(),
        (None, Some(prefix)) => Ipv4Net::new(address, prefix.parse().ok()?).ok(),
        (None, None) => None,
    }
}

/// Text that contains all addresses of the host, and of libvirt's networks, whether they are active or not. A network
/// that cannot be read is left out: if its addresses are in use, libvirt does not start the new network.
fn addresses_in_use() -> String {
    let mut used = String::new();
    for command in [&["-4", "address"][..], &["-4", "route", "show", "table", "all"]] {
        used += &program::run("ip", command).map(|output| output.stdout).unwrap_or_default();
    }
    let networks = virsh::output(URI, &["net-list", "--all", "--name"]).unwrap_or_default();
    for name in networks.lines().filter(|name| !name.is_empty()) {
        used += &virsh::output(URI, &["net-dumpxml", "--", name]).unwrap_or_default();
    }
    // Networks that are written, but not defined yet.
    for entry in std::fs::read_dir("/etc/wakevirt/nas").into_iter().flatten().flatten() {
        used += &std::fs::read_to_string(entry.path()).unwrap_or_default();
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(third: u8) -> Network {
        let address = Ipv4Net::new_assert(Ipv4Addr::new(192, 168, third, 1), 24);
        Network { name: "nas-games".to_owned(), bridge: "nas-games".to_owned(), address, is_new: true }
    }

    #[test]
    fn a_new_network_is_isolated() {
        let network = new(201);
        let read = Network::of_definition("nas-games", &network.definition().unwrap()).unwrap();
        assert_eq!(read, Network { is_new: false, ..network });
        assert_eq!((read.subnet().to_string().as_str(), read.definition()), ("192.168.201.0/24", None));
    }

    #[test]
    fn rejects_networks_that_are_not_isolated() {
        let read =
            |xml: &str| Network::of_definition("n", xml).map(|network| network.interface().to_string());
        let bridge = "<bridge name='virbr7'/>";
        let ip = "<ip family='ipv6' address='fd00::1' prefix='64'/><ip address='10.0.0.1' prefix='8'/>";
        assert_eq!(read(&format!("<network>{bridge}{ip}</network>")), Ok("10.0.0.1/8".to_owned()));
        for (xml, reason) in [
            (format!("<network>{bridge}{ip}<forward mode='nat'/></network>"), "not isolated"),
            (format!("<network>{bridge}{ip}<forward/></network>"), "not isolated"),
            (format!("<network>{ip}</network>"), "no bridge"),
            (format!("<network>{bridge}</network>"), "no IPv4 address"),
            ("<network".to_owned(), "not valid XML"),
        ] {
            let error = read(&xml).unwrap_err();
            assert!(error.contains(reason), "{xml}: {error}");
        }
    }
}
