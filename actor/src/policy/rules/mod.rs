//! The allowlist: which domains may be woken by a packet, and by which one.

mod pattern;
mod raw;

use core::fmt;

use serde::Deserialize;
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::PacketDetails;
use wakevirt_service::logs::quoted;

pub(crate) use pattern::DomainPattern;
use pattern::{InterfacePattern, MacPattern, Source};

use super::secure_on::{self, SecureOn};
use crate::model::Domain;

/// How many of a list are told where a rule is told in one line.
const TOLD: usize = 3;

/// The rules, in the order of their precedence. Without any, nothing is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    rules: Vec<Rule>,
    metadata: bool,
}

impl Rules {
    /// These rules; with `metadata`, a domain's own metadata may allow it as well.
    #[must_use]
    pub const fn new(rules: Vec<Rule>, metadata: bool) -> Self {
        Self { rules, metadata }
    }

    /// Whether a domain's own metadata may allow it.
    #[must_use]
    pub const fn metadata(&self) -> bool {
        self.metadata
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules, in the order of their precedence.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    /// The rules that are about this domain and MAC address, whatever else they ask for.
    pub fn matching(&self, domain: &Domain, mac: MacAddr) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(move |rule| rule.matches(domain, mac))
    }

    /// Whether the domain's own metadata allows it.
    #[must_use]
    pub const fn allowed_by_metadata(&self, domain: &Domain) -> bool {
        self.metadata && domain.opt_in
    }

    /// By what a packet for this MAC address may wake the domain, whatever else is asked for.
    #[must_use]
    pub fn allowed_by(&self, domain: &Domain, mac: MacAddr) -> Option<String> {
        let rule = self.matching(domain, mac).next().map(ToString::to_string);
        rule.or_else(|| self.allowed_by_metadata(domain).then(|| METADATA.to_owned()))
    }

    /// Whether a rule names this domain, by name, glob or UUID.
    #[must_use]
    pub fn any_names(&self, domain: &Domain) -> bool {
        self.rules.iter().any(|rule| rule.names(domain))
    }

    /// Notes that there is this domain: see `DomainPattern`. Returns the rules whose pattern was a glob, and
    /// means this domain alone from now on.
    pub fn note_name(&mut self, domain: &Domain) -> Vec<String> {
        let told = |rule: &mut Rule| rule.note_name(domain).then(|| rule.to_string());
        self.rules.iter_mut().filter_map(told).collect()
    }

    /// Reads the passwords that rules ask for.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn read_passwords(&mut self) -> Result<(), secure_on::Error> {
        let credentials = credentials();
        self.asked_for().try_for_each(|secure_on| secure_on.read(credentials.as_deref()))
    }

    /// Reads the passwords that rules ask for, but for credentials that cannot be read: the service manager
    /// passes them to the service, and neither to who checks its configuration in a shell nor (systemd 252) to
    /// what `ExecReload=` runs. Returns those that were left out, as they are written.
    ///
    /// # Errors
    /// If one of the others cannot be read.
    pub fn try_passwords(&mut self) -> Result<Vec<String>, secure_on::Error> {
        let credentials = credentials();
        let mut left_out = Vec::new();
        for secure_on in self.asked_for() {
            match secure_on.read(credentials.as_deref()) {
                Err(secure_on::Error::NoCredentials(_) | secure_on::Error::Read { .. })
                    if secure_on.is_credential() =>
                {
                    left_out.push(secure_on.text().to_owned());
                }
                read => read?,
            }
        }
        Ok(left_out)
    }

    fn asked_for(&mut self) -> impl Iterator<Item = &mut SecureOn> {
        self.rules.iter_mut().filter_map(|rule| rule.secure_on.as_mut())
    }
}

/// Where the service manager's credentials are: systemd.exec(5), `LoadCredential=`.
fn credentials() -> Option<std::path::PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(std::path::PathBuf::from)
}

/// What is told as the rule where the domain's own metadata allows it.
pub const METADATA: &str = "metadata of the domain";

/// What is done with a domain that somebody has paused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Paused {
    /// It is resumed.
    #[default]
    Resume,
    /// It is left as it is.
    Leave,
}

/// One rule: `[[allow]]` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "raw::Written")]
pub struct Rule {
    target: Target,
    connection: Option<String>,
    interfaces: Option<Vec<InterfacePattern>>,
    vlans: Option<Vec<u16>>,
    sources: Option<Vec<Source>>,
    secure_on: Option<SecureOn>,
    paused: Option<Paused>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Domain(DomainPattern),
    Mac(MacPattern),
}

impl Rule {
    fn matches(&self, domain: &Domain, mac: MacAddr) -> bool {
        self.is_connected(domain)
            && match &self.target {
                Target::Domain(pattern) => pattern.matches(domain),
                Target::Mac(pattern) => pattern.matches(mac),
            }
    }

    /// The interfaces that the rule names, globs left out.
    pub fn named_interfaces(&self) -> impl Iterator<Item = &str> {
        self.interfaces.iter().flatten().filter_map(InterfacePattern::name)
    }

    /// How many globs the rule has. A glob takes much more memory than its text.
    #[must_use]
    pub fn globs(&self) -> usize {
        let target = matches!(&self.target, Target::Domain(pattern) if pattern.is_glob());
        let interfaces = self.interfaces.iter().flatten().filter(|it| it.name().is_none());
        usize::from(target) + interfaces.count()
    }

    /// Whether the rule is about domains, not about MAC addresses.
    #[must_use]
    pub const fn is_for_domains(&self) -> bool {
        matches!(self.target, Target::Domain(_))
    }

    /// Whether the rule names this domain, by name, glob or UUID.
    #[must_use]
    pub fn names(&self, domain: &Domain) -> bool {
        self.is_connected(domain)
            && matches!(&self.target, Target::Domain(pattern) if pattern.matches(domain))
    }

    fn note_name(&mut self, domain: &Domain) -> bool {
        match (self.is_connected(domain), &mut self.target) {
            (true, Target::Domain(pattern)) => pattern.note_name(&domain.name),
            _ => false,
        }
    }

    fn is_connected(&self, domain: &Domain) -> bool {
        self.connection.as_deref().is_none_or(|uri| uri == &*domain.id.connection)
    }

    /// Whether the rule takes packets that came in there, in that VLAN, from them.
    #[must_use]
    pub fn accepts(&self, details: &PacketDetails) -> bool {
        let interface = |interfaces: &Vec<InterfacePattern>| interfaces.iter().any(|it| it.matches(details));
        let source = |sources: &Vec<Source>| sources.iter().any(|it| it.matches(details));
        // Of a packet that a UDP socket received nobody knows the VLAN.
        let vlan = |vlans: &Vec<u16>| details.vlan.is_some_and(|vlan| vlans.contains(&vlan));
        self.interfaces.as_ref().is_none_or(interface)
            && self.vlans.as_ref().is_none_or(vlan)
            && self.sources.as_ref().is_none_or(source)
    }

    /// Which packets the rule does not take, in words, where it does not take one like this.
    #[must_use]
    pub const fn mismatch(&self, details: &PacketDetails) -> &'static str {
        match (&self.vlans, details.vlan) {
            (Some(_), None) => "of which the VLAN is not known",
            _ => "from there",
        }
    }

    /// The password that the rule asks for.
    #[must_use]
    pub const fn secure_on(&self) -> Option<&SecureOn> {
        self.secure_on.as_ref()
    }

    /// What is done with a domain that somebody has paused.
    #[must_use]
    pub fn paused(&self) -> Paused {
        self.paused.unwrap_or_default()
    }

    /// The keys and their values, each as it is written in the configuration.
    pub fn keys(&self) -> impl Iterator<Item = String> {
        self.written(usize::MAX)
    }

    /// The same, with so many values of each list.
    fn written(&self, most: usize) -> impl Iterator<Item = String> {
        let target = match &self.target {
            Target::Domain(pattern) => format!("domain = {}", quoted(&pattern.text)),
            Target::Mac(pattern) => format!("mac = {}", quoted(&pattern.0)),
        };
        let interfaces =
            self.interfaces.as_ref().map(|it| list("interfaces", it, most, |it| quoted(&it.text)));
        let vlans = self.vlans.as_ref().map(|it| list("vlans", it, most, |vlan| vlan));
        let sources = self.sources.as_ref().map(|it| list("sources", it, most, |it| quoted(&it.text)));
        let paused = self.paused.map(|paused| match paused {
            Paused::Resume => "paused = \"resume\"".to_owned(),
            Paused::Leave => "paused = \"leave\"".to_owned(),
        });
        [
            Some(target),
            self.connection.as_ref().map(|uri| format!("connection = {}", quoted(uri))),
            interfaces,
            vlans,
            sources,
            self.secure_on.as_ref().map(|it| format!("secure-on = {}", quoted(it.text()))),
            paused,
        ]
        .into_iter()
        .flatten()
    }
}

fn list<'a, T, D: fmt::Display>(key: &str, values: &'a [T], most: usize, shown: fn(&'a T) -> D) -> String {
    let told: Vec<String> = values.iter().take(most).map(|value| shown(value).to_string()).collect();
    let more = match values.len().saturating_sub(most) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{key} = [{}{more}]", told.join(", "))
}

impl fmt::Display for Rule {
    /// In one line, with the first values of long lists.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written(TOLD).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests;
