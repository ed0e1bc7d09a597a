//! A message from the sniffer either is rejected or stays the same when it is encoded and decoded again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wakevirt_protocol::sniffer::{FromSniffer, MAX_MESSAGE, MAX_REASON};

fuzz_target!(|datagram: &[u8]| {
    let Ok(message) = FromSniffer::decode(datagram) else { return };
    match &message {
        FromSniffer::Failed { reason } => assert!(reason.len() <= MAX_REASON),
        FromSniffer::Packet(captured) => assert!(captured.packet.magic.target().is_unicast()),
        FromSniffer::Ready { .. } | FromSniffer::Counters(_) | FromSniffer::Applied => {}
    }
    let mut buffer = [0; MAX_MESSAGE];
    let encoded = message.encode(&mut buffer).expect("a decoded message can be encoded");
    assert!(encoded.len() <= datagram.len(), "the encoded message is longer than the datagram");
    assert_eq!(FromSniffer::decode(encoded), Ok(message));
});
