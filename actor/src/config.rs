//! The configuration: `actor.toml`.

use core::fmt;

use serde::Deserialize;
use wakevirt_service::config;
use wakevirt_service::logs::{Level, quoted};
use wakevirt_service::user::service_uid;

use crate::options::Options;
use crate::privilege::USER;
use crate::rules::{Rule, Rules};

/// Where domains are looked for if nothing else is said.
const DEFAULT_URI: &str = "qemu:///system";

/// The configuration as it is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The hypervisor's URI (<https://libvirt.org/uri.html>).
    pub connection: String,
    /// How much is logged.
    pub log: Level,
    /// What packets may wake.
    pub rules: Rules,
}

impl Config {
    /// Reads the configuration files; options go before them.
    ///
    /// # Errors
    /// [`config::Error`] names the file and the line, and says what to do.
    pub fn load(options: &Options) -> Result<Self, config::Error> {
        let file: File = config::load(options.common.config.as_deref(), service_uid(USER))?;
        Ok(Self::new(file, options))
    }

    fn new(file: File, options: &Options) -> Self {
        let connection = options.connect.clone().or(file.connections.map(|it| it.0));
        Self {
            connection: connection.unwrap_or_else(|| DEFAULT_URI.to_owned()),
            log: file.log.unwrap_or_default(),
            rules: Rules::new(file.allow),
        }
    }
}

impl fmt::Display for Config {
    /// As it could be written to a file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connections = [{}]\nlog = \"{}\"", quoted(&self.connection), self.log)?;
        self.rules.iter().try_for_each(|rule| write!(f, "\n\n[[allow]]\n{rule}"))
    }
}

/// What one file may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct File {
    connections: Option<Connections>,
    log: Option<Level>,
    allow: Vec<Rule>,
}

impl config::Layer for File {
    const SERVICE: &'static str = "actor";

    fn over(self, below: Self) -> Self {
        Self {
            connections: self.connections.or(below.connections),
            log: self.log.or(below.log),
            // The first rule that fits is the one that is named: the administrator's goes first.
            allow: [self.allow, below.allow].concat(),
        }
    }
}

/// The hypervisors: exactly one.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
struct Connections(String);

impl TryFrom<Vec<String>> for Connections {
    type Error = &'static str;

    fn try_from(uris: Vec<String>) -> Result<Self, Self::Error> {
        match <[String; 1]>::try_from(uris) {
            Ok([uri]) if !uri.is_empty() => Ok(Self(uri)),
            Ok(_) => Err("a URI is empty; write one such as \"qemu:///system\""),
            Err(uris) if uris.is_empty() => Err("no connection; write one, such as \"qemu:///system\""),
            Err(_) => Err("more than one connection; this version serves exactly one"),
        }
    }
}

#[cfg(test)]
mod tests;
