//! Patterns: which domains, MAC addresses, interfaces and sources are meant.

use core::net::IpAddr;
use core::str::FromStr;

use globset::GlobMatcher;
use ipnet::IpNet;
use serde::Deserialize;
use uuid::Uuid;
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::PacketDetails;
use wakevirt_service::config::{BadGlob, glob, is_glob};

use crate::model::Domain;

/// A domain's name, a glob of names, or a UUID.
///
/// The name itself always matches. The text counts as a glob only as long as no domain is known that bears
/// exactly this text as its name: `win[1]` means that domain, and then not `win1`.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct DomainPattern {
    pub(super) text: String,
    uuid: Option<Uuid>,
    /// `None` where the text is no glob, or a domain's name.
    glob: Option<GlobMatcher>,
}

impl DomainPattern {
    pub(crate) fn matches(&self, domain: &Domain) -> bool {
        self.uuid == Some(domain.id.uuid)
            || self.text == domain.name
            || self.glob.as_ref().is_some_and(|glob| glob.is_match(&domain.name))
    }

    /// Notes that there is a domain of this name. Returns whether the pattern was a glob until now, and means
    /// this domain alone from now on: also when the domain has gone, so that nothing else is allowed by that.
    pub(crate) fn note_name(&mut self, name: &str) -> bool {
        self.text == name && self.glob.take().is_some()
    }

    /// Whether it is a glob.
    pub(crate) const fn is_glob(&self) -> bool {
        self.glob.is_some()
    }

    /// As it is written in the configuration.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl PartialEq for DomainPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for DomainPattern {}

impl TryFrom<String> for DomainPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() {
            return Err(
                "no domain has an empty name; write a name, a glob such as \"web-*\", or a UUID".to_owned()
            );
        }
        let glob = match glob(&text) {
            Ok(glob) => is_glob(&text).then_some(glob),
            // A name may hold anything, as in "[win11".
            Err(BadGlob::Syntax(_)) => None,
            Err(error) => return Err(error.to_string()),
        };
        Ok(Self { uuid: Uuid::parse_str(&text).ok(), glob, text })
    }
}

/// A MAC address in which `*` stands for any octet, and at the end for all the rest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct MacPattern(pub(super) String, [Option<u8>; 6]);

impl MacPattern {
    pub(super) fn matches(&self, mac: MacAddr) -> bool {
        self.1.iter().zip(mac.octets()).all(|(pattern, octet)| pattern.is_none_or(|it| it == octet))
    }
}

impl TryFrom<String> for MacPattern {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        octets(&text).map(|octets| Self(text, octets)).ok_or(
            "not a MAC address; write one such as \"52:54:00:12:34:56\", with * for any octet, \
             or \"52:54:00:*\" for all that begin so",
        )
    }
}

pub(super) fn octets(text: &str) -> Option<[Option<u8>; 6]> {
    let mut parts: Vec<&str> = text.split(if text.contains('-') { '-' } else { ':' }).collect();
    if parts.len() < 6 && parts.last() == Some(&"*") {
        parts.resize(6, "*");
    }
    // What is left is an address with the stars filled in, and is read as one.
    let filled: Vec<&str> = parts.iter().map(|part| if *part == "*" { "00" } else { part }).collect();
    let mac = MacAddr::from_str(&filled.join(":")).ok()?;
    let mut octets = mac.octets().map(Some);
    for (octet, part) in octets.iter_mut().zip(parts) {
        if part == "*" {
            *octet = None;
        }
    }
    Some(octets)
}

/// An ingress interface: its name, or a glob of names.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct InterfacePattern {
    pub(super) text: String,
    /// `None` where the text is a plain name.
    glob: Option<GlobMatcher>,
}

impl InterfacePattern {
    /// The interface's name, where this is no glob.
    pub(super) fn name(&self) -> Option<&str> {
        self.glob.is_none().then_some(&self.text)
    }

    /// Whether one of the names of the packet's interface matches. A packet whose interface is not known has
    /// come in on none of them.
    pub(super) fn matches(&self, details: &PacketDetails) -> bool {
        details
            .interface_names()
            .any(|name| self.text == name || self.glob.as_ref().is_some_and(|glob| glob.is_match(name)))
    }
}

impl PartialEq for InterfacePattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for InterfacePattern {}

impl TryFrom<String> for InterfacePattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() || text.starts_with('!') {
            return Err("not an interface; write a name such as \"br0\", or a glob such as \"eth*\"; \
                 what is not listed is not allowed"
                .to_owned());
        }
        let glob = glob(&text)
            .map_err(|error| format!("{error}; write a name such as \"br0\", or a glob such as \"eth*\""))?;
        Ok(Self { glob: is_glob(&text).then_some(glob), text })
    }
}

/// Who may send: a network, an IP address or a MAC address.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Source {
    pub(super) text: String,
    sender: Sender,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Sender {
    Network(IpNet),
    Mac(MacPattern),
}

impl Source {
    pub(super) fn matches(&self, details: &PacketDetails) -> bool {
        match &self.sender {
            Sender::Network(network) => {
                details.source.is_some_and(|address| network.contains(&address.to_canonical()))
            }
            Sender::Mac(pattern) => details.source_mac.is_some_and(|mac| pattern.matches(mac)),
        }
    }
}

impl TryFrom<String> for Source {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let sender = if let Ok(network) = text.parse::<IpNet>() {
            Sender::Network(network)
        } else if let Ok(address) = text.parse::<IpAddr>() {
            Sender::Network(address.into())
        } else {
            Sender::Mac(MacPattern::try_from(text.clone()).map_err(|_| {
                "neither a network nor a MAC address; write one such as \"192.168.1.0/24\", \
                 \"fd00::/8\", \"192.168.1.7\" or \"02:00:00:00:00:07\""
            })?)
        };
        Ok(Self { text, sender })
    }
}
