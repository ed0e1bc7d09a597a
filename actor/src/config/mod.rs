//! The configuration: `actor.toml`.

mod options;

use core::fmt;
use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use wakevirt_service::config::{self, HumanDuration};
use wakevirt_service::logs::{Level, quoted};
use wakevirt_service::user::service_uid;

use crate::Error;
use crate::policy::alias::Alias;
use crate::policy::rules::{Rule, Rules};
use crate::policy::{MAX_URI, Policy, Times};
use crate::privilege::USER;
pub use options::Options;

/// The administrator's file, where the command line names no other.
const FILE: &str = "/etc/wakevirt/actor.toml";
/// Where domains are looked for if nothing else is said.
const DEFAULT_URI: &str = "qemu:///system";
/// The most hypervisors.
const MAX_CONNECTIONS: usize = 16;
/// The most globs, in all rules and aliases: each takes some 10 to 75 KiB.
const MAX_GLOBS: usize = 1024;
/// The shortest time for which a wake may wait for its hypervisor: a packet that has become older than `hold` on its
/// way to the actor wakes nothing.
const MIN_HOLD: Duration = Duration::from_secs(1);
/// The longest time for which a wake may wait for its hypervisor.
const MAX_HOLD: Duration = Duration::from_secs(7 * 24 * 3600);
/// The longest time for which a wake may wait for a domain that is shutting down.
const MAX_SHUTDOWN_WAIT: Duration = Duration::from_secs(24 * 3600);
/// The longest time for which packets may do nothing after a wake.
const MAX_COOL_DOWN: Duration = Duration::from_secs(24 * 3600);
/// The most rules, and the most aliases: each is looked at for each packet or domain.
const MAX_TABLES: usize = 1024;

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
        if !options.connect.is_empty() {
            connections(&options.connect)
                .map_err(|problem| config::Error::Option { option: "--connect", problem })?;
        }
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
        let own = options.common.config.clone().unwrap_or_else(|| FILE.into());
        let policy = Policy { rules, aliases: file.alias, times, file: own };
        Self { connections, log: file.log.unwrap_or_default(), policy }
    }
}

impl fmt::Display for Config {
    /// As it could be written to a file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections: Vec<String> = self.connections.iter().map(|uri| quoted(uri).to_string()).collect();
        let Policy { rules, aliases, times, file: _ } = &self.policy;
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
    #[serde(deserialize_with = "hold")]
    hold: Option<HumanDuration>,
    #[serde(deserialize_with = "shutdown_wait")]
    shutdown_wait: Option<HumanDuration>,
    #[serde(deserialize_with = "cool_down")]
    cool_down: Option<HumanDuration>,
    log: Option<Level>,
    #[serde(deserialize_with = "allow")]
    allow: Vec<Rule>,
    #[serde(deserialize_with = "alias")]
    alias: Vec<Alias>,
}

fn hold<'de, D: Deserializer<'de>>(input: D) -> Result<Option<HumanDuration>, D::Error> {
    config::duration(input, MIN_HOLD..=MAX_HOLD).map(Some)
}

fn shutdown_wait<'de, D: Deserializer<'de>>(input: D) -> Result<Option<HumanDuration>, D::Error> {
    config::duration(input, Duration::ZERO..=MAX_SHUTDOWN_WAIT).map(Some)
}

fn cool_down<'de, D: Deserializer<'de>>(input: D) -> Result<Option<HumanDuration>, D::Error> {
    config::duration(input, Duration::ZERO..=MAX_COOL_DOWN).map(Some)
}

fn allow<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<Rule>, D::Error> {
    let globs = config::PartLimit { count: Rule::globs, max: MAX_GLOBS, name: "globs in [[allow]]" };
    config::list_with_parts(input, MAX_TABLES, "tables [[allow]]", globs)
}

fn alias<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<Alias>, D::Error> {
    config::list(input, MAX_TABLES, "tables [[alias]]")
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

    fn check_limits(&self) -> Result<(), String> {
        for (key, tables) in [("allow", self.allow.len()), ("alias", self.alias.len())] {
            if tables > MAX_TABLES {
                return Err(format!(
                    "the files have more than {MAX_TABLES} tables [[{key}]] up to here, which are the most"
                ));
            }
        }
        let aliases = self.alias.iter().filter(|alias| alias.is_glob()).count();
        if aliases + self.allow.iter().map(Rule::globs).sum::<usize>() > MAX_GLOBS {
            return Err(format!(
                "the files have more than {MAX_GLOBS} globs in [[allow]] and [[alias]] up to here, which are the most"
            ));
        }
        Ok(())
    }
}

/// The hypervisors.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
struct Connections(Vec<String>);

impl TryFrom<Vec<String>> for Connections {
    type Error = String;

    fn try_from(uris: Vec<String>) -> Result<Self, Self::Error> {
        connections(&uris).map(|()| Self(uris))
    }
}

/// Whether these can be the hypervisors: one at least, each once, and each of them an URI as far as that shows.
fn connections(uris: &[String]) -> Result<(), String> {
    if uris.is_empty() {
        return Err("no connection; write one, such as \"qemu:///system\"".to_owned());
    }
    if uris.len() > MAX_CONNECTIONS {
        return Err(format!("{} connections, {MAX_CONNECTIONS} are the most", uris.len()));
    }
    if uris.iter().any(String::is_empty) {
        return Err("a URI is empty; write one such as \"qemu:///system\"".to_owned());
    }
    uris.iter().try_for_each(|uri| config::check_text(uri, MAX_URI))?;
    if uris.iter().collect::<BTreeSet<_>>().len() < uris.len() {
        return Err("the same connection twice; write it once".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
