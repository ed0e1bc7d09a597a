//! The configuration: `capture.toml` and the command line.

pub mod interfaces;
pub mod mode;
pub mod options;

use core::fmt;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use wakevirt_protocol::frame::Ports;
use wakevirt_protocol::sniffer::{MAX_OUTGOING, MAX_PORTS, MAX_UDP_SOCKETS, Request, Start};
use wakevirt_service::config::{self, HumanDuration, Layer, is_glob, is_interface_name, load, toml_array};
use wakevirt_service::logs::{LogFilter, quoted};
use wakevirt_service::user::service_uid;

use crate::config::interfaces::{InterfaceEntry, InterfaceList};
use crate::config::mode::ModeKey;
use crate::config::options::Options;
use crate::packets::ledger::LedgerSettings;

/// The user that the service runs as.
pub const USER: &str = "wakevirt-capture";

/// The maximum value of `remember`, in packets.
const MAX_REMEMBER: u32 = 65_536;
/// The maximum value of `deduplicate`.
const MAX_DEDUPLICATE: Duration = Duration::from_secs(3600);
/// The maximum value of `limit`, in signals per second.
const MAX_LIMIT: u32 = 100_000;
/// The maximum number of entries in `interfaces`.
const MAX_INTERFACES: usize = 64;

/// The keys of one file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct CaptureFile {
    mode: Option<ModeKey>,
    #[serde(deserialize_with = "interfaces")]
    interfaces: Option<Vec<InterfaceEntry>>,
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
    log: Option<LogFilter>,
}

impl Layer for CaptureFile {
    const SERVICE: &'static str = "capture";

    fn over(self, lower: Self) -> Self {
        Self {
            mode: self.mode.or(lower.mode),
            interfaces: self.interfaces.or(lower.interfaces),
            outgoing: self.outgoing.or(lower.outgoing),
            ports: self.ports.or(lower.ports),
            listen: self.listen.or(lower.listen),
            deduplicate: self.deduplicate.or(lower.deduplicate),
            remember: self.remember.or(lower.remember),
            limit: self.limit.or(lower.limit),
            require_landlock: self.require_landlock.or(lower.require_landlock),
            log: self.log.or(lower.log),
        }
    }
}

/// The configuration in effect: files, options and defaults.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The sniffer's configuration. A change requires a restart.
    pub start: Start,
    /// The interfaces on which outgoing frames are also received. A change requires a restart.
    pub outgoing: Vec<String>,
    /// The UDP addresses to listen on, unless sockets are passed. A change requires a restart.
    pub listen: Vec<SocketAddr>,
    /// The interfaces on which to receive packets.
    pub interfaces: InterfaceList,
    /// The limits that apply to the announcement of packets.
    pub ledger: LedgerSettings,
    /// Which messages are logged.
    pub log: LogFilter,
}

impl Settings {
    /// Reads the configuration files. Options take precedence over them.
    ///
    /// # Errors
    /// If an option or a file is invalid. The error names the file and the line.
    pub fn load(options: &Options) -> Result<Self, config::ConfigError> {
        check_count("--interface", &options.interfaces, MAX_INTERFACES)?;
        check_count("--listen", &options.listen, MAX_UDP_SOCKETS)?;
        let file: CaptureFile = load(options.common.config.as_deref(), service_uid(USER))?;
        let options = CaptureFile {
            mode: options.mode,
            interfaces: non_empty(&options.interfaces),
            listen: non_empty(&options.listen),
            ..CaptureFile::default()
        };
        Ok(options.over(file).into())
    }

    /// The keys that differ from the running configuration and require a restart.
    #[must_use]
    pub fn keys_that_need_restart(&self, running: &Self) -> Vec<&'static str> {
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

impl From<CaptureFile> for Settings {
    fn from(file: CaptureFile) -> Self {
        let outgoing = file.outgoing.unwrap_or_default();
        let discard = |ip: IpAddr| SocketAddr::new(ip, 9);
        let interfaces = InterfaceList::new(file.interfaces.unwrap_or_default());
        let limit = file.limit.unwrap_or(100);
        Self {
            start: Start {
                request: file.mode.unwrap_or(ModeKey::Auto).into(),
                ports: file.ports.unwrap_or_else(|| Ports::default().as_slice().to_vec()),
                // The deserializer limits them to MAX_OUTGOING.
                outgoing: u8::try_from(outgoing.len()).unwrap_or(u8::MAX),
                bound: u8::try_from(interfaces.few_names().map_or(0, |names| names.len())).unwrap_or(0),
                limit,
                require_landlock: file.require_landlock.unwrap_or(true),
            },
            outgoing,
            listen: file.listen.unwrap_or_else(|| {
                vec![discard(Ipv4Addr::UNSPECIFIED.into()), discard(Ipv6Addr::UNSPECIFIED.into())]
            }),
            interfaces,
            ledger: LedgerSettings {
                deduplicate: file.deduplicate.map_or(Duration::from_secs(2), Into::into),
                remember: file.remember.and_then(|packets| usize::try_from(packets).ok()).unwrap_or(256),
                limit,
            },
            log: file.log.unwrap_or_default(),
        }
    }
}

impl fmt::Display for Settings {
    /// Writes the settings in the format of `capture.toml`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.start.request {
            Request::Auto => "auto",
            Request::Raw => "raw",
            Request::Udp => "udp",
        };
        let LedgerSettings { deduplicate, remember, limit } = self.ledger;
        writeln!(f, "mode = \"{mode}\"")?;
        writeln!(f, "interfaces = {}", self.interfaces)?;
        writeln!(f, "outgoing = {}", toml_array(&self.outgoing))?;
        writeln!(f, "ports = {:?}", self.start.ports)?;
        writeln!(f, "listen = {}", toml_array(&self.listen))?;
        writeln!(f, "deduplicate = \"{}\"", HumanDuration::from(deduplicate))?;
        writeln!(f, "remember = {remember}")?;
        writeln!(f, "limit = {limit}")?;
        writeln!(f, "require-landlock = {}", self.start.require_landlock)?;
        write!(f, "log = \"{}\"", self.log)
    }
}

fn non_empty<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

fn interfaces<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<InterfaceEntry>>, D::Error> {
    let entries: Vec<InterfaceEntry> = config::list(input, MAX_INTERFACES, "interfaces")?;
    if entries.is_empty() {
        return Err(de::Error::custom(
            "an empty list does not match any interface; to match all interfaces, remove this key or write [\"*\"]",
        ));
    }
    Ok(Some(entries))
}

fn ports<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<u16>>, D::Error> {
    let ports: Vec<Port> = config::list(input, MAX_PORTS, "UDP ports")?;
    Ok(Some(BTreeSet::from_iter(ports.into_iter().map(|port| port.0)).into_iter().collect()))
}

/// A UDP port. The error for an invalid port names the range.
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
            "{} is not the name of an interface; write a name, not a glob",
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

/// Checks that an option is not given more times than its key can have values.
fn check_count<T>(option: &'static str, values: &[T], max: usize) -> Result<(), config::ConfigError> {
    if values.len() <= max {
        return Ok(());
    }
    let problem = format!("given {} times; the maximum is {max}", values.len());
    Err(config::ConfigError::Option { option, problem })
}

#[cfg(test)]
mod tests;
