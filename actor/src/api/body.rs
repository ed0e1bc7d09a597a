//! The bodies of replies and signals, and the D-Bus errors.

use std::collections::HashMap;

use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::Error;
use wakevirt_service::logs::quoted;
use zbus::Variant;

use crate::engine::report::Decision;
use crate::engine::request::{ListedDomain, WakeReply};
use crate::model::{Outcome, WakeTarget};

/// An `a{sv}` dictionary.
pub(super) type Dict = HashMap<&'static str, Variant<'static>>;

/// The maximum length of a domain name, in bytes. libvirt names files after domains: see NAME_MAX in limits.h(0p).
const MAX_NAME: usize = 255;

/// The details of `WakeFinished`.
#[must_use]
pub fn wake_details(decision: &Decision) -> Dict {
    let subject = &decision.subject;
    let mut details = Dict::from([
        ("trigger", subject.trigger().as_str().into()),
        ("reason", decision.reason.clone().into()),
    ]);
    if let Some((id, _)) = &subject.domain {
        details.insert("connection", id.connection.to_string().into());
        details.insert("uuid", id.uuid.to_string().into());
    }
    details.extend(subject.rule.as_ref().map(|rule| ("rule", rule.clone().into())));
    if let Some(packet) = &subject.packet {
        details.insert("sequence", packet.sequence.into());
        details.extend(packet.details.epoch.as_ref().map(|epoch| ("epoch", epoch.clone().into())));
        details.extend(packet.details.vlan.map(|vlan| ("vlan", vlan.into())));
        let interface = packet.details.interface.as_ref().map(|it| ("interface", it.clone().into()));
        let source = packet.details.source.map(|it| ("source", it.to_string().into()));
        let source_mac = packet.details.source_mac.map(|it| ("source-mac", it.to_string().into()));
        details.extend(interface.into_iter().chain(source).chain(source_mac));
    }
    details
}

/// An entry in the reply to `History`: the content of the signal, its time, and the caller. The signal does not contain
/// the caller, because everyone receives it.
#[must_use]
pub fn history_entry(number: u64, decision: &Decision) -> Dict {
    let mut entry = wake_details(decision);
    entry.insert("number", number.into());
    entry.insert("time", decision.time.into());
    entry.insert("outcome", decision.outcome.as_str().into());
    entry.extend(decision.domain().map(|name| ("domain", name.to_owned().into())));
    entry.extend(decision.subject.mac.map(|mac| ("mac", mac.to_string().into())));
    if let Some(caller) = decision.subject.caller {
        entry.insert("caller", caller.user.into());
        entry.insert("authority", caller.authority.as_str().into());
    }
    entry
}

/// An entry in the reply to `ListDomains`.
#[must_use]
pub fn domain_entry(listed: ListedDomain) -> Dict {
    let macs: Vec<String> = listed.macs.iter().map(MacAddr::to_string).collect();
    let mut entry = Dict::from([
        ("connection", listed.id.connection.to_string().into()),
        ("name", listed.name.into()),
        ("uuid", listed.id.uuid.to_string().into()),
        ("macs", macs.into()),
        ("state", listed.state.to_string().into()),
        ("allowed", listed.rule.is_some().into()),
    ]);
    entry.extend(listed.rule.map(|rule| ("rule", rule.into())));
    entry.extend(listed.last_wake.map(|time| ("last-wake", time.into())));
    entry
}

/// The reply to `Wake` or `WakeDomain`: the outcome if the wake succeeded, or an error.
pub(super) fn wake_reply(reply: &WakeReply, target: &WakeTarget) -> Result<String, Error> {
    let decision = match (reply, target) {
        (WakeReply::Decided(decision), _) => decision,
        (WakeReply::UnknownDomain, WakeTarget::Mac(mac)) => {
            return Err(Error::NoSuchDomain(format!(
                "no domain has the MAC address {mac}; ListDomains returns the known domains and their addresses"
            )));
        }
        (WakeReply::UnknownDomain, WakeTarget::Domain(name)) => {
            return Err(Error::NoSuchDomain(format!(
                "no domain has the name or UUID {}; ListDomains returns the known domains",
                quoted(name)
            )));
        }
        (WakeReply::HypervisorUnavailable(uris), _) => {
            return Err(hypervisor_unavailable("no such domain is known", uris));
        }
    };
    let name = decision.domain().unwrap_or_default();
    let reason = &decision.reason;
    match decision.outcome {
        Outcome::Started | Outcome::Resumed | Outcome::Woken | Outcome::AlreadyRunning => {
            Ok(decision.outcome.as_str().to_owned())
        }
        Outcome::Ambiguous => Err(Error::Ambiguous(reason.clone())),
        Outcome::NotAllowed
        | Outcome::CoolingDown
        | Outcome::BadPassword
        | Outcome::MigratedAway
        | Outcome::Expired
        | Outcome::Failed => Err(Error::Failed(format!("{name} was not woken: {reason}"))),
    }
}

pub(super) fn hypervisor_unavailable(problem: &str, uris: &str) -> Error {
    Error::HypervisorUnavailable(format!(
        "{problem}; unavailable: {uris}; see wakevirt-actor's log, and try again"
    ))
}

pub(super) fn exiting() -> Error {
    Error::Failed(EXITING.to_owned())
}

/// The same error, for properties.
pub(super) fn exiting_property() -> zbus::fdo::Error {
    zbus::fdo::Error::Failed(EXITING.to_owned())
}

const EXITING: &str = "the service is exiting; try again";

/// Parses a MAC address in a call.
pub(super) fn parse_mac(text: &str) -> Result<MacAddr, Error> {
    text.parse().map_err(|error| Error::InvalidArgument(format!("{error}")))
}

/// Checks a domain's name or UUID in a call. polkit shows it in its dialog.
pub(super) fn parse_domain(text: &str) -> Result<String, Error> {
    if text.len() <= MAX_NAME && !text.contains(char::is_control) {
        return Ok(text.to_owned());
    }
    Err(Error::InvalidArgument(format!(
        "{} is not a domain name: a name has at most {MAX_NAME} bytes, and no control characters",
        quoted(text)
    )))
}
