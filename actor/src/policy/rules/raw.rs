//! Reads a rule from the configuration.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use wakevirt_service::config::{self, DomainPattern, InterfacePattern};

use super::labels::LabelPatterns;
use super::pattern::{MacPattern, SourcePattern};
use super::rule::{Halted, Paused, Rule, Selector};
use crate::policy::secure_on::SecureOn;

/// The maximum length of a hypervisor URI, in bytes.
pub(crate) const MAX_URI: usize = 1024;
/// The maximum number of interfaces in a rule.
const MAX_INTERFACES: usize = 32;
/// The maximum number of sources in a rule.
const MAX_SOURCES: usize = 256;
/// The maximum number of VLANs in a rule.
const MAX_VLANS: usize = 64;
/// The highest VLAN ID: IEEE 802.1Q-2018 table 9-2.
const MAX_VLAN: u32 = 4094;

/// The keys of a rule.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawRule {
    domain: Option<DomainPattern>,
    mac: Option<MacPattern>,
    labels: Option<LabelPatterns>,
    #[serde(default, deserialize_with = "connection")]
    connection: Option<String>,
    #[serde(default, deserialize_with = "interfaces")]
    interfaces: Option<Vec<InterfacePattern>>,
    #[serde(default, deserialize_with = "vlans")]
    vlans: Option<Vec<u16>>,
    #[serde(default, deserialize_with = "sources")]
    sources: Option<Vec<SourcePattern>>,
    secure_on: Option<SecureOn>,
    paused: Option<Paused>,
    halted: Option<Halted>,
}

fn connection<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    let uri = String::deserialize(input)?;
    config::check_text(&uri, MAX_URI).map_err(D::Error::custom)?;
    Ok(Some(uri))
}

fn interfaces<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<InterfacePattern>>, D::Error> {
    config::list(input, MAX_INTERFACES, "interfaces").map(Some)
}

fn vlans<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<u16>>, D::Error> {
    let vlans: Vec<Vlan> = config::list(input, MAX_VLANS, "VLANs")?;
    Ok(Some(vlans.into_iter().map(|vlan| vlan.0).collect()))
}

/// A VLAN ID, or 0 for untagged frames.
struct Vlan(u16);

impl<'de> Deserialize<'de> for Vlan {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let vlan = config::number(input, 0..=MAX_VLAN)?;
        u16::try_from(vlan).map(Self).map_err(D::Error::custom)
    }
}

fn sources<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<SourcePattern>>, D::Error> {
    config::list(input, MAX_SOURCES, "sources").map(Some)
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Self::try_from(RawRule::deserialize(input)?).map_err(D::Error::custom)
    }
}

impl TryFrom<RawRule> for Rule {
    type Error = &'static str;

    fn try_from(raw: RawRule) -> Result<Self, Self::Error> {
        let RawRule {
            domain,
            mac,
            labels,
            connection,
            interfaces,
            vlans,
            sources,
            secure_on,
            paused,
            halted,
        } = raw;
        let selector = match (domain, mac) {
            (Some(domain), None) => Selector::Domain(domain),
            (None, Some(mac)) => Selector::Mac(mac),
            (None, None) if labels.is_some() => Selector::All,
            (None, None) => {
                return Err("a rule needs a domain or a MAC address; add domain = \"…\" or mac = \"…\"");
            }
            (Some(_), Some(_)) => {
                return Err("a rule cannot contain both domain and mac; write two rules");
            }
        };
        let lists = [
            interfaces.as_ref().is_some_and(Vec::is_empty),
            vlans.as_ref().is_some_and(Vec::is_empty),
            sources.as_ref().is_some_and(Vec::is_empty),
        ];
        if lists.contains(&true) {
            return Err(
                "an empty list matches nothing; to match all interfaces, VLANs or sources, remove the key",
            );
        }
        Ok(Self {
            selector,
            labels,
            connection,
            interfaces,
            vlans,
            sources,
            secure_on,
            paused,
            halted,
            origin: None,
        })
    }
}
