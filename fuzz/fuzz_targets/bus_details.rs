//! The dictionaries in signals and replies: any dictionary results in values that are within their limits, and that are
//! the same after they are sent and received again.
//!
//! The lowest bit of an input's first byte selects the byte order. A D-Bus value of type `a{sv}` follows.

#![no_main]

use std::collections::HashMap;

use libfuzzer_sys::fuzz_target;
use wakevirt_ctl::client::{ActorStatus, CaptureStatus, Decision, Domain};
use wakevirt_protocol::bus::{Dict, PacketDetails, dict};
use wakevirt_protocol::details::{Detail, Details, MAX_ALTERNATIVES, MAX_INTERFACE_NAME};
use wakevirt_protocol::explain::{Body, Explanation};
use zbus::Variant;
use zbus::wire::serialized::{Context, Data};
use zbus::wire::{BE, LE, to_bytes};

fuzz_target!(|input: &[u8]| {
    let [order, body @ ..] = input else { return };
    let context = Context::new(if order & 1 == 0 { LE } else { BE }, 0);
    let data = Data::new(body.to_vec(), context);
    if data.deserialize::<Dict>().is_err() {
        return;
    }
    let received = || data.deserialize::<Dict>().expect("it was deserialized before").0;

    let packet = PacketDetails::from(&received());
    assert!(packet.epoch.as_ref().is_none_or(|epoch| epoch.len() <= 64));
    assert!(packet.alternatives.len() <= MAX_ALTERNATIVES);
    assert!(packet.interface_names().all(|name| name.len() <= MAX_INTERFACE_NAME));
    assert!(packet.size() <= 4096, "{packet:?}");
    assert_eq!(PacketDetails::from(&sent(context, &dict(details(&packet)))), packet);

    let explanation = Explanation::from(received());
    assert_eq!(Explanation::from(sent(context, &Body::from(explanation.clone()))), explanation);

    // The values of the properties and lists are only displayed.
    assert_eq!(shown(ActorStatus::from(received())), shown(ActorStatus::from(received())));
    assert_eq!(shown(CaptureStatus::from(received())), shown(CaptureStatus::from(received())));
    assert_eq!(shown(Domain::from(received())), shown(Domain::from(received())));
    let decision = Decision::from(received());
    assert!(decision.details.packet().len() <= 4);
    assert_eq!(shown(decision), shown(Decision::from(received())));
});

fn sent(context: Context, body: &HashMap<&str, Variant<'_>>) -> Dict {
    let bytes = to_bytes(context, body).expect("it can be sent");
    bytes.deserialize().expect("what was sent can be received").0
}

/// The details as the announcer sends them.
fn details(packet: &PacketDetails) -> Details {
    let text = |text: String| Detail::Text(text);
    let mut details = vec![("secureon", Detail::Bool(packet.secure_on))];
    details.extend(packet.epoch.clone().map(|epoch| ("epoch", text(epoch))));
    details.extend(packet.interface.clone().map(|name| ("interface", text(name))));
    details.push(("interface-alternatives", Detail::Texts(packet.alternatives.clone())));
    details.extend(packet.transport.map(|transport| ("transport", text(transport.as_str().to_owned()))));
    details.extend(packet.vlan.map(|vlan| ("vlan", Detail::U16(vlan))));
    details.extend(packet.source_mac.map(|mac| ("source-mac", text(mac.to_string()))));
    details.extend(packet.source.map(|address| ("source", text(address.to_string()))));
    details.extend(packet.boottime.map(|time| ("boottime", Detail::U64(time))));
    details
}

fn shown(value: impl serde::Serialize) -> String {
    serde_json::to_string(&value).expect("it can be displayed")
}
