//! capture.toml: what it may say, and what follows from it.

use core::fmt;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use wakevirt_protocol::frame::Ports;
use wakevirt_protocol::sniffer::{MAX_OUTGOING, MAX_PORTS, MAX_UDP_SOCKETS, Request, Start};
use wakevirt_service::config::{self, HumanDuration, Layer, load};
use wakevirt_service::logs::{Level, quoted};
use wakevirt_service::user::service_uid;

use super::USER;
use super::ledger::Rules;
use super::pattern::{Pattern, Patterns, is_interface_name};
use crate::options::Options;

/// The most packets that a ring may be told to remember.
const MAX_REMEMBER: u32 = 65_536;

/// The key `mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ModeKey {
    /// Packet sockets where the privilege is there, UDP sockets in any case
    Auto,
    /// Packet sockets, or fail
    Raw,
    /// UDP sockets alone
    Udp,
}

impl From<ModeKey> for Request {
    fn from(mode: ModeKey) -> Self {
        match mode {
            ModeKey::Auto => Self::Auto,
            ModeKey::Raw => Self::Raw,
            ModeKey::Udp => Self::Udp,
        }
    }
}

/// One file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct File {
    mode: Option<ModeKey>,
    interfaces: Option<Vec<Pattern>>,
    #[serde(deserialize_with = "outgoing")]
    outgoing: Option<Vec<String>>,
    #[serde(deserialize_with = "ports")]
    ports: Option<Vec<u16>>,
    #[serde(deserialize_with = "listen")]
    listen: Option<Vec<SocketAddr>>,
    deduplicate: Option<HumanDuration>,
    #[serde(deserialize_with = "remember")]
    remember: Option<u32>,
    limit: Option<u32>,
    require_landlock: Option<bool>,
    log: Option<Level>,
}

impl Layer for File {
    const SERVICE: &'static str = "capture";

    fn over(self, below: Self) -> Self {
        Self {
            mode: self.mode.or(below.mode),
            interfaces: self.interfaces.or(below.interfaces),
            outgoing: self.outgoing.or(below.outgoing),
            ports: self.ports.or(below.ports),
            listen: self.listen.or(below.listen),
            deduplicate: self.deduplicate.or(below.deduplicate),
            remember: self.remember.or(below.remember),
            limit: self.limit.or(below.limit),
            require_landlock: self.require_landlock.or(below.require_landlock),
            log: self.log.or(below.log),
        }
    }
}

/// What the service does, from its files, its options and its defaults.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the sniffer is told; fixed until the service is started again.
    pub start: Start,
    /// Interfaces whose outgoing frames are heard as well; fixed, too.
    pub outgoing: Vec<String>,
    /// Where to listen for UDP, unless sockets are handed over; fixed, too.
    pub listen: Vec<SocketAddr>,
    /// Interfaces to hear on.
    pub interfaces: Patterns,
    /// How packets are announced.
    pub rules: Rules,
    /// How much is logged.
    pub log: Level,
}

impl Settings {
    /// Reads the files, and puts the options over them.
    ///
    /// # Errors
    /// What is wrong with which file, and where.
    pub fn load(options: &Options) -> Result<Self, config::Error> {
        let file: File = load(options.common.config.as_deref(), service_uid(USER))?;
        let options = File {
            mode: options.mode,
            interfaces: non_empty(&options.interfaces),
            listen: non_empty(&options.listen),
            ..File::default()
        };
        Ok(options.over(file).into())
    }

    /// The keys that differ from the running service's and that only a restart changes.
    #[must_use]
    pub fn need_restart(&self, running: &Self) -> Vec<&'static str> {
        let (new, old) = (&self.start, &running.start);
        [
            ("mode", new.request != old.request),
            ("ports", new.ports != old.ports),
            ("outgoing", self.outgoing != running.outgoing),
            ("listen", self.listen != running.listen),
            ("require-landlock", new.require_landlock != old.require_landlock),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }
}

impl From<File> for Settings {
    fn from(file: File) -> Self {
        let outgoing = file.outgoing.unwrap_or_default();
        let discard = |ip: IpAddr| SocketAddr::new(ip, 9);
        Self {
            start: Start {
                request: file.mode.unwrap_or(ModeKey::Auto).into(),
                ports: file.ports.unwrap_or_else(|| Ports::default().as_slice().to_vec()),
                // The deserializer saw to it that they are few.
                outgoing: u8::try_from(outgoing.len()).unwrap_or(u8::MAX),
                require_landlock: file.require_landlock.unwrap_or(true),
            },
            outgoing,
            listen: file.listen.unwrap_or_else(|| {
                vec![discard(Ipv4Addr::UNSPECIFIED.into()), discard(Ipv6Addr::UNSPECIFIED.into())]
            }),
            interfaces: Patterns::new(file.interfaces.unwrap_or_default()),
            rules: Rules {
                deduplicate: file.deduplicate.map_or(Duration::from_secs(2), Into::into),
                remember: file.remember.and_then(|most| usize::try_from(most).ok()).unwrap_or(256),
                limit: file.limit.unwrap_or(100),
            },
            log: file.log.unwrap_or_default(),
        }
    }
}

impl fmt::Display for Settings {
    /// As it could be written to a file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.start.request {
            Request::Auto => "auto",
            Request::Raw => "raw",
            Request::Udp => "udp",
        };
        let Rules { deduplicate, remember, limit } = self.rules;
        writeln!(f, "mode = \"{mode}\"")?;
        writeln!(f, "interfaces = {}", self.interfaces)?;
        writeln!(f, "outgoing = {}", list(&self.outgoing))?;
        writeln!(f, "ports = {:?}", self.start.ports)?;
        writeln!(f, "listen = {}", list(&self.listen))?;
        writeln!(f, "deduplicate = \"{}\"", HumanDuration::from(deduplicate))?;
        writeln!(f, "remember = {remember}")?;
        writeln!(f, "limit = {limit}")?;
        writeln!(f, "require-landlock = {}", self.start.require_landlock)?;
        write!(f, "log = \"{}\"", self.log)
    }
}

/// A list of texts, as it is written in a file.
pub(super) fn list<T: fmt::Display>(items: &[T]) -> String {
    let texts: Vec<String> = items.iter().map(|item| quoted(&item.to_string()).to_string()).collect();
    format!("[{}]", texts.join(", "))
}

fn non_empty<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

fn ports<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<u16>>, D::Error> {
    at_most(input, MAX_PORTS, "UDP ports").map(|ports| Some(BTreeSet::from_iter(ports).into_iter().collect()))
}

fn listen<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<SocketAddr>>, D::Error> {
    at_most(input, MAX_UDP_SOCKETS, "addresses").map(Some)
}

fn outgoing<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<String>>, D::Error> {
    let names: Vec<String> = at_most(input, MAX_OUTGOING, "interfaces")?;
    match names.iter().find(|name| !is_interface_name(name) || name.contains(['*', '?', '['])) {
        Some(bad) => Err(de::Error::custom(format!(
            "{} is not the name of an interface; a name is needed here, not a glob",
            quoted(bad)
        ))),
        None => Ok(Some(names)),
    }
}

fn remember<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
    match u32::deserialize(input)? {
        most @ 0..=MAX_REMEMBER => Ok(Some(most)),
        more => Err(de::Error::custom(format!("{more} packets are too many, {MAX_REMEMBER} are the most"))),
    }
}

fn at_most<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    input: D,
    most: usize,
    what: &str,
) -> Result<Vec<T>, D::Error> {
    let list = Vec::<T>::deserialize(input)?;
    if list.len() > most {
        return Err(de::Error::custom(format!("{} {what} are too many, {most} are the most", list.len())));
    }
    Ok(list)
}

#[cfg(test)]
mod tests;
