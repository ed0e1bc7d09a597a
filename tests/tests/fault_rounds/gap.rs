//! The time during which packets are lost while capture restarts.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use wakevirt_protocol::bus::CAPTURE_NAME;
use wakevirt_tests::host::{Host, User};
use wakevirt_tests::libvirt::QEMU;
use wakevirt_tests::network::inject::Injector;
use wakevirt_tests::wait;

use crate::seed::{Random, in_rounds};
use crate::system::{Part, RECOVERY, RESTART, System, frame, name};

/// The time between two packets. Capture announces more than this number.
const INTERVAL: Duration = Duration::from_millis(15);
/// The number of addresses. None is used twice in ten seconds.
const ADDRESSES: usize = 1000;

fn address(number: usize) -> String {
    format!("52:54:01:00:{:02x}:{:02x}", number % ADDRESSES / 256, number % ADDRESSES % 256)
}

/// Sends packets for different addresses, beginning with the address `first`, until `ends`. Returns when each was sent.
fn send(wire: &mut Injector, first: usize, ends: &AtomicBool) -> Vec<Instant> {
    let mut sent = Vec::new();
    while !ends.load(Ordering::Relaxed) {
        let number = first + sent.len();
        wire.send(&frame(&address(number), u32::try_from(number).expect("fewer packets")));
        sent.push(Instant::now());
        sleep(INTERVAL);
    }
    sent
}

/// The longest time without an announced packet in each round.
fn gaps(rounds: usize) {
    let mut random = Random::new();
    let host = Host::new();
    // The actor registers its interest in these addresses.
    let mut config = format!("connections = [\"{QEMU}\"]\n[[allow]]\ndomain = \"none\"\n");
    for number in 0..ADDRESSES {
        let _ = writeln!(config, "[[alias]]\nmac = \"{}\"\ndomain = \"{}\"", address(number), name(0));
    }
    let mut system = System::configured(&host, 1, config);
    let monitor = host.monitor(User::Unprivileged, CAPTURE_NAME);
    let mut wire = system.lan.injector();
    let (mut next, mut gaps) = (0, Vec::new());
    for _ in 0..rounds {
        let part = random.choose(&[Part::Announcer, Part::Sniffer]);
        let (ends, before) = (AtomicBool::new(false), monitor.log().all().len());
        let sent = scope(|scope| {
            let sender = scope.spawn(|| send(&mut wire, next, &ends));
            let received =
                || monitor.log().all().iter().skip(before).filter(|it| it.contains("'52:54:01:")).count();
            let wait_for = |count: usize| wait::within(RECOVERY, || (received() >= count).then_some(()));
            assert!(wait_for(20).is_some(), "packets are not announced:\n{}", system.logs());
            system.kill(part);
            sleep(RESTART);
            system.start(part);
            system.wait_until_ready();
            assert!(wait_for(received() + 20).is_some(), "packets are not announced:\n{}", system.logs());
            ends.store(true, Ordering::Relaxed);
            sender.join().expect("all packets are sent")
        });
        // The last packets may be on their way.
        let lines = monitor.log().all().split_off(before);
        let is_announced =
            |number: usize| lines.iter().any(|line| line.contains(&format!("'{}'", address(next + number))));
        let announced =
            (0..sent.len()).filter(|number| is_announced(*number)).filter_map(|number| sent.get(number));
        let times: Vec<_> = announced.collect();
        let gap =
            times.windows(2).filter_map(|pair| Some(pair.last()?.duration_since(**pair.first()?))).max();
        gaps.push(gap.expect("several packets are announced"));
        next += sent.len();
    }
    gaps.sort();
    let (median, longest) = (gaps.get(gaps.len() / 2).expect("a round"), gaps.last().expect("a round"));
    println!(
        "soak: capture is killed and restarted after {} ms | {rounds} rounds | packets are lost for {} ms (median), \
         at most {} ms",
        RESTART.as_millis(),
        median.as_millis(),
        longest.as_millis()
    );
    assert!(*longest < Duration::from_secs(10), "capture restarted too slowly: {longest:?}");
}

in_rounds! {
    fn restart(1, 50) { gaps }
}
