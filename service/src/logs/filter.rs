//! Which messages are logged: the `log` key in the configuration files.

use core::fmt;
use core::str::FromStr;

use serde::de::value::StrDeserializer;
use serde::de::{Error, IntoDeserializer as _};
use serde::{Deserialize, Deserializer};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

use super::quoted;

/// The crates that log messages. Each target begins with one of them.
const CRATES: [&str; 7] = [
    "wakevirt_actor",
    "wakevirt_actor_libvirt",
    "wakevirt_capture",
    "wakevirt_host",
    "wakevirt_kubevirt",
    "wakevirt_service",
    "wakevirt_sleep",
];
/// The maximum number of targets in a list. Each message is compared with all of them.
const MAX_TARGETS: usize = 64;
/// The maximum length of a target, in bytes.
const MAX_TARGET: usize = 200;

/// A log level. It includes all levels before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Errors that prevent the service from working.
    Error,
    /// Conditions that the administrator should check.
    Warn,
    /// Events.
    #[default]
    Info,
    /// Details of events.
    Debug,
    /// All details.
    Trace,
}

impl Level {
    pub(super) const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        Self::ALL
            .into_iter()
            .find(|level| level.name() == text)
            .ok_or_else(|| FilterError::Level(text.to_owned()))
    }
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}

/// Why a list of levels and targets is invalid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Not the name of a level.
    #[error("{} is not a log level; choose error, warn, info, debug or trace", quoted(_0))]
    Level(String),
    /// Not the path of a module that can log.
    #[error(
        "{} is not a log target; specify a module of one of {}, such as \"wakevirt_actor::engine\"",
        quoted(_0),
        CRATES.join(", ")
    )]
    Target(String),
    /// A part of the list is empty.
    #[error("a part of the list is empty; separate levels and targets with one comma")]
    Empty,
    /// More than one level applies to the same messages.
    #[error("the list contains more than one {0}; keep only one")]
    Duplicate(String),
    /// More targets than any configuration needs.
    #[error("more than {MAX_TARGETS} targets; write the parent module instead of each of its modules")]
    TooMany,
}

/// Which messages are logged: a level for all targets, and levels for some targets. A target is the path of a module,
/// and includes the modules in it. The level of the longest target that matches applies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogFilter {
    level: Level,
    targets: Vec<(String, Level)>,
}

impl From<Level> for LogFilter {
    fn from(level: Level) -> Self {
        Self { level, targets: Vec::new() }
    }
}

impl FromStr for LogFilter {
    type Err = FilterError;

    /// Parses a level, or a list such as `info,wakevirt_actor::engine=debug`.
    fn from_str(text: &str) -> Result<Self, FilterError> {
        let (mut level, mut targets) = (None, Vec::new());
        for part in text.split(',').map(str::trim) {
            match part.split_once('=') {
                None if part.is_empty() => return Err(FilterError::Empty),
                None => {
                    if level.replace(part.parse()?).is_some() {
                        return Err(FilterError::Duplicate("level without a target".to_owned()));
                    }
                }
                Some((target, level)) => {
                    let target = valid_target(target.trim())?;
                    if targets.iter().any(|(other, _)| *other == target) {
                        return Err(FilterError::Duplicate(format!("level for the target {target}")));
                    }
                    if targets.len() == MAX_TARGETS {
                        return Err(FilterError::TooMany);
                    }
                    targets.push((target, level.trim().parse()?));
                }
            }
        }
        Ok(Self { level: level.unwrap_or_default(), targets })
    }
}

/// Checks that this is the path of a module in a crate that logs. Does not check whether the module exists, because its
/// name can change in a later version.
fn valid_target(target: &str) -> Result<String, FilterError> {
    let is_name = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit())
    };
    let mut names = target.split("::");
    let is_valid = target.len() <= MAX_TARGET
        && names.next().is_some_and(|name| CRATES.contains(&name))
        && names.all(is_name);
    is_valid.then(|| target.to_owned()).ok_or_else(|| FilterError::Target(target.to_owned()))
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { level, targets } = self;
        write!(f, "{level}")?;
        targets.iter().try_for_each(|(target, level)| write!(f, ",{target}={level}"))
    }
}

impl<'de> Deserialize<'de> for LogFilter {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        if text.contains([',', '=']) {
            return text.parse().map_err(D::Error::custom);
        }
        // The error of an enum lists the valid values, and suggests a similar one.
        let level: StrDeserializer<'_, D::Error> = text.as_str().into_deserializer();
        Level::deserialize(level).map(Self::from)
    }
}

impl From<&LogFilter> for Targets {
    fn from(filter: &LogFilter) -> Self {
        let levels = filter.targets.iter().map(|(target, level)| (target, LevelFilter::from(*level)));
        let default = LevelFilter::from(filter.level);
        // The kube crates also log the errors that they return, many times while the API server is unavailable.
        let kube = if filter.level >= Level::Debug { default } else { LevelFilter::OFF };
        Self::new().with_target("kube", kube).with_targets(levels).with_default(default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        text.parse::<LogFilter>().unwrap_err().to_string()
    }

    #[test]
    fn parses_levels_by_name() {
        for level in Level::ALL {
            assert_eq!(level.to_string().parse::<Level>().unwrap(), level);
            assert_eq!(LevelFilter::from(level).to_string(), level.to_string());
            assert_eq!(level.to_string().parse::<LogFilter>().unwrap(), level.into());
        }
        for invalid in ["", "Info", "warning", "off", "info\n"] {
            let error = invalid.parse::<Level>().unwrap_err().to_string();
            assert!(
                error.ends_with(" is not a log level; choose error, warn, info, debug or trace"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_level_of_the_longest_target_applies() {
        let filter: LogFilter = "warn, wakevirt_actor = info,wakevirt_actor::engine=debug".parse().unwrap();
        assert_eq!(filter.to_string(), "warn,wakevirt_actor=info,wakevirt_actor::engine=debug");
        assert_eq!(filter.to_string().parse::<LogFilter>().unwrap(), filter);
        let targets = Targets::from(&filter);
        for (target, enabled, disabled) in [
            ("wakevirt_service::bus", tracing::Level::WARN, tracing::Level::INFO),
            ("wakevirt_actor::api", tracing::Level::INFO, tracing::Level::DEBUG),
            ("wakevirt_actor::engine::wakes", tracing::Level::DEBUG, tracing::Level::TRACE),
        ] {
            assert!(targets.would_enable(target, &enabled), "{target}");
            assert!(!targets.would_enable(target, &disabled), "{target}");
        }
    }

    #[test]
    fn other_messages_have_the_default_level() {
        let filter: LogFilter = "wakevirt_capture::packets=trace".parse().unwrap();
        assert_eq!(filter.to_string(), "info,wakevirt_capture::packets=trace");
    }

    #[test]
    fn messages_of_the_kube_crates_are_details() {
        let enables = |filter: &str, target: &str| {
            Targets::from(&filter.parse::<LogFilter>().unwrap()).would_enable(target, &tracing::Level::ERROR)
        };
        assert!(
            !enables("info", "kube_client::client::builder")
                && enables("debug", "kube_client::client::builder")
        );
        assert!(enables("info", "wakevirt_kubevirt::watch") && enables("info", "zbus::connection"));
    }

    #[test]
    fn an_error_names_the_invalid_part() {
        assert_eq!(error("info,"), FilterError::Empty.to_string());
        assert_eq!(error(",info"), FilterError::Empty.to_string());
        assert_eq!(
            error("info,warn"),
            "the list contains more than one level without a target; keep only one"
        );
        assert_eq!(
            error("wakevirt_actor=info,wakevirt_actor=warn"),
            "the list contains more than one level for the target wakevirt_actor; keep only one"
        );
        assert!(
            error("info,wakevirt_actor::engine").starts_with("\"wakevirt_actor::engine\" is not a log level")
        );
        assert!(error("wakevirt_actor=loud").starts_with("\"loud\" is not a log level"));
        for target in [
            "",
            "actor",
            "wakevirt-actor",
            "wakevirt_actor:engine",
            "wakevirt_actor::",
            "wakevirt_actor::a b",
        ] {
            let error = error(&format!("info,{target}=debug"));
            assert!(
                error.starts_with(&format!("{target:?} is not a log target; specify a module of one of ")),
                "{error}"
            );
        }
        let long = format!("wakevirt_actor::{}=debug", "a".repeat(MAX_TARGET));
        assert!(error(&long).contains("is not a log target"));
    }

    #[test]
    fn limits_the_number_of_targets() {
        let list = |count: usize| {
            let targets: Vec<_> =
                (0..count).map(|number| format!("wakevirt_actor::a{number}=debug")).collect();
            targets.join(",").parse::<LogFilter>()
        };
        assert!(list(MAX_TARGETS).is_ok());
        assert_eq!(list(MAX_TARGETS + 1), Err(FilterError::TooMany));
    }
}
