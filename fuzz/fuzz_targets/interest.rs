//! The announcer's record of interests, and the changes that it reports to the sniffer, give the same results as a slow
//! reference, for any calls, disconnections and times. The calls stay below its limits, because an input that reaches them takes too long.
//!
//! An input consists of steps of three bytes: what happens, the caller, and the addresses or the time.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use wakevirt_capture::packets::interest::{Interests, RETENTION};
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::sniffer::BATCH;

/// The addresses that steps use.
const ADDRESSES: u8 = 40;

/// Keeps every set, and counts nothing.
#[derive(Default)]
struct Reference {
    connected: BTreeMap<u8, BTreeSet<MacAddr>>,
    disconnected: Vec<(Instant, BTreeSet<MacAddr>)>,
}

impl Reference {
    fn disconnect(&mut self, caller: u8, now: Instant) {
        self.disconnected.extend(self.connected.remove(&caller).map(|addresses| (now, addresses)));
    }

    fn contains(&self, address: MacAddr, now: Instant) -> bool {
        let retained = self.disconnected.iter().filter(|(since, _)| now.duration_since(*since) < RETENTION);
        let mut sets = self.connected.values().chain(retained.map(|(_, addresses)| addresses));
        sets.any(|addresses| addresses.contains(&address))
    }
}

fn address(number: u8) -> MacAddr {
    MacAddr::new([2, 0, 0, 0, 0, number % ADDRESSES])
}

fuzz_target!(|input: &[u8]| {
    let mut now = Instant::now();
    let (mut interests, mut reference) = (Interests::default(), Reference::default());
    let mut sniffer = BTreeSet::new();
    for step in input.chunks_exact(3) {
        let [what, caller, value] = *step else { return };
        let name = format!(":1.{caller}");
        match what % 6 {
            0 => {
                let addresses: BTreeSet<_> =
                    (value >> 3..).take(usize::from(value & 7)).map(address).collect();
                interests.set(&name, addresses.clone(), now).expect("the limits are not reached");
                reference.connected.insert(caller, addresses);
            }
            1 => {
                interests.disconnect(&name, now);
                reference.disconnect(caller, now);
            }
            2 => {
                interests.disconnect_all(now);
                for caller in 0..=u8::MAX {
                    reference.disconnect(caller, now);
                }
            }
            3 => now += Duration::from_secs(u64::from(value) * 4),
            4 => {
                if let Some((added, addresses)) = interests.next_batch(now) {
                    apply(&mut sniffer, added, addresses);
                }
            }
            _ => assert_eq!(interests.contains(address(value), now), reference.contains(address(value), now)),
        }
    }
    while let Some((added, addresses)) = interests.next_batch(now) {
        apply(&mut sniffer, added, addresses);
    }
    for number in 0..ADDRESSES {
        let expected = reference.contains(address(number), now);
        assert_eq!(interests.contains(address(number), now), expected, "{number}");
        assert_eq!(sniffer.contains(&address(number)), expected, "{number}, in the sniffer");
    }
});

/// Applies a change as the sniffer does.
fn apply(sniffer: &mut BTreeSet<MacAddr>, added: bool, addresses: [MacAddr; BATCH]) {
    for address in addresses {
        if added {
            sniffer.insert(address);
        } else {
            sniffer.remove(&address);
        }
    }
}
