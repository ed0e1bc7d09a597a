//! Verdicts as sentences.

use wakevirt_protocol::bus::PacketDetails;
use wakevirt_protocol::explain::RuleVerdict;
use wakevirt_service::logs::quoted;

use crate::policy::decision::unmet_packets;

/// Why a rule has this verdict on a packet for a single domain.
pub(super) fn sentence(verdict: RuleVerdict, details: &PacketDetails) -> String {
    let packet = |value: Option<String>| {
        let packets = unmet_packets(verdict);
        let value = value.map_or_else(String::new, |value| format!(" ({value})"));
        format!("it does not match packets {packets}{value}")
    };
    match verdict {
        RuleVerdict::Allows => "it allows the packet".to_owned(),
        RuleVerdict::PasswordUnchecked => {
            "it allows the packet if the SecureOn password is correct, which is not checked here".to_owned()
        }
        RuleVerdict::PasswordMissing => "it requires a SecureOn password, and the packet has none".to_owned(),
        RuleVerdict::PasswordWrong => "it requires a different SecureOn password".to_owned(),
        RuleVerdict::Interface => packet(details.interface.as_deref().map(|it| quoted(it).to_string())),
        RuleVerdict::Vlan => packet(details.vlan.map(|vlan| vlan.to_string())),
        RuleVerdict::Source => {
            let source = details.source.map(|it| it.to_string());
            packet(source.or_else(|| details.source_mac.map(|it| it.to_string())))
        }
        RuleVerdict::InterfaceUnknown | RuleVerdict::VlanUnknown | RuleVerdict::SourceUnknown => packet(None),
        RuleVerdict::Connection => "it is for domains of a different hypervisor".to_owned(),
        RuleVerdict::Domain => "it is for other domains".to_owned(),
        RuleVerdict::Mac => "it is for other MAC addresses".to_owned(),
        RuleVerdict::Ambiguous => "several domains have the MAC address".to_owned(),
        RuleVerdict::NoDomain => "no known domain has the MAC address".to_owned(),
        RuleVerdict::NoOptIn => "the metadata of the domain does not allow wakes".to_owned(),
        RuleVerdict::Disabled => "the configuration contains metadata = false".to_owned(),
    }
}
