//! Single packets beside a flood of valid packets for other known addresses.

use std::time::Duration;

use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::{CAPTURE_INTERFACE, Dict, MAGIC_PACKET};
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::Host;
use wakevirt_tests::network::FAR_END;
use wakevirt_tests::network::frames::{BROADCAST, WAKE_ON_LAN, ethernet, magic};

use crate::bus::{Accounts, Subscriber};
use crate::packets::PacketSocket;
use crate::report::Report;

/// Addresses of domains that are flooded.
const FLOODED: u32 = 1000;
/// Addresses of domains for which one packet comes.
const SINGLES: u32 = 200;
/// Packets of the flood for each single one.
const BETWEEN: u32 = 1000;
/// Frames per second.
const PACE: f64 = 120_000.0;

/// The sniffer tells what it counted each second.
const COUNTED: Duration = Duration::from_millis(1200);

/// Measures how many single packets are announced, where all arrive on one interface.
pub fn measure(report: &mut Report) {
    let host = Host::new();
    let bus = Bus::start(&host, Kind::DbusDaemon);
    let lan = host.veth("lan0");
    let mut capture = Daemon::capture(&host).start_on_bus();
    let accounts = Accounts::open(&bus);
    // The last one ends the run.
    accounts.name_interest((0..=FLOODED + SINGLES).map(address));
    let wire = PacketSocket::sender(&lan.network(), FAR_END);
    let mut subscriber = Subscriber::new(&bus, CAPTURE_INTERFACE, MAGIC_PACKET);

    let frames: Vec<_> = (0..SINGLES).flat_map(single_and_flood).collect();
    let before = accounts.read();
    let took = wire.flood(&frames, frames.len(), Some(PACE));
    std::thread::sleep(COUNTED);
    let after = accounts.read();
    wire.send(&frame(FLOODED + SINGLES, 0));

    let last = address(FLOODED + SINGLES).to_string();
    let (mut signals, mut singles) = (0_u32, 0_u32);
    loop {
        let message = subscriber.next();
        let (_, mac, _): (u64, String, Dict) =
            message.body().deserialize().expect("the body of a MagicPacket");
        if mac == last {
            break;
        }
        signals += 1;
        singles += u32::from((FLOODED..FLOODED + SINGLES).any(|number| address(number).to_string() == mac));
    }
    capture.stop();

    let count = frames.len() as f64;
    let lost = after.kernel_dropped - before.kernel_dropped + after.channel_dropped - before.channel_dropped;
    let read = [("of all packets, those that were read", (1.0 - lost as f64 / count) * 100.0)];
    report.add("single packets announced", "%", f64::from(singles) / f64::from(SINGLES) * 100.0, &read);
    report.add("signals of the flood", "/s", f64::from(signals - singles) / took.as_secs_f64(), &[]);
    report.add("sent", "k/s", count / took.as_secs_f64() / 1e3, &[]);
}

/// One packet for an address of its own, and then as many of the flood, each as from another sender.
fn single_and_flood(single: u32) -> impl Iterator<Item = Vec<u8>> {
    let flood = (0..BETWEEN).map(move |number| frame(number % FLOODED, single * BETWEEN + number));
    std::iter::once(frame(FLOODED + single, 0)).chain(flood)
}

fn address(number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr::new([0x52, 0x54, a, b, c, d])
}

fn frame(number: u32, sender: u32) -> Vec<u8> {
    let [a, b, c, d] = sender.to_be_bytes();
    ethernet(BROADCAST, [2, 0, a, b, c, d], WAKE_ON_LAN, &magic(&address(number).to_string(), &[]))
}
