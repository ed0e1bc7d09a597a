//! What is read from the sniffer at all is a message that can be written, and read again as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wakevirt_protocol::sniffer::{FromSniffer, MAX_MESSAGE, MAX_REASON};

fuzz_target!(|datagram: &[u8]| {
    let Ok(message) = FromSniffer::decode(datagram) else { return };
    match &message {
        FromSniffer::Failed { reason } => assert!(reason.len() <= MAX_REASON),
        FromSniffer::Packet(sighting) => assert!(sighting.packet.magic.target().is_unicast()),
        FromSniffer::Ready { .. } | FromSniffer::Counters(_) => {}
    }
    let mut buffer = [0; MAX_MESSAGE];
    let written = message.encode(&mut buffer).expect("what was read can be written");
    assert!(written.len() <= datagram.len(), "it is not written at greater length");
    assert_eq!(FromSniffer::decode(written), Ok(message));
});
