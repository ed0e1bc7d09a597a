//! Durations with units.

use core::fmt;
use core::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::from_text;
use crate::logs::quoted;

const EXPECTED: &str = r#"a duration with a unit, such as "2s", "500ms" or "1m 30s""#;

/// A duration that is written with units, such as `"2s"`, `"500ms"` or `"1m 30s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(Duration);

impl From<Duration> for HumanDuration {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl From<HumanDuration> for Duration {
    fn from(duration: HumanDuration) -> Self {
        duration.0
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A string that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not {EXPECTED}", quoted(_0))]
pub struct BadDuration(String);

impl FromStr for HumanDuration {
    type Err = BadDuration;

    fn from_str(text: &str) -> Result<Self, BadDuration> {
        humantime::parse_duration(text).map(Self).map_err(|_| BadDuration(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, EXPECTED)
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, U64Deserializer};

    use super::*;

    fn read(text: &str) -> Result<HumanDuration, String> {
        text.parse::<HumanDuration>().map_err(|error| error.to_string())
    }

    #[test]
    fn parses_durations_with_units() {
        for (text, milliseconds) in [
            ("2s", 2_000),
            ("500ms", 500),
            ("1m", 60_000),
            ("1m 30s", 90_000),
            ("1h", 3_600_000),
            ("0s", 0),
            ("0.5s", 500),
        ] {
            assert_eq!(read(text), Ok(Duration::from_millis(milliseconds).into()), "{text}");
        }
    }

    #[test]
    fn the_error_shows_valid_durations() {
        for text in ["", "2", "s", "-2s", "2 parsecs", "99999999999999999999s", "2s\u{202e}"] {
            let shown = quoted(text);
            let expected = r#"a duration with a unit, such as "2s", "500ms" or "1m 30s""#;
            assert_eq!(read(text).unwrap_err(), format!("{shown} is not {expected}"));
        }
        let number: U64Deserializer<Error> = 5_u64.into_deserializer();
        assert_eq!(
            HumanDuration::deserialize(number).unwrap_err().to_string(),
            r#"invalid type: integer `5`, expected a duration with a unit, such as "2s", "500ms" or "1m 30s""#
        );
    }

    #[test]
    fn displays_what_it_parses() {
        for text in ["2s", "500ms", "1m 30s", "0s"] {
            assert_eq!(read(text).unwrap().to_string(), text);
        }
    }
}
