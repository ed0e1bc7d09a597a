//! The allowlist: which domains may be woken by a packet.

use core::fmt;
use core::str::FromStr;

use globset::{Glob, GlobMatcher};
use serde::Deserialize;
use uuid::Uuid;
use wakevirt_protocol::MacAddr;
use wakevirt_service::logs::quoted;

use crate::hypervisor::Domain;

/// The rules, in the order of their precedence. Without any, nothing is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// These rules.
    #[must_use]
    pub const fn new(rules: Vec<Rule>) -> Self {
        Self(rules)
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rules, in the order of their precedence.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }

    /// The first rule that allows this domain to be woken by a packet for this MAC address.
    #[must_use]
    pub fn allowing(&self, domain: &Domain, mac: MacAddr) -> Option<&Rule> {
        self.0.iter().find(|rule| match &rule.0 {
            Target::Domain(pattern) => pattern.matches(domain),
            Target::Mac(pattern) => pattern.matches(mac),
        })
    }

    /// Whether a rule names this domain, by name, glob or UUID.
    #[must_use]
    pub fn name(&self, domain: &Domain) -> bool {
        self.0.iter().any(|rule| matches!(&rule.0, Target::Domain(pattern) if pattern.matches(domain)))
    }
}

/// One rule: `[[allow]]` in the configuration. It is shown as it is written there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Rule(Target);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Domain(DomainPattern),
    Mac(MacPattern),
}

/// The keys of a rule.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    domain: Option<DomainPattern>,
    mac: Option<MacPattern>,
}

impl TryFrom<Written> for Rule {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        match (written.domain, written.mac) {
            (Some(domain), None) => Ok(Self(Target::Domain(domain))),
            (None, Some(mac)) => Ok(Self(Target::Mac(mac))),
            (None, None) => Err("a rule allows a domain or a MAC address; add domain = \"…\" or mac = \"…\""),
            (Some(_), Some(_)) => Err("a rule has either domain or mac, not both; make two rules of it"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Target::Domain(pattern) => write!(f, "domain = {}", quoted(&pattern.text)),
            Target::Mac(pattern) => write!(f, "mac = {}", quoted(&pattern.0)),
        }
    }
}

/// A domain's name, a glob of names, or a UUID.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
struct DomainPattern {
    text: String,
    uuid: Option<Uuid>,
    glob: GlobMatcher,
}

impl DomainPattern {
    fn matches(&self, domain: &Domain) -> bool {
        // A name may hold what means something in a glob, as in "vm[1]".
        self.uuid == Some(domain.uuid) || self.text == domain.name || self.glob.is_match(&domain.name)
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
        let glob = Glob::new(&text).map_err(|error| {
            format!("not a glob ({}); write a name, a glob such as \"web-*\", or a UUID", error.kind())
        })?;
        Ok(Self { uuid: Uuid::parse_str(&text).ok(), glob: glob.compile_matcher(), text })
    }
}

/// A MAC address in which `*` stands for any octet, and at the end for all the rest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct MacPattern(String, [Option<u8>; 6]);

impl MacPattern {
    fn matches(&self, mac: MacAddr) -> bool {
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

fn octets(text: &str) -> Option<[Option<u8>; 6]> {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::hypervisor::State;

    fn rules(text: &str) -> Rules {
        #[derive(Deserialize)]
        struct File {
            allow: Vec<Rule>,
        }
        Rules::new(toml::from_str::<File>(text).unwrap().allow)
    }

    fn domain(name: &str) -> Domain {
        Domain {
            uuid: Uuid::from_u128(7),
            name: name.to_owned(),
            macs: BTreeSet::new(),
            state: State::ShutOff,
        }
    }

    fn mac() -> MacAddr {
        MacAddr::new([0x52, 0x54, 0, 0x12, 0x34, 0x56])
    }

    #[test]
    fn allows_domains_by_name_glob_and_uuid() {
        for (pattern, name, allowed) in [
            ("win11", "win11", true),
            ("win11", "win110", false),
            ("win11", "Win11", false),
            ("win*", "win11", true),
            ("*", "anything at all", true),
            ("web-[0-9]", "web-3", true),
            ("web-[0-9]", "web-10", false),
            ("vm[1]", "vm[1]", true),
            ("{a,b}", "b", true),
            ("00000000-0000-0000-0000-000000000007", "whatever", true),
            ("00000000-0000-0000-0000-000000000008", "whatever", false),
        ] {
            let rules = rules(&format!("[[allow]]\ndomain = {pattern:?}"));
            assert_eq!(rules.allowing(&domain(name), mac()).is_some(), allowed, "{pattern} {name}");
            assert_eq!(rules.name(&domain(name)), allowed);
        }
    }

    #[test]
    fn allows_by_mac_address() {
        for (pattern, allowed) in [
            ("52:54:00:12:34:56", true),
            ("52-54-00-12-34-56", true),
            ("52:54:00:12:34:57", false),
            ("52:54:00:*", true),
            ("52:54:01:*", false),
            ("*", true),
            ("52:54:*:12:34:*", true),
            ("52:54:*:13:34:*", false),
            ("*:*:*:*:*:56", true),
        ] {
            let rules = rules(&format!("[[allow]]\nmac = {pattern:?}"));
            assert_eq!(rules.allowing(&domain("any"), mac()).is_some(), allowed, "{pattern}");
            assert!(!rules.name(&domain("any")), "a MAC address names no domain");
        }
    }

    #[test]
    fn the_first_rule_that_fits_is_named() {
        let rules =
            rules("[[allow]]\nmac = \"aa:*\"\n[[allow]]\ndomain = \"w*\"\n[[allow]]\ndomain = \"win11\"");
        assert_eq!(rules.allowing(&domain("win11"), mac()).unwrap().to_string(), "domain = \"w*\"");
        let aa = MacAddr::new([0xaa; 6]);
        assert_eq!(rules.allowing(&domain("win11"), aa).unwrap().to_string(), "mac = \"aa:*\"");
    }

    #[test]
    fn nothing_is_allowed_by_default() {
        assert!(Rules::default().allowing(&domain("win11"), mac()).is_none());
    }

    #[test]
    fn refuses_what_is_no_pattern() {
        for text in
            ["", "52:54", "52:54:*:00", "52:54:00:12:34:5*", "52:54:00:12:34:56:*", "**", "5*:*", "x:*"]
        {
            assert!(octets(text).is_none(), "{text}");
        }
        assert!(DomainPattern::try_from("web-[".to_owned()).is_err());
        assert!(DomainPattern::try_from(String::new()).is_err());
    }
}
