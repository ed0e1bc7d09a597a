//! Families of metrics, in the data model of Prometheus and OpenMetrics.

use core::fmt;
use std::time::Duration;

use serde::Serialize;

/// The type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A number that only increases until the service restarts.
    Counter,
    /// A number that can increase and decrease.
    Gauge,
    /// The number of values up to each upper bound.
    Histogram,
    /// Text in labels. The value is always 1.
    Info,
}

/// The value of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A count.
    Count(u64),
    /// A time in seconds.
    Seconds(f64),
}

impl Value {
    /// Converts a time in microseconds.
    pub fn of_microseconds(time: u64) -> Self {
        Self::Seconds(Duration::from_micros(time).as_secs_f64())
    }
}

/// Writes the value as in both text formats. A time always has a decimal point: OpenMetrics requires it in bounds, and
/// Prometheus 3 adds it where it is missing.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Seconds(seconds) => write!(f, "{seconds:?}"),
        }
    }
}

/// The labels of a sample.
pub type Labels = Vec<(&'static str, String)>;

/// A value with its labels.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    /// The name: that of the family, with a suffix in a histogram.
    pub name: String,
    /// The labels.
    #[serde(serialize_with = "as_map")]
    pub labels: Labels,
    /// The value.
    pub value: Value,
}

/// Metrics with the same name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Family {
    /// The name, with the suffix that its type requires.
    pub name: &'static str,
    /// The type.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// A sentence without characters that must be escaped.
    pub help: &'static str,
    /// The values.
    pub samples: Vec<Sample>,
}

impl Family {
    /// A family without samples.
    pub fn new(kind: Kind, name: &'static str, help: &'static str) -> Self {
        Self { name, kind, help, samples: Vec::new() }
    }

    /// Adds a sample.
    pub fn with(self, labels: Labels, value: Value) -> Self {
        self.with_suffix("", labels, value)
    }

    /// Adds a count.
    pub fn count(self, labels: Labels, count: u64) -> Self {
        self.with(labels, Value::Count(count))
    }

    /// Adds a sample whose name has this suffix.
    pub fn with_suffix(mut self, suffix: &str, labels: Labels, value: Value) -> Self {
        self.samples.push(Sample { name: format!("{}{suffix}", self.name), labels, value });
        self
    }
}

fn as_map<S: serde::Serializer>(labels: &Labels, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(labels.iter().map(|(name, value)| (name, value)))
}
