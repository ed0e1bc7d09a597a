//! The time from the packet to the start of a domain when the services were idle for a long time.

use std::time::{Duration, Instant};

use wakevirt_protocol::bus::ACTOR_INTERFACE;
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::{Libvirtd, TEST};
use wakevirt_tests::network::FAR_END;
use wakevirt_tests::network::frames::{BROADCAST, WAKE_ON_LAN, ethernet, magic};

use crate::bus::Subscriber;
use crate::domains::{Client, mac};
use crate::packets::PacketSocket;
use crate::report::{Report, median, quantile, round};

/// The number of wakes after each time of idleness.
const WAKES: u8 = 10;
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);
const NAME: &str = "vm";

/// Measures wakes, and libvirt's start alone, after both times of idleness.
pub fn measure(report: &mut Report) {
    let host = Host::new();
    let _libvirtd = Libvirtd::start(&host);
    let bus = Bus::start(&host, Kind::DbusDaemon);
    let lan = host.veth("lan0");
    let client = Client::open(&host, TEST);
    client.define(NAME, &mac(1));
    let mut capture = Daemon::capture(&host).start_on_bus();
    let config = format!("connections = [\"{TEST}\"]\ncool-down = \"0s\"\n[[allow]]\ndomain = \"*\"\n");
    let mut actor = Daemon::actor(&host).config(&config).start_connected();
    let wire = PacketSocket::sender(&lan.network(), FAR_END);
    let mut finished = Subscriber::new(&bus, ACTOR_INTERFACE, "WakeFinished");

    let mut number = 0_u8;
    let mut wake = |idle: Duration| {
        number += 1;
        let frame = ethernet(BROADCAST, [2, 0, 0, 0, 0, number], WAKE_ON_LAN, &magic(&mac(1), &[]));
        std::thread::sleep(idle);
        let start = Instant::now();
        wire.send(&frame);
        let (outcome, details) = finished.wait_for_wake(&mac(1));
        let time = start.elapsed().as_secs_f64() * 1e3;
        assert_eq!(outcome, "started", "{details:?}");
        client.destroy(NAME);
        time
    };
    let start_alone = |idle: Duration| {
        std::thread::sleep(idle);
        let time = client.start(NAME).as_secs_f64() * 1e3;
        client.destroy(NAME);
        time
    };
    let [mut long, mut short, mut long_alone, mut short_alone] = [const { vec![] }; 4];
    for _ in 0..WAKES {
        long.push(wake(LONG));
        short.push(wake(SHORT));
        long_alone.push(start_alone(LONG));
        short_alone.push(start_alone(SHORT));
    }
    report_times(report, "60 s", &long, &long_alone);
    report_times(report, "50 ms", &short, &short_alone);
    actor.stop();
    capture.stop();
}

/// Reports the times after this time of idleness, in ms.
fn report_times(report: &mut Report, idle: &str, times: &[f64], alone: &[f64]) {
    let baselines = [("libvirt's start alone", median(alone))];
    report.add(&format!("after {idle}, median"), "ms", median(times), &baselines);
    let result = format!(
        "median {} ms, slowest {} ms; libvirt's start alone: median {} ms, slowest {} ms",
        round(median(times)),
        round(quantile(times, 1.0)),
        round(median(alone)),
        round(quantile(alone, 1.0)),
    );
    report.soak(&format!("wakes after {idle} of idleness"), times.len(), &result);
}
