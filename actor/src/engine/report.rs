//! Decisions, and how they are reported: in the log, in the history, to callers and as D-Bus signals.

use core::fmt;
use std::sync::Arc;

use tokio::time::Instant;
use wakevirt_protocol::Transport;
use wakevirt_service::clock;
use wakevirt_service::logs::{kind, quoted};

use super::log_limiter::{LineKind, Permit};
use super::wakes::received_at;
use super::{Engine, Reply};
use crate::engine::request::WakeReply;
pub use crate::model::Decision;
use crate::model::{Outcome, Packet, Subject, Trigger};
use crate::policy::rules::METADATA;

/// The maximum length of a domain's name, in bytes. libvirt names files after domains (NAME_MAX, limits.h(0p)), but
/// other hypervisors might not.
const MAX_NAME: usize = 255;
/// The maximum length of a rule, in bytes.
pub(super) const MAX_RULE: usize = 2000;
/// The maximum length of a reason, in bytes.
const MAX_REASON: usize = 1000;

/// The decisions that must still be logged, including when the service exits.
#[derive(Default)]
pub(super) struct Unlogged {
    /// `true`: the line says that further lines like it are suppressed.
    decisions: Vec<(Arc<Decision>, bool)>,
}

impl Unlogged {
    pub(super) const fn is_empty(&self) -> bool {
        self.decisions.is_empty()
    }

    pub(super) fn log(&mut self) {
        self.decisions.drain(..).for_each(|(decision, last)| decision.log(last));
    }

    fn push(&mut self, decision: &Arc<Decision>, permit: Permit) {
        match permit {
            Permit::Log => self.decisions.push((Arc::clone(decision), false)),
            Permit::LogLast => self.decisions.push((Arc::clone(decision), true)),
            Permit::Suppress => {}
        }
    }
}

impl Drop for Unlogged {
    fn drop(&mut self) {
        self.log();
    }
}

impl Engine {
    /// Sends the decision to the callers and the D-Bus interface, adds it to the history, and queues its log line: the
    /// callers and the interface need not wait until the log is written.
    pub(super) fn report(&mut self, subject: Subject, outcome: Outcome, reason: String, callers: Vec<Reply>) {
        self.unsaved = true;
        let decision = Arc::new(Decision::new(subject, outcome, reason, clock::realtime()));
        let permit = self.log_permit(&decision);
        self.unlogged.push(&decision, permit);
        self.history.add(&decision);
        // The domain may have been removed during its wake.
        let domain = decision.subject.domain.as_ref();
        if let Some((id, _)) = domain.filter(|(id, _)| self.index.get(id).is_none()) {
            self.history.forget_domain(id);
        }
        for caller in callers {
            // The caller may have stopped waiting.
            let _ = caller.send(WakeReply::Decided(Arc::clone(&decision)));
        }
        // There is no receiver while the bus is unavailable.
        let _ = self.outputs.decisions.send(decision);
    }

    /// Whether to log the decision. Decisions about packets that did not wake a domain are limited: anyone can cause
    /// them.
    fn log_permit(&mut self, decision: &Decision) -> Permit {
        if decision.subject.trigger() != Trigger::Packet || decision.outcome.is_success() {
            return Permit::Log;
        }
        self.log_limiter.check(LineKind::of(decision), Instant::now())
    }
}

impl Decision {
    /// A decision whose strings are truncated, because the history stores up to a thousand decisions.
    #[must_use]
    pub fn new(mut subject: Subject, outcome: Outcome, reason: String, time: u64) -> Self {
        subject.domain = subject.domain.map(|(id, name)| (id, truncated(name, MAX_NAME)));
        subject.rule = subject.rule.map(|rule| truncated(rule, MAX_RULE));
        let received = subject.packet.as_ref().and_then(received_at);
        let latency = received.map(|received| clock::boottime().saturating_sub(received));
        Self { subject, outcome, reason: truncated(reason, MAX_REASON), time, latency }
    }

    /// An estimate of the decision's memory use, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        let Subject { domain, rule, packet, .. } = &self.subject;
        let name = domain.as_ref().map_or(0, |(_, name)| name.len());
        let rule = rule.as_ref().map_or(0, String::len);
        let packet = packet.as_ref().map_or(0, |packet| packet.details.size());
        size_of::<Self>() + name + rule + packet + self.reason.len()
    }

    /// Logs the decision in one line, as a sentence and as searchable fields. With `last`, the line also says that
    /// further lines like it are suppressed for now.
    pub fn log(&self, last: bool) {
        let Subject { mac, rule, packet, caller, .. } = &self.subject;
        let id = self.subject.domain.as_ref().map(|(id, _)| id);
        let details = packet.as_ref().map(|packet| &packet.details);
        let note = if last { "; further lines like this are suppressed for up to a minute" } else { "" };
        // The level is part of tracing's static metadata of the line, so each level needs its own line.
        macro_rules! line {
            ($log:ident) => {
                tracing::$log!(
                    MESSAGE_ID = kind_of(self.outcome),
                    WAKEVIRT_OUTCOME = self.outcome.as_str(),
                    WAKEVIRT_DOMAIN = self.domain(),
                    WAKEVIRT_UUID = id.map(|id| display(id.uuid)),
                    WAKEVIRT_CONNECTION = id.map(|id| &*id.connection),
                    WAKEVIRT_MAC = mac.map(display),
                    WAKEVIRT_TRIGGER = self.subject.trigger().as_str(),
                    WAKEVIRT_CALLER = caller.map(|caller| caller.user),
                    WAKEVIRT_AUTHORITY = caller.map(|caller| caller.authority.as_str()),
                    WAKEVIRT_RULE = rule.as_ref(),
                    WAKEVIRT_INTERFACE = details.and_then(|details| details.interface.as_ref()),
                    WAKEVIRT_VLAN = details.and_then(|details| details.vlan),
                    WAKEVIRT_TRANSPORT = details.and_then(|details| details.transport).map(Transport::as_str),
                    WAKEVIRT_SOURCE = packet.as_ref().and_then(sender),
                    WAKEVIRT_REASON = self.reason,
                    WAKEVIRT_LATENCY_USEC = self.latency,
                    "{self}{note}"
                )
            };
        }
        match self.outcome {
            Outcome::Failed => line!(warn),
            _ => line!(info),
        }
    }

    /// The domain's name, if the decision is about one.
    #[must_use]
    pub fn domain(&self) -> Option<&str> {
        self.subject.domain.as_ref().map(|(_, name)| name.as_str())
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Subject { mac, rule, packet, .. } = &self.subject;
        write!(f, "{}: ", self.outcome)?;
        if let Some(name) = self.domain() {
            write!(f, "domain {}, ", quoted(name))?;
        }
        match packet {
            None => {
                match self.subject.caller {
                    Some(caller) => write!(f, "called by {caller}")?,
                    None => write!(f, "{}", Trigger::Autostart.as_str())?,
                }
                mac.map_or(Ok(()), |mac| write!(f, " for {mac}"))?;
            }
            Some(packet) => write!(f, "{}", describe(packet))?,
        }
        match rule.as_deref() {
            Some(METADATA) => write!(f, ", {METADATA}")?,
            Some(rule) => write!(f, ", rule {rule}")?,
            None => {}
        }
        write!(f, ": {}", self.reason)
    }
}

/// The kind of message about a decision with this outcome.
const fn kind_of(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Started => kind::WAKE_STARTED,
        Outcome::Resumed => kind::WAKE_RESUMED,
        Outcome::Woken => kind::WAKE_WOKEN,
        Outcome::AlreadyRunning => kind::WAKE_ALREADY_RUNNING,
        Outcome::NotAllowed => kind::WAKE_NOT_ALLOWED,
        Outcome::CoolingDown => kind::WAKE_COOLING_DOWN,
        Outcome::BadPassword => kind::WAKE_BAD_PASSWORD,
        Outcome::Ambiguous => kind::WAKE_AMBIGUOUS,
        Outcome::MigratedAway => kind::WAKE_MIGRATED_AWAY,
        Outcome::Expired => kind::WAKE_EXPIRED,
        Outcome::Failed => kind::WAKE_FAILED,
    }
}

/// The packet as text: its address, sender, ingress interface and VLAN.
pub(crate) fn describe(packet: &Packet) -> impl fmt::Display {
    fmt::from_fn(move |f| {
        write!(f, "packet for {}", packet.mac)?;
        sender(packet).map_or(Ok(()), |source| write!(f, " from {source}"))?;
        let interface = packet.details.interface.as_ref();
        interface.map_or(Ok(()), |interface| write!(f, " on {}", quoted(interface)))?;
        let vlan = packet.details.vlan.filter(|vlan| *vlan != 0);
        vlan.map_or(Ok(()), |vlan| write!(f, " in VLAN {vlan}"))
    })
}

/// The sender of the packet: its IP address, otherwise its MAC address.
pub(super) fn sender(packet: &Packet) -> Option<String> {
    let details = &packet.details;
    details.source.map(|it| it.to_string()).or_else(|| details.source_mac.map(|it| it.to_string()))
}

/// The text, truncated after at most `max` bytes.
#[must_use]
pub(super) fn truncated(mut text: String, max: usize) -> String {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
        text.push('…');
    }
    text
}

/// A domain's name, truncated to the maximum length.
#[must_use]
pub(super) fn truncated_name(name: &str) -> String {
    truncated(name.to_owned(), MAX_NAME)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::sync::Mutex;

    use wakevirt_protocol::bus::PacketDetails;

    use wakevirt_protocol::MacAddr;

    use super::*;
    use crate::model::{Authority, Caller, Id};

    /// The log lines of this decision.
    fn logged(decision: &Decision, last: bool) -> String {
        let (mut log, writer) = std::io::pipe().unwrap();
        let logger = tracing_subscriber::fmt().with_writer(Mutex::new(writer)).with_ansi(false).finish();
        tracing::subscriber::with_default(logger, || decision.log(last));
        let mut text = String::new();
        log.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn marks_the_last_line_of_an_interval() {
        let subject = Subject::new(Some(MacAddr::new([2; 6])), None, None, None);
        let reason = "two domains have it".to_owned();
        let decision = Decision { subject, outcome: Outcome::Ambiguous, reason, time: 0, latency: None };
        assert!(
            logged(&decision, true).contains("two domains have it; further lines like this are suppressed")
        );
        let line = logged(&decision, false);
        assert!(line.contains(&decision.to_string()) && !line.contains("suppressed"), "{line}");
    }

    #[test]
    fn each_outcome_has_its_own_kind_of_message() {
        let kinds: std::collections::BTreeSet<_> = Outcome::ALL.map(kind_of).into();
        assert_eq!(kinds.len(), Outcome::ALL.len());
    }

    #[test]
    fn measures_the_latency_from_the_timestamp_of_the_packet() {
        let decide = |packet: Option<&Packet>| {
            let subject = Subject::new(None, None, None, packet);
            Decision::new(subject, Outcome::Started, String::new(), 0).latency
        };
        assert_eq!(decide(None), None, "a call has no timestamp");
        let boottime = Some(clock::boottime().saturating_sub(5_000));
        let details = PacketDetails { boottime, ..PacketDetails::default() };
        let packet = Packet { mac: MacAddr::new([2; 6]), sequence: 1, details };
        assert!(decide(Some(&packet)).unwrap() >= 5_000);
    }

    #[test]
    fn truncates_long_text() {
        let id = Id { connection: "qemu:///system".into(), uuid: uuid::Uuid::nil() };
        let text = || "ü".repeat(10_000);
        let mut subject = Subject::new(None, None, Some(text()), None);
        subject.domain = Some((id, text()));
        let decision = Decision::new(subject, Outcome::Failed, text(), 0);
        assert_eq!(decision.domain().unwrap(), format!("{}…", "ü".repeat(127)));
        assert_eq!(decision.subject.rule.as_deref().unwrap(), format!("{}…", "ü".repeat(1000)));
        assert_eq!(decision.reason, format!("{}…", "ü".repeat(500)));
        assert_eq!(truncated("win11".to_owned(), 5), "win11");
    }

    #[test]
    fn escapes_text_in_the_log_line() {
        let details = PacketDetails {
            interface: Some("br0\n".to_owned()),
            vlan: Some(20),
            source: Some([192, 168, 1, 5].into()),
            ..PacketDetails::default()
        };
        let mac = MacAddr::new([0x52, 0x54, 0, 0, 0, 1]);
        let mut decision = Decision {
            subject: Subject {
                mac: Some(mac),
                domain: Some((
                    Id { connection: "qemu:///system".into(), uuid: uuid::Uuid::nil() },
                    "win\u{1b}[2J".to_owned(),
                )),
                rule: Some("domain = \"win*\"".to_owned()),
                packet: Some(Packet { mac, sequence: 1, details }),
                caller: None,
            },
            outcome: Outcome::Started,
            reason: "it was shut off".to_owned(),
            time: 0,
            latency: None,
        };
        assert_eq!(
            decision.to_string(),
            r#"started: domain "win\u{1b}[2J", packet for 52:54:00:00:00:01 from 192.168.1.5 on "br0\n" in VLAN 20, rule domain = "win*": it was shut off"#
        );
        let caller = Caller { user: 0, authority: Authority::User };
        decision.subject = Subject::new(Some(mac), None, None, None).called_by(caller);
        decision.outcome = Outcome::Ambiguous;
        decision.reason = "two domains have it".to_owned();
        assert_eq!(
            decision.to_string(),
            "ambiguous: called by root for 52:54:00:00:00:01: two domains have it"
        );
    }
}
