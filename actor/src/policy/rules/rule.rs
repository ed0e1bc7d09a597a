//! One rule.

use core::fmt;

use serde::Deserialize;
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::PacketDetails;
use wakevirt_protocol::explain::RuleVerdict;
use wakevirt_service::config::{DomainPattern, InterfacePattern, toml_string};
use wakevirt_service::logs::quoted;

use super::labels::LabelPatterns;
use super::pattern::{MacPattern, SourcePattern};
use crate::model::Domain;
use crate::policy::origin::Origin;
use crate::policy::secure_on::SecureOn;

/// The maximum number of items of each list when a rule is shown in one line.
const MAX_SHOWN: usize = 3;

/// What to do with a domain that a user has paused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Paused {
    /// Resume it.
    #[default]
    Resume,
    /// Leave it paused.
    Leave,
}

/// What to do with a virtual machine of a cluster whose run strategy is Halted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Halted {
    /// Start it. KubeVirt changes the run strategy to Always.
    #[default]
    Start,
    /// Leave it halted.
    Leave,
}

/// How a rule handles paused and halted domains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Handling {
    /// What to do with a domain that a user has paused.
    pub paused: Paused,
    /// What to do with a halted virtual machine.
    pub halted: Halted,
}

impl Handling {
    /// Whether this handling wakes every domain that the other one wakes.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        (self.paused == Paused::Resume || other.paused == Paused::Leave)
            && (self.halted == Halted::Start || other.halted == Halted::Leave)
    }
}

/// An `[[allow]]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub(super) selector: Selector,
    pub(super) labels: Option<LabelPatterns>,
    pub(super) connection: Option<String>,
    pub(super) interfaces: Option<Vec<InterfacePattern>>,
    pub(super) vlans: Option<Vec<u16>>,
    pub(super) sources: Option<Vec<SourcePattern>>,
    pub(super) secure_on: Option<SecureOn>,
    pub(super) paused: Option<Paused>,
    pub(super) halted: Option<Halted>,
    pub(super) origin: Option<Origin>,
}

/// The domains that a rule allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selector {
    Domain(DomainPattern),
    Mac(MacPattern),
    /// All domains. The rule has a condition for their labels.
    All,
}

impl Rule {
    /// Whether the rule matches this domain or MAC address. Conditions for the packet are not considered.
    pub(super) fn matches(&self, domain: &Domain, mac: MacAddr) -> bool {
        self.mismatch(domain, mac).is_none()
    }

    /// Why the rule does not match this domain or MAC address; `None` if it does.
    pub(crate) fn mismatch(&self, domain: &Domain, mac: MacAddr) -> Option<RuleVerdict> {
        if !self.matches_connection(domain) {
            return Some(RuleVerdict::Connection);
        }
        match &self.selector {
            Selector::Domain(pattern) => (!domain.matches(pattern)).then_some(RuleVerdict::Domain),
            Selector::Mac(pattern) => (!pattern.matches(mac)).then_some(RuleVerdict::Mac),
            Selector::All => None,
        }
        .or_else(|| (!self.matches_labels(domain)).then_some(RuleVerdict::Domain))
    }

    /// Whether the rule is for MAC addresses, but not for this one.
    pub(crate) fn excludes_mac(&self, mac: MacAddr) -> bool {
        matches!(&self.selector, Selector::Mac(pattern) if !pattern.matches(mac))
    }

    /// The location of the rule in the configuration, if it is from a file.
    #[must_use]
    pub const fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// The same rule, with this location in the configuration.
    #[must_use]
    pub(crate) fn at(self, origin: Origin) -> Self {
        Self { origin: Some(origin), ..self }
    }

    /// The interface names in the rule, without globs.
    pub fn named_interfaces(&self) -> impl Iterator<Item = &str> {
        self.interfaces.iter().flatten().filter_map(InterfacePattern::name)
    }

    /// The number of globs in the rule. A glob takes much more memory than its text.
    #[must_use]
    pub fn glob_count(&self) -> usize {
        let domain = matches!(&self.selector, Selector::Domain(pattern) if pattern.is_glob());
        let interfaces = self.interfaces.iter().flatten().filter(|it| it.name().is_none());
        usize::from(domain) + interfaces.count()
    }

    /// Whether the rule selects domains by name, UUID or labels, not by MAC address.
    #[must_use]
    pub const fn is_for_domains(&self) -> bool {
        matches!(self.selector, Selector::Domain(_) | Selector::All)
    }

    /// Whether the rule selects domains by something other than a single name or UUID.
    #[must_use]
    pub const fn is_glob(&self) -> bool {
        !matches!(&self.selector, Selector::Domain(pattern) if !pattern.is_glob())
    }

    /// A key that only the program for a cluster has, if the rule contains one.
    #[must_use]
    pub const fn cluster_key(&self) -> Option<&'static str> {
        match (&self.labels, self.halted) {
            (Some(_), _) => Some("labels"),
            (None, Some(_)) => Some("halted"),
            (None, None) => None,
        }
    }

    /// Whether the rule names this domain, by name, glob, UUID or labels.
    #[must_use]
    pub fn names(&self, domain: &Domain) -> bool {
        let is_named = match &self.selector {
            Selector::Domain(pattern) => domain.matches(pattern),
            Selector::Mac(_) => false,
            Selector::All => true,
        };
        is_named && self.matches_connection(domain) && self.matches_labels(domain)
    }

    /// Compares the rule with the name of a domain. Returns whether the rule was a glob until now, and matches only this
    /// domain from now on.
    pub(super) fn note_name(&mut self, domain: &Domain) -> bool {
        match (self.matches_connection(domain), &mut self.selector) {
            (true, Selector::Domain(pattern)) => pattern.note_name(&domain.name),
            _ => false,
        }
    }

    fn matches_labels(&self, domain: &Domain) -> bool {
        self.labels.as_ref().is_none_or(|labels| labels.matches(domain))
    }

    fn matches_connection(&self, domain: &Domain) -> bool {
        self.connection.as_deref().is_none_or(|uri| uri == &*domain.id.connection)
    }

    /// The first condition of the rule that a packet with these details does not meet: its interface, VLAN or source.
    #[must_use]
    pub fn unmet_condition(&self, details: &PacketDetails) -> Option<RuleVerdict> {
        // A packet without a known interface does not match any pattern.
        let interface = |interfaces: &Vec<InterfacePattern>| {
            interfaces.iter().any(|it| details.interface_names().any(|name| it.matches(name)))
        };
        let source = |sources: &Vec<SourcePattern>| sources.iter().any(|it| it.matches(details));
        // A UDP socket does not report the VLAN, so a packet from a UDP socket does not match any VLAN.
        let vlan = |vlans: &Vec<u16>| details.vlan.is_some_and(|vlan| vlans.contains(&vlan));
        if !self.interfaces.as_ref().is_none_or(interface) {
            let is_known = details.interface.is_some();
            return Some(if is_known { RuleVerdict::Interface } else { RuleVerdict::InterfaceUnknown });
        }
        if !self.vlans.as_ref().is_none_or(vlan) {
            let is_known = details.vlan.is_some();
            return Some(if is_known { RuleVerdict::Vlan } else { RuleVerdict::VlanUnknown });
        }
        if !self.sources.as_ref().is_none_or(source) {
            let is_known = details.source.is_some() || details.source_mac.is_some();
            return Some(if is_known { RuleVerdict::Source } else { RuleVerdict::SourceUnknown });
        }
        None
    }

    /// The password that the packet must contain.
    #[must_use]
    pub const fn secure_on(&self) -> Option<&SecureOn> {
        self.secure_on.as_ref()
    }

    pub(super) const fn secure_on_mut(&mut self) -> Option<&mut SecureOn> {
        self.secure_on.as_mut()
    }

    /// How the rule handles paused and halted domains.
    #[must_use]
    pub fn handling(&self) -> Handling {
        Handling { paused: self.paused.unwrap_or_default(), halted: self.halted.unwrap_or_default() }
    }

    /// The keys with their values, in the format of `actor.toml`.
    pub fn keys(&self) -> impl Iterator<Item = String> {
        self.keys_with(usize::MAX, |text| toml_string(text).to_string())
    }

    /// The keys with at most this many items of each list, and strings in this format.
    fn keys_with(&self, limit: usize, string: fn(&str) -> String) -> impl Iterator<Item = String> {
        let selector = match &self.selector {
            Selector::Domain(pattern) => Some(format!("domain = {}", string(pattern.text()))),
            Selector::Mac(pattern) => Some(format!("mac = {}", string(pattern.text()))),
            Selector::All => None,
        };
        let interfaces =
            self.interfaces.as_ref().map(|it| list("interfaces", it, limit, |it| string(it.text())));
        let vlans = self.vlans.as_ref().map(|it| list("vlans", it, limit, u16::to_string));
        let sources = self.sources.as_ref().map(|it| list("sources", it, limit, |it| string(it.text())));
        let paused = self.paused.map(|paused| match paused {
            Paused::Resume => "paused = \"resume\"".to_owned(),
            Paused::Leave => "paused = \"leave\"".to_owned(),
        });
        let halted = self.halted.map(|halted| match halted {
            Halted::Start => "halted = \"start\"".to_owned(),
            Halted::Leave => "halted = \"leave\"".to_owned(),
        });
        [
            selector,
            self.labels.as_ref().map(|labels| format!("labels = {}", labels.text(string))),
            self.connection.as_ref().map(|uri| format!("connection = {}", string(uri))),
            interfaces,
            vlans,
            sources,
            self.secure_on.as_ref().map(|it| format!("secure-on = {}", string(it.text()))),
            paused,
            halted,
        ]
        .into_iter()
        .flatten()
    }
}

fn list<T>(key: &str, values: &[T], limit: usize, shown: impl Fn(&T) -> String) -> String {
    let texts: Vec<String> = values.iter().take(limit).map(shown).collect();
    let more = match values.len().saturating_sub(limit) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{key} = [{}{more}]", texts.join(", "))
}

impl fmt::Display for Rule {
    /// The rule in one line, with the first items of long lists.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys_with(MAX_SHOWN, |text| quoted(text).to_string());
        f.write_str(&keys.collect::<Vec<_>>().join(", "))
    }
}
