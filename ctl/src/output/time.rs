//! Human-readable times.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A time in microseconds since 1970: in the local time zone on a terminal, otherwise in UTC.
#[must_use]
pub fn timestamp(microseconds: u64, local: bool) -> String {
    let time = i64::try_from(microseconds).ok().and_then(|time| Timestamp::from_microsecond(time).ok());
    let time = time.unwrap_or(Timestamp::MAX);
    if local {
        return time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string();
    }
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// How long ago a time in microseconds since 1970 was.
#[must_use]
pub fn ago(microseconds: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_micros(microseconds);
    since(SystemTime::now().duration_since(time).unwrap_or_default())
}

fn since(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "s"),
        60..3600 => (seconds / 60, "min"),
        3600..86_400 => (seconds / 3600, "h"),
        _ => (seconds / 86_400, if seconds < 2 * 86_400 { "day" } else { "days" }),
    };
    format!("{count} {unit} ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_times() {
        assert_eq!(timestamp(1_700_000_000_123_456, false), "2023-11-14T22:13:20Z");
        assert_eq!(timestamp(u64::MAX, false), "9999-12-30T22:00:00Z");
        for (seconds, text) in [
            (0, "0 s ago"),
            (59, "59 s ago"),
            (60, "1 min ago"),
            (7199, "1 h ago"),
            (86_400, "1 day ago"),
            (200_000, "2 days ago"),
        ] {
            assert_eq!(since(Duration::from_secs(seconds)), text);
        }
    }
}
