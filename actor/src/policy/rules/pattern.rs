//! Patterns for MAC addresses and sources.

use core::net::IpAddr;
use core::str::FromStr;

use ipnet::IpNet;
use serde::Deserialize;
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::PacketDetails;

/// A MAC address in which `*` matches any octet, and at the end all remaining octets.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct MacPattern {
    text: String,
    /// `None` matches any octet.
    octets: [Option<u8>; 6],
}

impl MacPattern {
    pub(super) fn matches(&self, mac: MacAddr) -> bool {
        self.octets.iter().zip(mac.octets()).all(|(pattern, octet)| pattern.is_none_or(|it| it == octet))
    }

    /// The pattern as it was written.
    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

impl TryFrom<String> for MacPattern {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        octets(&text).map(|octets| Self { text, octets }).ok_or(
            "not a MAC address; write one such as \"52:54:00:12:34:56\", with * for any octet, \
             or a prefix such as \"52:54:00:*\"",
        )
    }
}

/// The octets of a pattern, with `None` for `*`.
pub(super) fn octets(text: &str) -> Option<[Option<u8>; 6]> {
    let mut parts: Vec<&str> = text.split(if text.contains('-') { '-' } else { ':' }).collect();
    if parts.len() < 6 && parts.last() == Some(&"*") {
        parts.resize(6, "*");
    }
    // With zeros instead of asterisks, the text must be a MAC address.
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

/// A pattern for the source of a packet: a network, an IP address or a MAC address.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct SourcePattern {
    text: String,
    kind: SourceKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum SourceKind {
    Network(IpNet),
    Mac(MacPattern),
}

impl SourcePattern {
    /// The pattern as it was written.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn matches(&self, details: &PacketDetails) -> bool {
        match &self.kind {
            SourceKind::Network(network) => {
                details.source.is_some_and(|address| network.contains(&address.to_canonical()))
            }
            SourceKind::Mac(pattern) => details.source_mac.is_some_and(|mac| pattern.matches(mac)),
        }
    }
}

impl TryFrom<String> for SourcePattern {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let kind = if let Ok(network) = text.parse::<IpNet>() {
            SourceKind::Network(network)
        } else if let Ok(address) = text.parse::<IpAddr>() {
            SourceKind::Network(address.into())
        } else {
            SourceKind::Mac(MacPattern::try_from(text.clone()).map_err(|_| {
                "neither a network nor a MAC address; write a source such as \"192.168.1.0/24\", \
                 \"fd00::/8\", \"192.168.1.7\" or \"02:00:00:00:00:07\""
            })?)
        };
        Ok(Self { text, kind })
    }
}
