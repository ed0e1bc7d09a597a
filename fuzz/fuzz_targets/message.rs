//! A message from the sniffer is rejected, or decodes again to the same value after it was encoded.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wakevirt_protocol::sniffer::{FromSniffer, MAX_MESSAGE, MAX_REASON};

fuzz_target!(|datagram: &[u8]| {
    let Ok(message) = FromSniffer::decode(datagram) else { return };
    match &message {
        FromSniffer::Failed { reason } => assert!(reason.len() <= MAX_REASON),
        FromSniffer::Packet(captured) => assert!(captured.packet.magic.target().is_unicast()),
        FromSniffer::Ready { .. } | FromSniffer::Counters(_) => {}
    }
    let mut buffer = [0; MAX_MESSAGE];
    let encoded = message.encode(&mut buffer).expect("a decoded message can be encoded");
    assert!(encoded.len() <= datagram.len(), "encoding does not make it longer");
    assert_eq!(FromSniffer::decode(encoded), Ok(message));
});
