//! Limits the log lines that packets cause, because anyone can send any number of packets. Each kind of line is limited
//! to a few lines a minute. One more line at the end of the minute contains the number of suppressed lines.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use wakevirt_protocol::MacAddr;
use wakevirt_service::logs::{kind, quoted};

use crate::engine::report::Decision;
use crate::model::{Id, Outcome};

/// The interval in which lines of a kind are counted.
const INTERVAL: Duration = Duration::from_secs(60);
/// The maximum number of kinds that are counted at the same time. Further kinds count as [`LineKind::Others`].
const MAX_KINDS: usize = 256;
/// The maximum number of unknown MAC addresses that are remembered as logged. The oldest is forgotten first.
const MAX_UNKNOWN: usize = 1024;

/// Lines that are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum LineKind {
    /// The same decision about packets on one interface, for the same reason.
    Decision {
        /// The domain, if there is one, and its name.
        domain: Option<(Id, String)>,
        outcome: Outcome,
        reason: String,
        interface: Option<String>,
    },
    /// Decisions beyond [`MAX_KINDS`].
    Others,
    /// Packets for MAC addresses that no domain has.
    Unknown,
    /// Packets that are held until the domains of all hypervisors are known.
    Held,
    /// Packets that are dropped because too many others are held.
    Lost,
}

impl LineKind {
    /// The kind of this decision about a packet.
    pub(super) fn of(decision: &Decision) -> Self {
        let subject = &decision.subject;
        Self::Decision {
            domain: subject.domain.clone(),
            outcome: decision.outcome,
            reason: decision.reason.clone(),
            interface: subject.packet.as_ref().and_then(|packet| packet.details.interface.clone()),
        }
    }

    /// The maximum number of lines in an interval.
    const fn limit(&self) -> u32 {
        match self {
            Self::Decision { .. } | Self::Others | Self::Held | Self::Lost => 3,
            // Each of these lines is about a different address.
            Self::Unknown => 10,
        }
    }

    /// Logs the number of suppressed lines.
    fn log(&self, suppressed: u64) {
        let seconds = INTERVAL.as_secs();
        let more =
            if suppressed == 1 { "1 more packet".to_owned() } else { format!("{suppressed} more packets") };
        match self {
            Self::Decision { domain: about, outcome, reason, interface: on } => {
                let domain = about.as_ref().map(|(_, name)| format!("domain {}, ", quoted(name)));
                let interface = on.as_ref().map(|interface| format!(" on {}", quoted(interface)));
                let (domain, interface) = (domain.unwrap_or_default(), interface.unwrap_or_default());
                tracing::info!(
                    MESSAGE_ID = kind::LINES_SUPPRESSED,
                    WAKEVIRT_OUTCOME = outcome.as_str(),
                    WAKEVIRT_DOMAIN = about.as_ref().map(|(_, name)| name),
                    WAKEVIRT_UUID = about.as_ref().map(|(id, _)| display(id.uuid)),
                    WAKEVIRT_INTERFACE = on.as_ref(),
                    WAKEVIRT_REASON = reason,
                    WAKEVIRT_SUPPRESSED = suppressed,
                    "{outcome}: {domain}{more}{interface} within {seconds} s: {reason}"
                );
            }
            Self::Others => tracing::info!(
                MESSAGE_ID = kind::LINES_SUPPRESSED,
                WAKEVIRT_SUPPRESSED = suppressed,
                "{more} within {seconds} s did not wake a domain; there are too many domains and \
                 reasons to log each one; call History on org.wakevirt.Actor1 for the most recent decisions"
            ),
            Self::Unknown => tracing::info!(
                MESSAGE_ID = kind::LINES_SUPPRESSED,
                WAKEVIRT_SUPPRESSED = suppressed,
                "unknown: {more} within {seconds} s for MAC addresses that no domain has"
            ),
            Self::Held => tracing::info!(
                MESSAGE_ID = kind::LINES_SUPPRESSED,
                WAKEVIRT_SUPPRESSED = suppressed,
                "held: {more} within {seconds} s for MAC addresses that no known domain has"
            ),
            Self::Lost => tracing::warn!(
                MESSAGE_ID = kind::LINES_SUPPRESSED,
                WAKEVIRT_SUPPRESSED = suppressed,
                "dropped {more} within {seconds} s: too many others are held"
            ),
        }
    }
}

/// Whether to log a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permit {
    /// Log it.
    Log,
    /// Log it, with a note that it is the last one in this interval.
    LogLast,
    /// Do not log it. It was counted.
    Suppress,
}

/// The lines of the current intervals.
#[derive(Debug, Default)]
pub(super) struct LogLimiter {
    intervals: HashMap<LineKind, Interval>,
    /// Unknown MAC addresses that were logged.
    unknown: VecDeque<MacAddr>,
    /// When the first interval ends.
    next_end: Option<Instant>,
}

#[derive(Debug)]
struct Interval {
    start: Instant,
    logged: u32,
    suppressed: u64,
}

impl LogLimiter {
    /// Counts a line of this kind, and returns whether to log it.
    pub(super) fn check(&mut self, kind: LineKind, now: Instant) -> Permit {
        let is_beyond = self.intervals.len() >= MAX_KINDS && !self.intervals.contains_key(&kind);
        let kind = match kind {
            LineKind::Decision { .. } if is_beyond => LineKind::Others,
            kind => kind,
        };
        let limit = kind.limit();
        self.next_end.get_or_insert(now + INTERVAL);
        let interval =
            self.intervals.entry(kind).or_insert(Interval { start: now, logged: 0, suppressed: 0 });
        if interval.logged >= limit {
            interval.suppressed += 1;
            return Permit::Suppress;
        }
        interval.logged += 1;
        if interval.logged == limit { Permit::LogLast } else { Permit::Log }
    }

    /// Whether to log a packet for this unknown MAC address: only the first one for each address is logged.
    pub(super) fn check_unknown(&mut self, mac: MacAddr, now: Instant) -> bool {
        if self.unknown.contains(&mac) || self.check(LineKind::Unknown, now) == Permit::Suppress {
            return false;
        }
        if self.unknown.len() >= MAX_UNKNOWN {
            self.unknown.pop_front();
        }
        self.unknown.push_back(mac);
        true
    }

    /// When the first interval ends.
    pub(super) const fn next_end(&self) -> Option<Instant> {
        self.next_end
    }

    /// Ends the intervals that have elapsed, and logs how many lines were suppressed in each.
    pub(super) fn end_intervals(&mut self, now: Instant) {
        for (kind, interval) in self.intervals.extract_if(|_, interval| now >= interval.start + INTERVAL) {
            interval.end(&kind);
        }
        self.next_end = self.intervals.values().map(|interval| interval.start + INTERVAL).min();
    }

    /// Ends all intervals, and forgets which addresses were logged: after a reload, the administrator expects to see
    /// its effect in the log.
    pub(super) fn reset(&mut self) {
        for (kind, interval) in self.intervals.drain() {
            interval.end(&kind);
        }
        self.unknown.clear();
        self.next_end = None;
    }
}

/// Before the service exits, logs how many lines were suppressed.
impl Drop for LogLimiter {
    fn drop(&mut self) {
        self.reset();
    }
}

impl Interval {
    fn end(&self, kind: &LineKind) {
        if self.suppressed > 0 {
            kind.log(self.suppressed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(reason: usize) -> LineKind {
        let reason = reason.to_string();
        LineKind::Decision { domain: None, outcome: Outcome::NotAllowed, reason, interface: None }
    }

    fn mac(number: u32) -> MacAddr {
        let [a, b, c, d] = number.to_be_bytes();
        MacAddr::new([2, 0, a, b, c, d])
    }

    #[test]
    fn limits_each_reason_and_counts_the_rest() {
        let (mut limiter, start) = (LogLimiter::default(), Instant::now());
        let mut check = |reason| limiter.check(kind(reason), start);
        assert_eq!([check(1), check(1), check(1)], [Permit::Log, Permit::Log, Permit::LogLast]);
        assert_eq!([check(1), check(1)], [Permit::Suppress, Permit::Suppress]);
        assert_eq!(check(2), Permit::Log, "another reason");
        assert_eq!(limiter.intervals[&kind(1)].suppressed, 2);
        assert_eq!(limiter.next_end(), Some(start + INTERVAL));
        limiter.end_intervals(start + INTERVAL - Duration::from_millis(1));
        assert_eq!(limiter.intervals.len(), 2);
        limiter.end_intervals(start + INTERVAL);
        assert!(limiter.intervals.is_empty() && limiter.next_end().is_none());
        assert_eq!(limiter.check(kind(1), start + INTERVAL), Permit::Log);
    }

    #[test]
    fn limits_the_number_of_kinds() {
        let (mut limiter, start) = (LogLimiter::default(), Instant::now());
        for reason in 0..100_000 {
            let _ = limiter.check(kind(reason), start);
        }
        assert_eq!(limiter.intervals.len(), MAX_KINDS + 1);
        assert_eq!(
            limiter.intervals[&LineKind::Others].suppressed,
            100_000 - u64::try_from(MAX_KINDS).unwrap() - 3
        );
        // Kinds that are already counted separately, and kinds other than decisions, are not affected.
        assert_eq!(limiter.check(kind(0), start), Permit::Log);
        assert_eq!(limiter.check(LineKind::Lost, start), Permit::Log);
        limiter.reset();
        assert_eq!(limiter.check(kind(100_000), start), Permit::Log);
    }

    #[test]
    fn allows_one_line_for_an_unknown_address() {
        let (mut limiter, mut now) = (LogLimiter::default(), Instant::now());
        assert!(limiter.check_unknown(mac(1), now));
        assert!(!limiter.check_unknown(mac(1), now), "it was logged before");
        // Ten addresses in an interval; the next one is logged in the next interval.
        for number in 2..=10 {
            assert!(limiter.check_unknown(mac(number), now));
        }
        assert!(!limiter.check_unknown(mac(11), now));
        assert_eq!(limiter.intervals[&LineKind::Unknown].suppressed, 1);
        now += INTERVAL;
        limiter.end_intervals(now);
        assert!(limiter.check_unknown(mac(11), now) && !limiter.check_unknown(mac(1), now));
        limiter.reset();
        assert!(limiter.check_unknown(mac(1), now), "after a reload");
    }

    #[test]
    fn limits_the_number_of_remembered_addresses() {
        let (mut limiter, mut now) = (LogLimiter::default(), Instant::now());
        for number in 0..2 * u32::try_from(MAX_UNKNOWN).unwrap() {
            if !limiter.check_unknown(mac(number), now) {
                now += INTERVAL;
                limiter.end_intervals(now);
            }
        }
        assert_eq!(limiter.unknown.len(), MAX_UNKNOWN);
    }
}
