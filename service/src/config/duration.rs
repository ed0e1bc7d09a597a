//! Durations as people write them.

use core::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A duration that is written with its units: `"2s"`, `"500ms"`, `"1m 30s"`.
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

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text)
    }
}

struct Text;

impl Visitor<'_> for Text {
    type Value = HumanDuration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"a duration with its unit, such as "2s", "500ms" or "1m 30s""#)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<HumanDuration, E> {
        humantime::parse_duration(text).map(HumanDuration).map_err(|problem| {
            E::custom(format_args!(
                r#"not a duration ({problem}); write it with its unit, such as "2s", "500ms" or "1m 30s""#
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, StrDeserializer, U64Deserializer};

    use super::*;

    fn read(text: &str) -> Result<HumanDuration, String> {
        let deserializer: StrDeserializer<'_, Error> = text.into_deserializer();
        HumanDuration::deserialize(deserializer).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_what_people_write() {
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
    fn says_what_to_write_instead() {
        for text in ["", "2", "s", "-2s", "2 parsecs", "99999999999999999999s", "2s\u{202e}"] {
            let message = read(text).unwrap_err();
            assert!(message.starts_with("not a duration ("), "{text}: {message}");
            assert!(message.ends_with(r#"such as "2s", "500ms" or "1m 30s""#), "{text}: {message}");
        }
        let number: U64Deserializer<Error> = 5_u64.into_deserializer();
        assert_eq!(
            HumanDuration::deserialize(number).unwrap_err().to_string(),
            r#"invalid type: integer `5`, expected a duration with its unit, such as "2s", "500ms" or "1m 30s""#
        );
    }

    #[test]
    fn shows_what_it_reads() {
        for text in ["2s", "500ms", "1m 30s", "0s"] {
            assert_eq!(read(text).unwrap().to_string(), text);
        }
    }
}
