//! The configuration: `host.toml`.

mod domain;
mod monitor;

use core::fmt;
use core::time::Duration;
use std::path::Path;

use serde::{Deserialize, Deserializer};
use uuid::Uuid;
use wakevirt_service::config::{self, ConfigError, HumanDuration};
use wakevirt_service::logs::LogFilter;
use wakevirt_service::user::service_uid;

use domain::Domain;
pub use domain::{Inhibit, Preparation, Settings};
pub use monitor::{Monitor, MonitorId};

/// The maximum number of `[[domain]]` tables. Each event is compared with all of them.
const MAX_TABLES: usize = 1024;
/// The maximum number of globs in all tables. Each glob takes about 10 to 75 KiB of memory.
const MAX_GLOBS: usize = 1024;
/// The minimum of the times.
const MIN_WAIT: Duration = Duration::from_secs(1);
/// The maximum of `prepare-wait`: the hook does not wait longer.
const MAX_PREPARE_WAIT: Duration = wakevirt_protocol::host::MAX_WAIT;
/// The maximum of `sleep-wait` and `shutdown-wait`.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// The configuration in effect, from files and defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How long the start of a domain waits until the host is prepared.
    pub prepare_wait: Duration,
    /// How long the host's sleep waits until the domains sleep.
    pub sleep_wait: Duration,
    /// How long the host's shutdown waits until the domains have stopped.
    pub shutdown_wait: Duration,
    /// Which messages are logged.
    pub log: LogFilter,
    domains: Vec<Domain>,
}

impl Config {
    /// Reads `host.toml` and its drop-ins in the standard directories, or only this file.
    ///
    /// The files must belong to root or to `user`.
    ///
    /// # Errors
    /// The error names the file, and if possible the line, and says what to do.
    pub fn load(file: Option<&Path>, user: &str) -> Result<Self, ConfigError> {
        config::load::<HostFile>(file, service_uid(user)).map(Self::from)
    }

    /// The settings of the domain with this name and, if known, this UUID. For each key, the first matching table that
    /// contains it decides. `None` if no table matches: then the host is not prepared for the domain.
    #[must_use]
    pub fn settings_for(&self, name: &str, uuid: Option<Uuid>) -> Option<Settings> {
        let matching = self.domains.iter().filter(|domain| domain.pattern.matches(name, uuid));
        matching.map(|domain| domain.keys.clone()).reduce(domain::Keys::or).map(Settings::from)
    }

    /// Whether the settings of any table satisfy the condition.
    pub fn any(&self, condition: impl Fn(&Settings) -> bool) -> bool {
        self.domains.iter().any(|domain| condition(&Settings::from(domain.keys.clone())))
    }

    /// The patterns of all tables as they were written, in order of precedence.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.domains.iter().map(|domain| domain.pattern.text())
    }
}

impl Default for Config {
    fn default() -> Self {
        HostFile::default().into()
    }
}

impl From<HostFile> for Config {
    fn from(file: HostFile) -> Self {
        let or = |value: Option<HumanDuration>, seconds| {
            value.map_or(Duration::from_secs(seconds), Duration::from)
        };
        Self {
            prepare_wait: or(file.prepare_wait, 30),
            sleep_wait: or(file.sleep_wait, 60),
            shutdown_wait: or(file.shutdown_wait, 120),
            log: file.log.unwrap_or_default(),
            domains: file.domain,
        }
    }
}

impl fmt::Display for Config {
    /// Writes the configuration in the format of `host.toml`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |duration| format!("\"{}\"", HumanDuration::from(duration));
        write!(
            f,
            "prepare-wait = {}\nsleep-wait = {}\nshutdown-wait = {}\nlog = \"{}\"",
            shown(self.prepare_wait),
            shown(self.sleep_wait),
            shown(self.shutdown_wait),
            self.log
        )?;
        self.domains.iter().try_for_each(|domain| write!(f, "\n\n[[domain]]\n{domain}"))
    }
}

/// The keys of one file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct HostFile {
    #[serde(deserialize_with = "prepare_wait")]
    prepare_wait: Option<HumanDuration>,
    #[serde(deserialize_with = "wait")]
    sleep_wait: Option<HumanDuration>,
    #[serde(deserialize_with = "wait")]
    shutdown_wait: Option<HumanDuration>,
    log: Option<LogFilter>,
    #[serde(deserialize_with = "domains")]
    domain: Vec<Domain>,
}

fn prepare_wait<'de, D: Deserializer<'de>>(input: D) -> Result<Option<HumanDuration>, D::Error> {
    config::duration(input, MIN_WAIT..=MAX_PREPARE_WAIT).map(Some)
}

fn wait<'de, D: Deserializer<'de>>(input: D) -> Result<Option<HumanDuration>, D::Error> {
    config::duration(input, MIN_WAIT..=MAX_WAIT).map(Some)
}

fn domains<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<Domain>, D::Error> {
    let globs = config::PartLimit { count: globs, max: MAX_GLOBS, name: "globs in [[domain]] tables" };
    config::list_with_parts(input, MAX_TABLES, "[[domain]] tables", globs)
}

fn globs(domain: &Domain) -> usize {
    usize::from(domain.pattern.is_glob())
}

impl config::Layer for HostFile {
    const SERVICE: &'static str = "host";

    fn over(self, lower: Self) -> Self {
        Self {
            prepare_wait: self.prepare_wait.or(lower.prepare_wait),
            sleep_wait: self.sleep_wait.or(lower.sleep_wait),
            shutdown_wait: self.shutdown_wait.or(lower.shutdown_wait),
            log: self.log.or(lower.log),
            // The first matching table decides, so the administrator's tables come first.
            domain: [self.domain, lower.domain].concat(),
        }
    }

    fn check_limits(&self) -> Result<(), String> {
        let globs = self.domain.iter().map(globs).sum::<usize>();
        for (name, count, max) in [
            ("[[domain]] tables", self.domain.len(), MAX_TABLES),
            ("globs in [[domain]] tables", globs, MAX_GLOBS),
        ] {
            if count > max {
                return Err(format!(
                    "this file and those read before it contain more than {max} {name}; combine some of them"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
