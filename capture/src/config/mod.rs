//! capture.toml: what it may say, and what follows from it.

pub mod options;
pub mod pattern;

use core::fmt;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use wakevirt_protocol::frame::Ports;
use wakevirt_protocol::sniffer::{MAX_OUTGOING, MAX_PORTS, MAX_UDP_SOCKETS, Request, Start};
use wakevirt_service::config::{self, HumanDuration, Layer, is_glob, load};
use wakevirt_service::logs::{Level, quoted};
use wakevirt_service::user::service_uid;

use crate::config::options::Options;
use crate::config::pattern::{Pattern, Patterns, is_interface_name};
use crate::packets::ledger::Rules;

/// The user that the service runs as.
pub const USER: &str = "wakevirt-capture";

/// The most packets that a ring may be told to remember.
const MAX_REMEMBER: u32 = 65_536;
/// The longest time for which copies may be left out.
const MAX_DEDUPLICATE: Duration = Duration::from_secs(3600);
/// The most signals a second for addresses that nobody has named.
const MAX_LIMIT: u32 = 100_000;
/// The most names and globs of interfaces.
const MAX_INTERFACES: usize = 64;

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
    #[serde(deserialize_with = "interfaces")]
    interfaces: Option<Vec<Pattern>>,
    #[serde(deserialize_with = "outgoing")]
    outgoing: Option<Vec<String>>,
    #[serde(deserialize_with = "ports")]
    ports: Option<Vec<u16>>,
    #[serde(deserialize_with = "listen")]
    listen: Option<Vec<SocketAddr>>,
    #[serde(deserialize_with = "deduplicate")]
    deduplicate: Option<HumanDuration>,
    #[serde(deserialize_with = "remember")]
    remember: Option<u32>,
    #[serde(deserialize_with = "limit")]
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
        at_most("--interface", &options.interfaces, MAX_INTERFACES)?;
        at_most("--listen", &options.listen, MAX_UDP_SOCKETS)?;
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

fn interfaces<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<Pattern>>, D::Error> {
    let patterns: Vec<Pattern> = config::list(input, MAX_INTERFACES, "interfaces")?;
    if patterns.is_empty() {
        return Err(de::Error::custom(
            "an empty list means no interface; leave interfaces out, or write [\"*\"], for all of them",
        ));
    }
    Ok(Some(patterns))
}

fn ports<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<u16>>, D::Error> {
    let ports: Vec<Port> = config::list(input, MAX_PORTS, "UDP ports")?;
    Ok(Some(BTreeSet::from_iter(ports.into_iter().map(|port| port.0)).into_iter().collect()))
}

/// A UDP port, read so that an error names the range.
struct Port(u16);

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let port = config::number(input, 0..=u16::MAX.into())?;
        u16::try_from(port).map(Self).map_err(de::Error::custom)
    }
}

fn listen<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<SocketAddr>>, D::Error> {
    config::list(input, MAX_UDP_SOCKETS, "addresses").map(Some)
}

fn outgoing<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<String>>, D::Error> {
    let names: Vec<String> = config::list(input, MAX_OUTGOING, "interfaces")?;
    match names.iter().find(|name| !is_interface_name(name) || is_glob(name)) {
        Some(bad) => Err(de::Error::custom(format!(
            "{} is not the name of an interface; a name is needed here, not a glob",
            quoted(bad)
        ))),
        None => Ok(Some(names)),
    }
}

fn deduplicate<'de, D: Deserializer<'de>>(input: D) -> Result<Option<HumanDuration>, D::Error> {
    config::duration(input, Duration::ZERO..=MAX_DEDUPLICATE).map(Some)
}

fn remember<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
    config::number(input, 1..=MAX_REMEMBER).map(Some)
}

fn limit<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
    config::number(input, 0..=MAX_LIMIT).map(Some)
}

/// An option that may be given more than once, but not more often than the key may have values.
fn at_most<T>(option: &'static str, values: &[T], most: usize) -> Result<(), config::Error> {
    if values.len() <= most {
        return Ok(());
    }
    let problem = format!("given {} times, {most} are the most", values.len());
    Err(config::Error::Option { option, problem })
}

#[cfg(test)]
mod tests;
