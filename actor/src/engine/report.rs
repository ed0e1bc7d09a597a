//! A decision that was made: what is told about it, in the log and on the bus.

use core::fmt;

use tracing::field::display;
use wakevirt_service::logs::quoted;

use crate::model::{Outcome, Packet, Subject};

/// The longest name of a domain that is told, in bytes: libvirt names files after domains (NAME_MAX,
/// limits.h(0p)), but not every hypervisor does.
const LONGEST_NAME: usize = 255;
/// The longest rule that is told, in bytes.
const LONGEST_RULE: usize = 2000;
/// The longest reason that is told, in bytes.
const LONGEST_REASON: usize = 1000;

/// The text, cut off after so many bytes.
#[must_use]
pub fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push('…');
    }
    text
}

/// A domain's name as it is told.
#[must_use]
pub fn told_name(name: &str) -> String {
    cut(name.to_owned(), LONGEST_NAME)
}

impl Decision {
    /// The decision, made now, with texts of a bounded length: a thousand of them are remembered.
    #[must_use]
    pub fn new(mut subject: Subject, outcome: Outcome, reason: String, time: u64) -> Self {
        subject.domain = subject.domain.map(|(id, name)| (id, cut(name, LONGEST_NAME)));
        subject.rule = subject.rule.map(|rule| cut(rule, LONGEST_RULE));
        Self { subject, outcome, reason: cut(reason, LONGEST_REASON), time }
    }

    /// About how much memory it takes, in bytes; more than its texts have.
    #[must_use]
    pub fn size(&self) -> usize {
        let Subject { domain, rule, packet, .. } = &self.subject;
        let name = domain.as_ref().map_or(0, |(_, name)| name.len());
        let rule = rule.as_ref().map_or(0, String::len);
        let packet = packet.as_ref().map_or(0, |packet| packet.details.size());
        size_of::<Self>() + name + rule + packet + self.reason.len()
    }
}

/// A decision that was made, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What it is about.
    pub subject: Subject,
    /// How it ended.
    pub outcome: Outcome,
    /// Why so, in words.
    pub reason: String,
    /// When: CLOCK_REALTIME, in microseconds.
    pub time: u64,
}

impl Decision {
    /// Logs the decision in one line: who, what, why, which rule; as a sentence for those who read the
    /// log, and in fields for those who search it. `last`: more like it are only counted for now.
    pub fn log(&self, last: bool) {
        let Subject { mac, rule, packet, caller, .. } = &self.subject;
        let domain = self.domain().map(|name| display(quoted(name)));
        let rule = rule.as_ref().map(|rule| display(quoted(rule)));
        let interface = packet.as_ref().and_then(|packet| packet.details.interface.as_deref());
        let interface = interface.map(|it| display(quoted(it)));
        let vlan = packet.as_ref().and_then(|packet| packet.details.vlan);
        let source = packet.as_ref().and_then(source).map(display);
        let counted = if last { "; more like this are only counted for a minute" } else { "" };
        // The level is part of the line's place in the source, so there are two.
        macro_rules! line {
            ($log:ident) => {
                tracing::$log!(
                    outcome = %self.outcome,
                    domain,
                    mac = mac.as_ref().map(display),
                    trigger = %self.subject.trigger().as_str(),
                    caller = caller.map(|caller| caller.user),
                    authority = caller.map(|caller| display(caller.by.as_str())),
                    rule,
                    interface,
                    vlan,
                    source,
                    reason = %quoted(&self.reason),
                    "{self}{counted}"
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
                write!(f, "called")?;
                self.subject.caller.map_or(Ok(()), |caller| write!(f, " by {caller}"))?;
                mac.map_or(Ok(()), |mac| write!(f, " for {mac}"))?;
            }
            Some(packet) => write!(f, "{}", described(packet))?,
        }
        if let Some(rule) = rule {
            write!(f, ", rule {rule}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// The packet in words: for which address, who sent it, where it came in.
pub(crate) fn described(packet: &Packet) -> impl fmt::Display {
    fmt::from_fn(move |f| {
        write!(f, "packet for {}", packet.mac)?;
        source(packet).map_or(Ok(()), |source| write!(f, " from {source}"))?;
        let interface = packet.details.interface.as_ref();
        interface.map_or(Ok(()), |interface| write!(f, " on {}", quoted(interface)))?;
        let vlan = packet.details.vlan.filter(|vlan| *vlan != 0);
        vlan.map_or(Ok(()), |vlan| write!(f, " in VLAN {vlan}"))
    })
}

/// Who sent the packet: the IP address, else the MAC address.
fn source(packet: &Packet) -> Option<String> {
    let details = &packet.details;
    details.source.map(|it| it.to_string()).or_else(|| details.source_mac.map(|it| it.to_string()))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::sync::Mutex;

    use wakevirt_protocol::bus::PacketDetails;

    use wakevirt_protocol::MacAddr;

    use super::*;
    use crate::model::Id;

    /// What is logged of a decision; perhaps the last line like it for now.
    fn logged(finished: &Decision, last: bool) -> String {
        let (mut log, writer) = std::io::pipe().unwrap();
        let logger = tracing_subscriber::fmt().with_writer(Mutex::new(writer)).with_ansi(false).finish();
        tracing::subscriber::with_default(logger, || finished.log(last));
        let mut text = String::new();
        log.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn the_last_line_of_a_stretch_says_so() {
        let subject = Subject::new(Some(MacAddr::new([2; 6])), None, None, None);
        let reason = "two have it".to_owned();
        let finished = Decision { subject, outcome: Outcome::Ambiguous, reason, time: 0 };
        assert!(logged(&finished, true).contains("two have it; more like this are only counted"));
        let line = logged(&finished, false);
        assert!(line.contains(&finished.to_string()) && !line.contains("counted"), "{line}");
    }

    #[test]
    fn has_texts_of_a_bounded_length() {
        let id = Id { connection: "qemu:///system".into(), uuid: uuid::Uuid::nil() };
        let text = || "ü".repeat(10_000);
        let mut subject = Subject::new(None, None, Some(text()), None);
        subject.domain = Some((id, text()));
        let finished = Decision::new(subject, Outcome::Failed, text(), 0);
        assert_eq!(finished.domain().unwrap(), format!("{}…", "ü".repeat(127)));
        assert_eq!(finished.subject.rule.as_deref().unwrap(), format!("{}…", "ü".repeat(1000)));
        assert_eq!(finished.reason, format!("{}…", "ü".repeat(500)));
        assert_eq!(cut("win11".to_owned(), 5), "win11");
    }

    #[test]
    fn is_told_in_a_sentence_that_nobody_can_forge() {
        let details = PacketDetails {
            interface: Some("br0\n".to_owned()),
            vlan: Some(20),
            source: Some([192, 168, 1, 5].into()),
            ..PacketDetails::default()
        };
        let mac = MacAddr::new([0x52, 0x54, 0, 0, 0, 1]);
        let mut finished = Decision {
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
        };
        assert_eq!(
            finished.to_string(),
            r#"started: domain "win\u{1b}[2J", packet for 52:54:00:00:00:01 from 192.168.1.5 on "br0\n" in VLAN 20, rule domain = "win*": it was shut off"#
        );
        finished.subject = Subject::new(Some(mac), None, None, None);
        finished.outcome = Outcome::Ambiguous;
        finished.reason = "two have it".to_owned();
        assert_eq!(finished.to_string(), "ambiguous: called for 52:54:00:00:00:01: two have it");
    }
}
