//! What a wake does to a domain in each of its states: real machines of QEMU, woken by a packet that
//! came through a bridge, and by a caller on the bus.

use std::time::Duration;

use wakevirt_tests::host::Host;
use wakevirt_tests::machine::{Emulator, Guest, Machine};
use wakevirt_tests::privileged;
use wakevirt_tests::scene::{ALL_ALLOWED, Scene};

/// Two domains of a kind: one to be woken by a packet, one by a call.
const BY_PACKET: &str = "by-packet";
const BY_CALL: &str = "by-call";
const BOTH: [&str; 2] = [BY_PACKET, BY_CALL];

/// Wakes the one domain by a packet, the other by a call. Both end so, and `reason` is told of both.
fn wake_both(scene: &Scene<'_>, outcome: &str, reason: &str) {
    scene.lan.etherwake(scene.mac(BY_PACKET), &[]);
    match scene.call(BY_CALL) {
        Ok(reply) => assert_eq!(reply, format!("('{outcome}',)")),
        Err(error) => {
            assert!(["failed", "migrated-away"].contains(&outcome), "{error:?}");
            assert_eq!(error.name, "org.wakevirt.Error.Failed", "{error:?}");
            assert!(error.message.contains(reason), "{error:?}");
        }
    }
    for domain in BOTH {
        let (seen, line) = scene.outcome(domain);
        assert_eq!(seen, outcome, "{line}");
        assert!(line.contains(reason), "{line}");
        // Bridge and port both saw the packet, and it was decided once.
        assert_eq!(scene.decisions(domain), 1, "{domain}");
    }
}

/// Both domains are in this state, and QEMU was started so often for each.
fn both_are(scene: &Scene<'_>, state: &str, starts: usize) {
    for domain in BOTH {
        assert_eq!((scene.state(domain).as_str(), scene.starts(domain)), (state, starts), "{domain}");
    }
}

/// Two machines of a kind.
fn two(kind: impl Fn(Machine) -> Machine) -> Vec<Machine> {
    BOTH.iter().map(|domain| kind(Machine::new(domain))).collect()
}

#[test]
fn shut_off() {
    privileged!();
    let host = Host::new();
    let scene = Scene::new(&host, &two(|plain| plain), ALL_ALLOWED);
    wake_both(&scene, "started", "");
    both_are(&scene, "running (booted)", 1);
}

#[test]
fn shut_off_because_qemu_was_killed() {
    privileged!();
    let host = Host::new();
    let scene = Scene::new(&host, &two(|plain| plain), ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
        scene.kill_machine(domain);
        scene.wait_for_state(domain, "shut off");
        assert_eq!(scene.state(domain), "shut off (crashed)");
    }
    wake_both(&scene, "started", "");
    both_are(&scene, "running (booted)", 2);
}

#[test]
fn running() {
    privileged!();
    let host = Host::new();
    let scene = Scene::new(&host, &two(|plain| plain), ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
    }
    wake_both(&scene, "already-running", "");
    both_are(&scene, "running (booted)", 1);
}

#[test]
fn saved() {
    privileged!();
    let host = Host::new();
    let scene = Scene::new(&host, &two(|plain| plain), ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
        scene.virsh(&["managedsave", domain]);
    }
    wake_both(&scene, "started", "");
    both_are(&scene, "running (restored)", 2);
}

#[test]
fn paused_for_a_disk_that_is_full() {
    privileged!();
    let host = Host::new();
    host.sh("mkdir /run/full; mount -t tmpfs -o size=64k tmpfs /run/full");
    host.sh("truncate -s 1M /run/full/by-packet /run/full/by-call; yes >/run/full/rest 2>/dev/null || :");
    let machines: Vec<_> = BOTH
        .iter()
        .map(|name| {
            let disk = format!("/run/full/{name}");
            Machine::new(name).guest(Guest::Writing).disk(&disk)
        })
        .collect();
    let scene = Scene::new(&host, &machines, ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
        scene.wait_for_state(domain, "paused");
    }
    wake_both(&scene, "failed", "I/O error");
    both_are(&scene, "paused (I/O error)", 1);
}

#[test]
fn paused_by_its_watchdog() {
    privileged!();
    let host = Host::new();
    let scene = Scene::new(&host, &two(|machine| machine.guest(Guest::Stuck)), ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
        scene.wait_for_state(domain, "paused");
    }
    wake_both(&scene, "failed", "watchdog");
    both_are(&scene, "paused (watchdog)", 1);
}

#[test]
fn crashed_and_preserved() {
    privileged!();
    let host = Host::new();
    let scene = Scene::new(&host, &two(|machine| machine.guest(Guest::Panicking)), ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
        scene.wait_for_state(domain, "crashed");
    }
    wake_both(&scene, "failed", "crashed");
    both_are(&scene, "crashed (panicked)", 1);
}

#[test]
fn a_slow_start_holds_up_no_other() {
    privileged!();
    let host = Host::new();
    let machines =
        [Machine::new(BY_PACKET).emulator(Emulator::Slow(10)), Machine::new(BY_CALL), Machine::new("third")];
    let scene = Scene::new(&host, &machines, ALL_ALLOWED);
    scene.lan.etherwake(scene.mac(BY_PACKET), &[]);
    scene.wait_for_state(BY_PACKET, "paused");
    assert_eq!(scene.state(BY_PACKET), "paused (starting up)");

    scene.lan.etherwake(scene.mac("third"), &[]);
    assert_eq!(scene.call(BY_CALL).unwrap(), "('started',)");
    assert_eq!(scene.outcome("third").0, "started");
    assert_eq!(scene.decisions(BY_PACKET), 0, "the others waited for it");

    // Another packet for the one that is under way is the same wake.
    scene.packet(BY_PACKET, 1);
    scene.packet(BY_PACKET, 2);
    let (outcome, line) = scene.outcome(BY_PACKET);
    assert_eq!(outcome, "started", "{line}");
    assert_eq!(scene.state(BY_PACKET), "running (booted)");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!((scene.starts(BY_PACKET), scene.decisions(BY_PACKET)), (1, 1));
}
