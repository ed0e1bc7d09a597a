//! The text formats: the classic format of Prometheus, and OpenMetrics.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>,
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>

use std::fmt::Write as _;

use super::family::{Family, Kind, Sample};

/// A text format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Prometheus text format 0.0.4
    #[default]
    Classic,
    /// OpenMetrics 1.0.0
    Openmetrics,
}

impl Format {
    /// The media type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::Openmetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Returns the families as text.
    pub fn write(self, families: &[Family]) -> String {
        let mut text = String::new();
        for family in families {
            let (name, kind) = self.name_and_type(family);
            let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}", family.help);
            family.samples.iter().for_each(|sample| write_sample(&mut text, sample));
        }
        if self == Self::Openmetrics {
            text.push_str("# EOF\n");
        }
        text
    }

    /// Returns the name and the type of a family. The classic format has no `info` type, and in OpenMetrics the name of a
    /// family has no suffix.
    fn name_and_type(self, family: &Family) -> (&'static str, &'static str) {
        let (suffix, kind) = match (family.kind, self) {
            (Kind::Counter, _) => ("_total", "counter"),
            (Kind::Gauge, _) | (Kind::Info, Self::Classic) => ("", "gauge"),
            (Kind::Histogram, _) => ("", "histogram"),
            (Kind::Info, Self::Openmetrics) => ("_info", "info"),
        };
        let name = match self {
            Self::Classic => family.name,
            Self::Openmetrics => family.name.strip_suffix(suffix).unwrap_or(family.name),
        };
        (name, kind)
    }
}

fn write_sample(text: &mut String, sample: &Sample) {
    text.push_str(&sample.name);
    for (place, (name, value)) in sample.labels.iter().enumerate() {
        let start = if place == 0 { '{' } else { ',' };
        let _ = write!(text, "{start}{name}=\"{}\"", escaped(value));
    }
    let end = if sample.labels.is_empty() { "" } else { "}" };
    let _ = writeln!(text, "{end} {}", sample.value);
}

fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::super::family::Value;
    use super::*;

    fn families() -> Vec<Family> {
        let uri = "qemu:///a\\b\"c\nd".to_owned();
        vec![
            Family::new(Kind::Info, "w_build_info", "The version.").count(vec![("version", "1".into())], 1),
            Family::new(Kind::Gauge, "w_up", "Whether it runs.")
                .count(vec![("uri", uri), ("b", "".into())], 0),
            Family::new(Kind::Counter, "w_lost_packets_total", "Lost packets.").count(vec![], u64::MAX),
            Family::new(Kind::Histogram, "w_seconds", "Times.")
                .with_suffix(
                    "_bucket",
                    vec![("le", Value::of_microseconds(1_000_000).to_string())],
                    Value::Count(1),
                )
                .with_suffix("_sum", vec![], Value::of_microseconds(2_500)),
        ]
    }

    #[test]
    fn writes_the_classic_format() {
        let expected = r#"# HELP w_build_info The version.
# TYPE w_build_info gauge
w_build_info{version="1"} 1
# HELP w_up Whether it runs.
# TYPE w_up gauge
w_up{uri="qemu:///a\\b\"c\nd",b=""} 0
# HELP w_lost_packets_total Lost packets.
# TYPE w_lost_packets_total counter
w_lost_packets_total 18446744073709551615
# HELP w_seconds Times.
# TYPE w_seconds histogram
w_seconds_bucket{le="1.0"} 1
w_seconds_sum 0.0025
"#;
        assert_eq!(Format::Classic.write(&families()), expected);
    }

    #[test]
    fn writes_openmetrics() {
        let expected = r#"# HELP w_build The version.
# TYPE w_build info
w_build_info{version="1"} 1
# HELP w_up Whether it runs.
# TYPE w_up gauge
w_up{uri="qemu:///a\\b\"c\nd",b=""} 0
# HELP w_lost_packets Lost packets.
# TYPE w_lost_packets counter
w_lost_packets_total 18446744073709551615
# HELP w_seconds Times.
# TYPE w_seconds histogram
w_seconds_bucket{le="1.0"} 1
w_seconds_sum 0.0025
# EOF
"#;
        assert_eq!(Format::Openmetrics.write(&families()), expected);
    }
}
