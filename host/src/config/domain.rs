//! A `[[domain]]` table.

use core::fmt;
use std::collections::BTreeSet;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use wakevirt_service::config::{self, DomainPattern};

use super::monitor::Monitor;
use crate::sleep::{OnFailure, ShutdownMode, SleepMode};

/// The highest weight: `CPUWeight=` in systemd.resource-control(5).
const MAX_WEIGHT: u32 = 10_000;

/// What is prepared before a domain starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preparation {
    /// The huge pages of its definition are made available.
    Hugepages,
    /// The CPUs to which its vCPUs are pinned are used by no other process of the host.
    Isolate,
    /// Memory is compacted, for a domain that relies on transparent huge pages.
    Compact,
}

/// How a running domain keeps the host awake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inhibit {
    /// With logind's `block-weak` mode, where logind has it, otherwise with `block`.
    Weak,
    /// With logind's `block` mode.
    Block,
}

/// The settings of one domain: the keys of all tables that match it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// What is prepared before it starts.
    pub prepare: BTreeSet<Preparation>,
    /// The weight of all domains against the host while it is active: 1 to 10000.
    pub weight: Option<u64>,
    /// Whether it must not start if the host cannot be prepared.
    pub require: bool,
    /// How it sleeps while the host sleeps. `None`: it is left as it is.
    pub sleep: Option<SleepMode>,
    /// What happens if it does not sleep in time. `None`: the host stays awake if a PCI device is passed through to it,
    /// and sleeps otherwise.
    pub on_failure: Option<OnFailure>,
    /// What happens when the host shuts down. `None`: it is left to others, such as libvirt-guests.
    pub shutdown: Option<ShutdownMode>,
    /// How it keeps the host awake while it runs. `None`: it does not.
    pub nosleep: Option<Inhibit>,
    /// Whether it also keeps the host awake when the lid is closed.
    pub lid: bool,
    /// The monitor that shows it while it runs.
    pub monitor: Option<Monitor>,
}

impl Settings {
    /// The settings for the host's preparation that need systemd, by the names of their keys or values.
    #[must_use]
    pub fn systemd_keys(&self) -> Vec<&'static str> {
        let keys = [
            ("isolate", self.prepare.contains(&Preparation::Isolate)),
            ("weight", self.weight.is_some()),
            ("monitor", self.monitor.is_some()),
        ];
        keys.into_iter().filter(|(_, is_set)| *is_set).map(|(key, _)| key).collect()
    }
}

impl From<Keys> for Settings {
    fn from(keys: Keys) -> Self {
        Self {
            prepare: keys.prepare.unwrap_or_default(),
            weight: keys.weight,
            require: keys.require.unwrap_or_default(),
            sleep: keys.sleep,
            on_failure: keys.on_failure,
            shutdown: keys.shutdown,
            nosleep: keys.nosleep.unwrap_or_default().0,
            lid: keys.lid.unwrap_or_default(),
            monitor: keys.monitor,
        }
    }
}

/// A `[[domain]]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Domain {
    pub(super) pattern: DomainPattern,
    pub(super) keys: Keys,
}

/// The keys of a table other than `match`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Keys {
    prepare: Option<BTreeSet<Preparation>>,
    weight: Option<u64>,
    require: Option<bool>,
    sleep: Option<SleepMode>,
    on_failure: Option<OnFailure>,
    shutdown: Option<ShutdownMode>,
    nosleep: Option<NoSleep>,
    lid: Option<bool>,
    monitor: Option<Monitor>,
}

impl Keys {
    /// These keys, and those of a later table that are missing here.
    pub(super) fn or(self, later: Self) -> Self {
        Self {
            prepare: self.prepare.or(later.prepare),
            weight: self.weight.or(later.weight),
            require: self.require.or(later.require),
            sleep: self.sleep.or(later.sleep),
            on_failure: self.on_failure.or(later.on_failure),
            shutdown: self.shutdown.or(later.shutdown),
            nosleep: self.nosleep.or(later.nosleep),
            lid: self.lid.or(later.lid),
            monitor: self.monitor.or(later.monitor),
        }
    }
}

/// The keys of a table in a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawDomain {
    #[serde(rename = "match")]
    pattern: Option<DomainPattern>,
    #[serde(default, deserialize_with = "prepare")]
    prepare: Option<BTreeSet<Preparation>>,
    #[serde(default, deserialize_with = "weight")]
    weight: Option<u64>,
    require: Option<bool>,
    sleep: Option<SleepMode>,
    on_failure: Option<OnFailure>,
    shutdown: Option<ShutdownMode>,
    nosleep: Option<NoSleep>,
    lid: Option<bool>,
    monitor: Option<Monitor>,
}

fn prepare<'de, D: Deserializer<'de>>(input: D) -> Result<Option<BTreeSet<Preparation>>, D::Error> {
    let list: Vec<Preparation> = config::list(input, 3, "preparations")?;
    Ok(Some(list.into_iter().collect()))
}

fn weight<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u64>, D::Error> {
    config::number(input, 1..=MAX_WEIGHT).map(|weight| Some(weight.into()))
}

impl<'de> Deserialize<'de> for Domain {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let raw = RawDomain::deserialize(input)?;
        let pattern = raw.pattern.ok_or_else(|| {
            D::Error::custom(
                "a [[domain]] table needs a pattern; add match = \"…\" with a name, a glob or a UUID",
            )
        })?;
        let keys = Keys {
            prepare: raw.prepare,
            weight: raw.weight,
            require: raw.require,
            sleep: raw.sleep,
            on_failure: raw.on_failure,
            shutdown: raw.shutdown,
            nosleep: raw.nosleep,
            lid: raw.lid,
            monitor: raw.monitor,
        };
        Ok(Self { pattern, keys })
    }
}

/// The value of `nosleep`: a boolean or `"block"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "toml::Value")]
struct NoSleep(Option<Inhibit>);

impl TryFrom<toml::Value> for NoSleep {
    type Error = &'static str;

    fn try_from(value: toml::Value) -> Result<Self, Self::Error> {
        match value {
            toml::Value::Boolean(false) => Ok(Self(None)),
            toml::Value::Boolean(true) => Ok(Self(Some(Inhibit::Weak))),
            toml::Value::String(text) if text == "block" => Ok(Self(Some(Inhibit::Block))),
            _ => Err("not a valid value; write true, false or \"block\""),
        }
    }
}

impl fmt::Display for Preparation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hugepages => "hugepages",
            Self::Isolate => "isolate",
            Self::Compact => "compact",
        })
    }
}

impl fmt::Display for NoSleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            None => "false",
            Some(Inhibit::Weak) => "true",
            Some(Inhibit::Block) => "\"block\"",
        })
    }
}

impl fmt::Display for Domain {
    /// Writes the keys in the format of `host.toml`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "match = {}", config::toml_string(self.pattern.text()))?;
        if let Some(prepare) = &self.keys.prepare {
            let list: Vec<Preparation> = prepare.iter().copied().collect();
            write!(f, "\nprepare = {}", config::toml_array(&list))?;
        }
        let quote = |value: Option<&str>| value.map(|value| format!("\"{value}\""));
        let keys = [
            ("weight", self.keys.weight.map(|it| it.to_string())),
            ("require", self.keys.require.map(|it| it.to_string())),
            ("sleep", quote(self.keys.sleep.map(SleepMode::name))),
            ("on-failure", quote(self.keys.on_failure.map(OnFailure::name))),
            ("shutdown", quote(self.keys.shutdown.map(|it| SleepMode::from(it).name()))),
            ("nosleep", self.keys.nosleep.map(|it| it.to_string())),
            ("lid", self.keys.lid.map(|it| it.to_string())),
            ("monitor", self.keys.monitor.as_ref().map(ToString::to_string)),
        ];
        keys.iter().try_for_each(|(key, value)| match value {
            Some(value) => write!(f, "\n{key} = {value}"),
            None => Ok(()),
        })
    }
}
