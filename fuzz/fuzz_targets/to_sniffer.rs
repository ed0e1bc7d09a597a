//! A message to the sniffer either is rejected, or is within its limits and stays the same when it is encoded and
//! decoded again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wakevirt_protocol::sniffer::{MAX_BOUND, MAX_MESSAGE, MAX_OUTGOING, MAX_PORTS, ToSniffer};

fuzz_target!(|datagram: &[u8]| {
    let Ok(message) = ToSniffer::decode(datagram) else { return };
    match &message {
        ToSniffer::Start(start) => {
            assert!(start.ports.len() <= MAX_PORTS);
            assert!(usize::from(start.bound) <= MAX_BOUND && usize::from(start.outgoing) <= MAX_OUTGOING);
        }
        ToSniffer::Incoming { slot, .. } => assert!(usize::from(*slot) < MAX_BOUND),
        ToSniffer::Outgoing { slot, interface } => {
            assert!(usize::from(*slot) < MAX_OUTGOING && *interface != 0);
        }
        ToSniffer::Report | ToSniffer::Change(_) => {}
    }
    let mut buffer = [0; MAX_MESSAGE];
    let encoded = message.encode(&mut buffer).expect("a decoded message can be encoded");
    assert!(encoded.len() <= datagram.len(), "the encoded message is longer than the datagram");
    assert_eq!(ToSniffer::decode(encoded), Ok(message));
});
