//! The allowlist: which packets can wake which domains.

mod labels;
mod pattern;
mod raw;
mod rule;

use std::collections::BTreeSet;

use wakevirt_protocol::MacAddr;

use super::secure_on::{self, SecureOn};
use crate::model::{Domain, State};

pub(crate) use raw::MAX_URI;
pub use rule::{Halted, Handling, Paused, Rule};

/// Displayed instead of a rule if the domain's metadata allows the wake.
pub const METADATA: &str = "metadata of the domain";

/// The rules, in order of precedence. An empty list allows nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    rules: Vec<Rule>,
    metadata: Metadata,
    is_of_cluster: bool,
}

/// Whether a domain's own metadata can allow it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Metadata {
    /// No.
    #[default]
    Ignored,
    /// Yes.
    Counts,
    /// Only in these namespaces of a cluster.
    CountsIn(BTreeSet<String>),
}

impl Rules {
    /// These rules.
    #[must_use]
    pub const fn new(rules: Vec<Rule>, metadata: Metadata) -> Self {
        Self { rules, metadata, is_of_cluster: false }
    }

    /// These rules for the domains of a cluster. The users of its namespaces choose MAC addresses, so of several domains
    /// with one address, only a rule without a glob selects one.
    #[must_use]
    pub const fn of_cluster(rules: Vec<Rule>, metadata: Metadata) -> Self {
        Self { rules, metadata, is_of_cluster: true }
    }

    /// Whether a domain's own metadata can allow it.
    #[must_use]
    pub const fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Whether the rules are for the domains of a cluster.
    #[must_use]
    pub const fn is_of_cluster(&self) -> bool {
        self.is_of_cluster
    }

    /// Whether there are no rules.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules, in order of precedence.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    /// The rules that match this domain or MAC address. Conditions for the packet are not considered.
    pub fn matching(&self, domain: &Domain, mac: MacAddr) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(move |rule| rule.matches(domain, mac))
    }

    /// Whether the domain's own metadata allows it.
    #[must_use]
    pub fn allowed_by_metadata(&self, domain: &Domain) -> bool {
        domain.opt_in
            && match &self.metadata {
                Metadata::Ignored => false,
                Metadata::Counts => true,
                Metadata::CountsIn(namespaces) => {
                    domain.name.split_once('/').is_some_and(|(namespace, _)| namespaces.contains(namespace))
                }
            }
    }

    /// What allows packets for this MAC address to wake the domain: a rule, or `METADATA`. Conditions for the packet
    /// are not considered.
    #[must_use]
    pub fn allowed_by(&self, domain: &Domain, mac: MacAddr) -> Option<String> {
        let rule = self.matching(domain, mac).next().map(ToString::to_string);
        rule.or_else(|| self.allowed_by_metadata(domain).then(|| METADATA.to_owned()))
    }

    /// The one of several domains with the same MAC address that the rules select: the only one that a rule names. In a
    /// cluster, a glob does not name a domain, and domains that have migrated away do not count.
    #[must_use]
    pub fn select<'a>(&self, domains: &[&'a Domain]) -> Option<&'a Domain> {
        let here = |domain: &&&Domain| !self.is_of_cluster || domain.state != State::MigratedAway;
        let candidates: Vec<&Domain> = domains.iter().filter(here).copied().collect();
        if let (true, [domain]) = (self.is_of_cluster, candidates.as_slice()) {
            return Some(domain);
        }
        let names = |rule: &Rule, domain| rule.names(domain) && !(self.is_of_cluster && rule.is_glob());
        let mut named = candidates.iter().filter(|domain| self.rules.iter().any(|rule| names(rule, domain)));
        match (named.next(), named.next()) {
            (Some(domain), None) => Some(domain),
            _ => None,
        }
    }

    /// Compares the rules with the name of a domain: see `DomainPattern`. Returns the rules that were globs until now, and
    /// match only this domain from now on.
    pub fn note_name(&mut self, domain: &Domain) -> Vec<String> {
        let narrowed = |rule: &mut Rule| rule.note_name(domain).then(|| rule.to_string());
        self.rules.iter_mut().filter_map(narrowed).collect()
    }

    /// Reads the passwords of the rules.
    ///
    /// # Errors
    /// If a password cannot be read.
    pub fn read_passwords(&mut self) -> Result<(), secure_on::SecureOnError> {
        let credentials = credentials();
        self.passwords_mut().try_for_each(|secure_on| secure_on.read(credentials.as_deref()))
    }

    /// Reads the passwords of the rules, and skips credentials that cannot be read: the service manager passes them to
    /// the service, but neither to a check in a shell nor (systemd 252) to the commands of `ExecReload=`. Returns the
    /// skipped credentials, as they are written in the configuration.
    ///
    /// # Errors
    /// If any other password cannot be read.
    pub fn read_available_passwords(&mut self) -> Result<Vec<String>, secure_on::SecureOnError> {
        let credentials = credentials();
        let mut skipped = Vec::new();
        for secure_on in self.passwords_mut() {
            match secure_on.read(credentials.as_deref()) {
                Err(secure_on::SecureOnError::NoCredentials(_) | secure_on::SecureOnError::Read { .. })
                    if secure_on.is_credential() =>
                {
                    skipped.push(secure_on.text().to_owned());
                }
                result => result?,
            }
        }
        Ok(skipped)
    }

    fn passwords_mut(&mut self) -> impl Iterator<Item = &mut SecureOn> {
        self.rules.iter_mut().filter_map(Rule::secure_on_mut)
    }
}

#[cfg(test)]
impl Rules {
    /// The rules in these `[[allow]]` tables. Metadata can also allow a domain.
    pub(crate) fn parse(text: &str) -> Self {
        #[derive(serde::Deserialize)]
        struct RuleFile {
            #[serde(default)]
            allow: Vec<Rule>,
        }
        Self::new(toml::from_str::<RuleFile>(text).unwrap().allow, Metadata::Counts)
    }
}

/// The directory with the service manager's credentials: systemd.exec(5), `LoadCredential=`.
fn credentials() -> Option<std::path::PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(std::path::PathBuf::from)
}

#[cfg(test)]
mod tests;
