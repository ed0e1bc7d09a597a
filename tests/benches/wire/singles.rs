//! Single packets during a flood of valid packets for other addresses of interest.

use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::{CAPTURE_INTERFACE, Dict, MAGIC_PACKET};
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::Host;
use wakevirt_tests::network::FAR_END;
use wakevirt_tests::network::frames::{BROADCAST, WAKE_ON_LAN, ethernet, magic};

use crate::bus::{CaptureClient, Subscriber, wait_for_report};
use crate::packets::PacketSocket;
use crate::report::{Aim, Report};

/// The number of addresses in the flood.
const FLOODED: u32 = 1000;
/// The number of addresses for which one packet is sent.
const SINGLES: u32 = 200;
/// The number of flood packets between two single packets.
const BETWEEN: u32 = 1000;
/// The number of frames per second.
const PACE: f64 = 120_000.0;

/// Measures how many of the single packets are announced. All packets arrive on one interface.
pub fn measure(report: &mut Report) {
    let host = Host::new();
    let bus = Bus::start(&host, Kind::DbusDaemon);
    let lan = host.veth("lan0");
    let mut capture = Daemon::capture(&host).start_on_bus();
    let client = CaptureClient::open(&bus);
    // A packet for the last address ends the measurement.
    client.set_interest((0..=FLOODED + SINGLES).map(address));
    let wire = PacketSocket::sender(&lan.network(), FAR_END);
    let mut subscriber = Subscriber::new(&bus, CAPTURE_INTERFACE, MAGIC_PACKET);

    let frames: Vec<_> = (0..SINGLES).flat_map(single_and_flood).collect();
    let before = client.counters();
    let time = wire.flood(&frames, frames.len(), Some(PACE));
    wait_for_report();
    let after = client.counters();
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
    let received = [("all packets that were received", (1.0 - lost as f64 / count) * 100.0)];
    let announced = f64::from(singles) / f64::from(SINGLES) * 100.0;
    report.aim("single packets announced", "%", announced, &received, Aim::AtLeast(100.0));
    report.add("signals of the flood", "/s", f64::from(signals - singles) / time.as_secs_f64(), &[]);
    report.add("sent", "k/s", count / time.as_secs_f64() / 1e3, &[]);
}

/// A single packet, followed by [`BETWEEN`] packets of the flood, each from a different sender.
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
