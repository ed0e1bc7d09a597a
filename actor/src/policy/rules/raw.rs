//! A rule as it is written in the configuration.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use wakevirt_service::config;

use super::pattern::{DomainPattern, InterfacePattern, MacPattern, Source};
use super::{Paused, Rule, Target};
use crate::policy::MAX_URI;
use crate::policy::secure_on::SecureOn;

/// The most interfaces in a rule.
const MAX_INTERFACES: usize = 32;
/// The most sources in a rule.
const MAX_SOURCES: usize = 256;
/// The most VLANs in a rule.
const MAX_VLANS: usize = 64;
/// The greatest VLAN: IEEE 802.1Q-2018 table 9-2.
const MAX_VLAN: u32 = 4094;
/// The keys of a rule.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Written {
    domain: Option<DomainPattern>,
    mac: Option<MacPattern>,
    #[serde(default, deserialize_with = "connection")]
    connection: Option<String>,
    #[serde(default, deserialize_with = "interfaces")]
    interfaces: Option<Vec<InterfacePattern>>,
    #[serde(default, deserialize_with = "vlans")]
    vlans: Option<Vec<u16>>,
    #[serde(default, deserialize_with = "sources")]
    sources: Option<Vec<Source>>,
    secure_on: Option<SecureOn>,
    paused: Option<Paused>,
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

/// A VLAN as a rule names it: 0 for none.
struct Vlan(u16);

impl<'de> Deserialize<'de> for Vlan {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let vlan = config::number(input, 0..=MAX_VLAN)?;
        u16::try_from(vlan).map(Self).map_err(D::Error::custom)
    }
}

fn sources<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<Source>>, D::Error> {
    config::list(input, MAX_SOURCES, "sources").map(Some)
}

impl TryFrom<Written> for Rule {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let Written { domain, mac, connection, interfaces, vlans, sources, secure_on, paused } = written;
        let target = match (domain, mac) {
            (Some(domain), None) => Target::Domain(domain),
            (None, Some(mac)) => Target::Mac(mac),
            (None, None) => {
                return Err("a rule allows a domain or a MAC address; add domain = \"…\" or mac = \"…\"");
            }
            (Some(_), Some(_)) => {
                return Err("a rule has either domain or mac, not both; make two rules of it");
            }
        };
        let lists = [
            interfaces.as_ref().is_some_and(Vec::is_empty),
            vlans.as_ref().is_some_and(Vec::is_empty),
            sources.as_ref().is_some_and(Vec::is_empty),
        ];
        if lists.contains(&true) {
            return Err(
                "an empty list allows nothing; leave interfaces, vlans or sources out to allow all of them",
            );
        }
        Ok(Self { target, connection, interfaces, vlans, sources, secure_on, paused })
    }
}
