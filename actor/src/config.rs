//! The configuration: `actor.toml`.

use core::fmt;
use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use wakevirt_service::config::{self, HumanDuration};
use wakevirt_service::logs::{Level, quoted};
use wakevirt_service::user::service_uid;

use crate::Error;
use crate::index::Alias;
use crate::options::Options;
use crate::privilege::USER;
use crate::rules::{Rule, Rules};

/// Where domains are looked for if nothing else is said.
const DEFAULT_URI: &str = "qemu:///system";

/// The configuration as it is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The hypervisors' URIs (<https://libvirt.org/uri.html>).
    pub connections: Vec<String>,
    /// How much is logged.
    pub log: Level,
    /// What the actor decides by.
    pub policy: Policy,
}

/// What the actor decides by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// What packets may wake.
    pub rules: Rules,
    /// MAC addresses that no definition tells.
    pub aliases: Vec<Alias>,
    /// How long things may take.
    pub times: Times,
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// How long a wake waits for its hypervisor to come back.
    pub hold: Duration,
    /// How long a wake waits for a domain that is shutting down.
    pub shutdown_wait: Duration,
    /// How long packets do nothing for a domain after a wake of it has succeeded.
    pub cool_down: Duration,
}

impl Default for Times {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { hold: minute, shutdown_wait: minute, cool_down: Duration::from_secs(5) }
    }
}

impl Config {
    /// Reads the configuration files, and the passwords that rules ask for; options go before the files.
    ///
    /// # Errors
    /// The error names the file, and the line where there is one, and says what to do.
    pub fn load(options: &Options) -> Result<Self, Error> {
        let mut config = Self::read(options)?;
        config.policy.rules.read_passwords()?;
        Ok(config)
    }

    /// As [`Self::load`], for `--check`: returns also the passwords that only the service can read.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn check(options: &Options) -> Result<(Self, Vec<String>), Error> {
        let mut config = Self::read(options)?;
        let left_out = config.policy.rules.try_passwords()?;
        Ok((config, left_out))
    }

    fn read(options: &Options) -> Result<Self, Error> {
        let file: File = config::load(options.common.config.as_deref(), service_uid(USER))?;
        Ok(Self::new(file, options))
    }

    fn new(file: File, options: &Options) -> Self {
        let connections = match &options.connect[..] {
            [] => file.connections.map_or_else(|| vec![DEFAULT_URI.to_owned()], |it| it.0),
            uris => uris.to_vec(),
        };
        let default = Times::default();
        let times = Times {
            hold: file.hold.map_or(default.hold, Into::into),
            shutdown_wait: file.shutdown_wait.map_or(default.shutdown_wait, Into::into),
            cool_down: file.cool_down.map_or(default.cool_down, Into::into),
        };
        let rules = Rules::new(file.allow, file.metadata.unwrap_or(true));
        let policy = Policy { rules, aliases: file.alias, times };
        Self { connections, log: file.log.unwrap_or_default(), policy }
    }
}

impl fmt::Display for Config {
    /// As it could be written to a file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections: Vec<String> = self.connections.iter().map(|uri| quoted(uri).to_string()).collect();
        let Policy { rules, aliases, times } = &self.policy;
        let shown = |duration| format!("\"{}\"", HumanDuration::from(duration));
        write!(
            f,
            "connections = [{}]\nmetadata = {}\nhold = {}\nshutdown-wait = {}\ncool-down = {}\nlog = \"{}\"",
            connections.join(", "),
            rules.metadata(),
            shown(times.hold),
            shown(times.shutdown_wait),
            shown(times.cool_down),
            self.log
        )?;
        rules.iter().try_for_each(|rule| {
            write!(f, "\n\n[[allow]]\n{}", rule.keys().collect::<Vec<_>>().join("\n"))
        })?;
        aliases.iter().try_for_each(|alias| write!(f, "\n\n[[alias]]\n{alias}"))
    }
}

/// What one file may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct File {
    connections: Option<Connections>,
    metadata: Option<bool>,
    hold: Option<HumanDuration>,
    shutdown_wait: Option<HumanDuration>,
    cool_down: Option<HumanDuration>,
    log: Option<Level>,
    allow: Vec<Rule>,
    alias: Vec<Alias>,
}

impl config::Layer for File {
    const SERVICE: &'static str = "actor";

    fn over(self, below: Self) -> Self {
        Self {
            connections: self.connections.or(below.connections),
            metadata: self.metadata.or(below.metadata),
            hold: self.hold.or(below.hold),
            shutdown_wait: self.shutdown_wait.or(below.shutdown_wait),
            cool_down: self.cool_down.or(below.cool_down),
            log: self.log.or(below.log),
            // The first rule that fits is the one that is named: the administrator's goes first.
            allow: [self.allow, below.allow].concat(),
            alias: [self.alias, below.alias].concat(),
        }
    }
}

/// The hypervisors: one at least, each once.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
struct Connections(Vec<String>);

impl TryFrom<Vec<String>> for Connections {
    type Error = &'static str;

    fn try_from(uris: Vec<String>) -> Result<Self, Self::Error> {
        if uris.is_empty() {
            return Err("no connection; write one, such as \"qemu:///system\"");
        }
        if uris.iter().any(String::is_empty) {
            return Err("a URI is empty; write one such as \"qemu:///system\"");
        }
        if uris.iter().collect::<BTreeSet<_>>().len() < uris.len() {
            return Err("the same connection twice; write it once");
        }
        Ok(Self(uris))
    }
}

#[cfg(test)]
mod tests;
