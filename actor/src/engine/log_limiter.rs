//! What packets may add to the log. Anybody can send them, in any number: each kind of line has a few lines a
//! minute, and one at the end of that minute that counts what was left out.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use wakevirt_protocol::MacAddr;
use wakevirt_service::logs::quoted;

use crate::engine::report::Decision;
use crate::model::{Id, Outcome};

/// For how long lines of a kind are counted together.
const STRETCH: Duration = Duration::from_secs(60);
/// Kinds that have lines of their own at a time; what goes beyond shares those of [`LineKind::Others`].
const MOST: usize = 256;
/// MAC addresses without a domain that are known to have had their line; the oldest goes first.
const MOST_UNKNOWN: usize = 1024;

/// LogLimiter that are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum LineKind {
    /// A decision about packets: the same one, for the same reason, by the same interface.
    Decision {
        /// The domain, if one is meant, and its name.
        domain: Option<(Id, String)>,
        outcome: Outcome,
        reason: String,
        interface: Option<String>,
    },
    /// Decisions of more kinds than are told apart.
    Others,
    /// MAC addresses that no domain has.
    Unknown,
    /// Packets that are held until the domains of all hypervisors are known.
    Held,
    /// Packets that are dropped because too many others wait.
    Lost,
}

impl LineKind {
    /// The kind of this decision about a packet.
    pub(super) fn of(finished: &Decision) -> Self {
        let subject = &finished.subject;
        Self::Decision {
            domain: subject.domain.clone(),
            outcome: finished.outcome,
            reason: finished.reason.clone(),
            interface: subject.packet.as_ref().and_then(|packet| packet.details.interface.clone()),
        }
    }

    /// How many lines it has in each stretch.
    const fn lines(&self) -> u32 {
        match self {
            Self::Decision { .. } | Self::Others | Self::Held | Self::Lost => 3,
            // One for each address that was not told before.
            Self::Unknown => 10,
        }
    }

    /// Counts in one line what was left out.
    fn log(&self, left_out: u64) {
        let seconds = STRETCH.as_secs();
        match self {
            Self::Decision { domain, outcome, reason, interface } => {
                let about = domain.as_ref().map(|(_, name)| format!("domain {}, ", quoted(name)));
                let by = interface.as_ref().map(|interface| format!(" on {}", quoted(interface)));
                let (about, by) = (about.unwrap_or_default(), by.unwrap_or_default());
                tracing::info!(
                    left_out,
                    "{outcome}: {about}{left_out} more packets{by} within {seconds} s: {reason}"
                );
            }
            Self::Others => tracing::info!(
                left_out,
                "{left_out} more packets within {seconds} s woke nothing, for more domains and reasons than the log \
                 tells apart; History of org.wakevirt.Actor1 has the last ones"
            ),
            Self::Unknown => tracing::info!(
                left_out,
                "unknown: {left_out} more packets within {seconds} s for MAC addresses that no domain has"
            ),
            Self::Held => tracing::info!(
                left_out,
                "held: {left_out} more packets within {seconds} s for MAC addresses that no known domain has"
            ),
            Self::Lost => tracing::warn!(
                left_out,
                "{left_out} more packets within {seconds} s were dropped: too many others wait"
            ),
        }
    }
}

/// Whether there is a line for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permit {
    /// There is.
    Log,
    /// There is, and it is the last one for now: the line says so.
    LogLast,
    /// It is only counted.
    Suppress,
}

/// What was logged lately.
#[derive(Debug, Default)]
pub(super) struct LogLimiter {
    open: HashMap<LineKind, Stretch>,
    unknown: VecDeque<MacAddr>,
    /// When the first stretch ends.
    end_at: Option<Instant>,
}

#[derive(Debug)]
struct Stretch {
    since: Instant,
    logged: u32,
    left_out: u64,
}

impl LogLimiter {
    /// Asks for a line of this kind.
    pub(super) fn check(&mut self, kind: LineKind, now: Instant) -> Permit {
        let is_one_too_many = self.open.len() >= MOST && !self.open.contains_key(&kind);
        let kind = match kind {
            LineKind::Decision { .. } if is_one_too_many => LineKind::Others,
            kind => kind,
        };
        let most = kind.lines();
        self.end_at.get_or_insert(now + STRETCH);
        let stretch = self.open.entry(kind).or_insert(Stretch { since: now, logged: 0, left_out: 0 });
        if stretch.logged >= most {
            stretch.left_out += 1;
            return Permit::Suppress;
        }
        stretch.logged += 1;
        if stretch.logged == most { Permit::LogLast } else { Permit::Log }
    }

    /// Whether there is a line for a packet for this MAC address, which no domain has: for the first one.
    pub(super) fn check_unknown(&mut self, mac: MacAddr, now: Instant) -> bool {
        if self.unknown.contains(&mac) || self.check(LineKind::Unknown, now) == Permit::Suppress {
            return false;
        }
        if self.unknown.len() >= MOST_UNKNOWN {
            self.unknown.pop_front();
        }
        self.unknown.push_back(mac);
        true
    }

    /// When [`Self::end`] has something to do.
    pub(super) const fn end_at(&self) -> Option<Instant> {
        self.end_at
    }

    /// Ends each stretch that is over, with a line that counts what was left out.
    pub(super) fn end(&mut self, now: Instant) {
        for (kind, stretch) in self.open.extract_if(|_, stretch| now >= stretch.since + STRETCH) {
            stretch.end(&kind);
        }
        self.end_at = self.open.values().map(|stretch| stretch.since + STRETCH).min();
    }

    /// Ends every stretch, and forgets which addresses were told: whoever has changed something wants to see
    /// what comes of it.
    pub(super) fn reset(&mut self) {
        for (kind, stretch) in self.open.drain() {
            stretch.end(&kind);
        }
        self.unknown.clear();
        self.end_at = None;
    }
}

/// The service exits: what was left out until then is counted as well.
impl Drop for LogLimiter {
    fn drop(&mut self) {
        self.reset();
    }
}

impl Stretch {
    fn end(&self, kind: &LineKind) {
        if self.left_out > 0 {
            kind.log(self.left_out);
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
    fn each_reason_has_its_own_lines_and_a_count_at_the_end() {
        let (mut lines, start) = (LogLimiter::default(), Instant::now());
        let mut ask = |reason| lines.check(kind(reason), start);
        assert_eq!([ask(1), ask(1), ask(1)], [Permit::Log, Permit::Log, Permit::LogLast]);
        assert_eq!([ask(1), ask(1)], [Permit::Suppress, Permit::Suppress]);
        assert_eq!(ask(2), Permit::Log, "another reason");
        assert_eq!(lines.open[&kind(1)].left_out, 2);
        assert_eq!(lines.end_at(), Some(start + STRETCH));
        lines.end(start + STRETCH - Duration::from_millis(1));
        assert_eq!(lines.open.len(), 2);
        lines.end(start + STRETCH);
        assert!(lines.open.is_empty() && lines.end_at().is_none());
        assert_eq!(lines.check(kind(1), start + STRETCH), Permit::Log);
    }

    #[test]
    fn kinds_are_bounded_and_the_rest_share_their_lines() {
        let (mut lines, start) = (LogLimiter::default(), Instant::now());
        for reason in 0..100_000 {
            let _ = lines.check(kind(reason), start);
        }
        assert_eq!(lines.open.len(), MOST + 1);
        assert_eq!(lines.open[&LineKind::Others].left_out, 100_000 - u64::try_from(MOST).unwrap() - 3);
        // What has lines of its own keeps them, and other kinds are not kept out.
        assert_eq!(lines.check(kind(0), start), Permit::Log);
        assert_eq!(lines.check(LineKind::Lost, start), Permit::Log);
        lines.reset();
        assert_eq!(lines.check(kind(100_000), start), Permit::Log);
    }

    #[test]
    fn an_unknown_address_has_one_line() {
        let (mut lines, mut now) = (LogLimiter::default(), Instant::now());
        assert!(lines.check_unknown(mac(1), now));
        assert!(!lines.check_unknown(mac(1), now), "it had its line");
        // Ten in a stretch; what had none gets it later.
        for number in 2..=10 {
            assert!(lines.check_unknown(mac(number), now));
        }
        assert!(!lines.check_unknown(mac(11), now));
        assert_eq!(lines.open[&LineKind::Unknown].left_out, 1);
        now += STRETCH;
        lines.end(now);
        assert!(lines.check_unknown(mac(11), now) && !lines.check_unknown(mac(1), now));
        lines.reset();
        assert!(lines.check_unknown(mac(1), now), "after a reload");
    }

    #[test]
    fn addresses_are_remembered_up_to_a_number() {
        let (mut lines, mut now) = (LogLimiter::default(), Instant::now());
        for number in 0..2 * u32::try_from(MOST_UNKNOWN).unwrap() {
            if !lines.check_unknown(mac(number), now) {
                now += STRETCH;
                lines.end(now);
            }
        }
        assert_eq!(lines.unknown.len(), MOST_UNKNOWN);
    }
}
