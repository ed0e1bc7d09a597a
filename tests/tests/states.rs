//! What a wake does to a domain in each of its states: real machines of QEMU, woken by a packet that
//! came through a bridge, and by a caller on the bus; under both regimes of rights.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::machine::{Emulator, Guest, Machine};
use wakevirt_tests::libvirt::second::{SECOND_URI, SecondLibvirtd};
use wakevirt_tests::privileged;
use wakevirt_tests::scene::{ALL_ALLOWED, LibvirtRights, Scene};

/// Makes two tests of each story: the actor has the group libvirt, or it has what the shipped polkit rule
/// grants and no more.
macro_rules! under_both_regimes {
    ($($story:ident)*) => { $(
        mod $story {
            use wakevirt_tests::scene::LibvirtRights;

            #[test]
            fn with_the_group() {
                super::$story(LibvirtRights::Group);
            }

            #[test]
            fn restricted() {
                super::$story(LibvirtRights::Restricted);
            }
        }
    )* };
}

under_both_regimes! {
    starts_a_shut_off_domain
    starts_a_domain_after_its_qemu_was_killed
    restores_a_saved_domain
    restores_and_resumes_a_domain_saved_while_paused
    does_not_start_a_migrated_domain
    resumes_a_paused_domain
    packets_leave_a_domain_paused_if_configured
    does_not_resume_a_domain_with_an_io_error
    does_not_resume_a_domain_paused_by_its_watchdog
    wakes_a_suspended_guest
    starts_a_domain_after_its_shutdown
    does_not_start_a_preserved_crashed_domain
    leaves_a_running_domain_alone
}

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
        if ["started", "resumed", "woken"].contains(&outcome) {
            // Bridge and port both saw the packet, and it was done once.
            assert_eq!(scene.outcomes(domain, outcome), 1, "{domain}");
        }
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

fn starts_a_shut_off_domain(regime: LibvirtRights) {
    privileged!();
    let host = Host::new();
    let scene = Scene::with_rights(regime, &host, &two(|plain| plain), ALL_ALLOWED);
    wake_both(&scene, "started", "");
    both_are(&scene, "running (booted)", 1);
}

fn starts_a_domain_after_its_qemu_was_killed(regime: LibvirtRights) {
    privileged!();
    let host = Host::new();
    let scene = Scene::with_rights(regime, &host, &two(|plain| plain), ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
        scene.kill_machine(domain);
        scene.wait_for_state(domain, "shut off");
        assert_eq!(scene.state(domain), "shut off (crashed)");
    }
    wake_both(&scene, "started", "");
    both_are(&scene, "running (booted)", 2);
}

fn restores_a_saved_domain(regime: LibvirtRights) {
    privileged!();
    let host = Host::new();
    let scene = Scene::with_rights(regime, &host, &two(|plain| plain), ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
        scene.virsh(&["managedsave", domain]);
    }
    wake_both(&scene, "started", "it was shut off (saved)");
    both_are(&scene, "running (restored)", 2);
}

fn restores_and_resumes_a_domain_saved_while_paused(regime: LibvirtRights) {
    privileged!();
    let host = Host::new();
    let scene = Scene::with_rights(regime, &host, &two(|plain| plain), ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
        scene.virsh(&["suspend", domain]);
        scene.virsh(&["managedsave", domain]);
    }
    wake_both(&scene, "started", "it was shut off (saved), and paused when it was saved");
    both_are(&scene, "running (unpaused)", 2);
}

fn does_not_start_a_migrated_domain(regime: LibvirtRights) {
    privileged!();
    let host = Host::new();
    let scene = Scene::with_rights(regime, &host, &two(|plain| plain), ALL_ALLOWED);
    let _neighbour = SecondLibvirtd::start(&host);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
        scene.virsh(&["migrate", "--live", domain, SECOND_URI, "--migrateuri", "unix:///run/migration"]);
    }
    wake_both(&scene, "migrated-away", "");
    both_are(&scene, "shut off (migrated)", 1);
}

fn resumes_a_paused_domain(regime: LibvirtRights) {
    privileged!();
    let host = Host::new();
    let scene = Scene::with_rights(regime, &host, &two(|plain| plain), ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", "--paused", domain]);
    }
    wake_both(&scene, "resumed", "");
    both_are(&scene, "running (unpaused)", 1);
}

fn packets_leave_a_domain_paused_if_configured(regime: LibvirtRights) {
    privileged!();
    let host = Host::new();
    let rules = "[[allow]]\ndomain = \"*\"\npaused = \"leave\"\n";
    let scene = Scene::with_rights(regime, &host, &two(|plain| plain), rules);
    for domain in BOTH {
        scene.virsh(&["start", "--paused", domain]);
    }
    scene.packet(BY_PACKET, 1);
    let line = scene.assert_outcome(BY_PACKET, "not-allowed");
    assert!(line.contains("leave"), "{line}");
    assert_eq!(scene.state(BY_PACKET), "paused (user)");
    // Rules are for packets.
    assert_eq!(scene.call(BY_CALL).unwrap(), "('resumed',)");
    assert_eq!(scene.state(BY_CALL), "running (unpaused)");
}

fn does_not_resume_a_domain_with_an_io_error(regime: LibvirtRights) {
    privileged!();
    let host = Host::new();
    host.sh("mkdir /run/full; mount -t tmpfs -o size=64k tmpfs /run/full");
    host.sh("truncate -s 1M /run/full/by-packet /run/full/by-call; yes >/run/full/rest 2>/dev/null || :");
    let machines: Vec<_> = BOTH
        .iter()
        .map(|name| {
            let disk = format!("/run/full/{name}");
            Machine::new(name).guest(Guest::WritesDisk).disk(&disk)
        })
        .collect();
    let scene = Scene::with_rights(regime, &host, &machines, ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
        scene.wait_for_state(domain, "paused");
    }
    wake_both(&scene, "failed", "I/O error");
    both_are(&scene, "paused (I/O error)", 1);
}

fn does_not_resume_a_domain_paused_by_its_watchdog(regime: LibvirtRights) {
    privileged!();
    let host = Host::new();
    let scene = Scene::with_rights(
        regime,
        &host,
        &two(|machine| machine.guest(Guest::TriggersWatchdog)),
        ALL_ALLOWED,
    );
    for domain in BOTH {
        scene.virsh(&["start", domain]);
        scene.wait_for_state(domain, "paused");
    }
    wake_both(&scene, "failed", "watchdog");
    both_are(&scene, "paused (watchdog)", 1);
}

fn wakes_a_suspended_guest(regime: LibvirtRights) {
    privileged!();
    let host = Host::new();
    let scene =
        Scene::with_rights(regime, &host, &two(|machine| machine.guest(Guest::Suspends)), ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
        scene.wait_for_state(domain, "pmsuspended");
    }
    wake_both(&scene, "woken", "");
    both_are(&scene, "running (event wakeup)", 1);
}

fn starts_a_domain_after_its_shutdown(regime: LibvirtRights) {
    privileged!();
    let host = Host::new();
    let machines = two(|machine| machine.guest(Guest::PowersOff).emulator(Emulator::IgnoresSigterm));
    let scene = Scene::with_rights(regime, &host, &machines, ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
        scene.shut_down(domain);
    }
    scene.lan.etherwake(scene.mac(BY_PACKET), &[]);
    let reply = std::thread::scope(|scope| {
        let reply = scope.spawn(|| scene.call(BY_CALL));
        for domain in BOTH {
            scene.wait_until_active(domain);
            assert_eq!((scene.decisions(domain), scene.state(domain).as_str()), (0, "in shutdown (unknown)"));
            scene.kill_machine(domain);
        }
        reply.join().unwrap().unwrap()
    });
    assert_eq!(reply, "('started',)");
    for domain in BOTH {
        scene.assert_outcome(domain, "started");
        assert_eq!((scene.state(domain).as_str(), scene.starts(domain)), ("running (booted)", 2));
        assert_eq!(scene.outcomes(domain, "started"), 1, "{domain}");
    }
}

fn does_not_start_a_preserved_crashed_domain(regime: LibvirtRights) {
    privileged!();
    let host = Host::new();
    let scene = Scene::with_rights(regime, &host, &two(|machine| machine.guest(Guest::Panics)), ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
        scene.wait_for_state(domain, "crashed");
    }
    wake_both(&scene, "failed", "crashed");
    both_are(&scene, "crashed (panicked)", 1);
}

fn leaves_a_running_domain_alone(regime: LibvirtRights) {
    privileged!();
    let host = Host::new();
    let scene = Scene::with_rights(regime, &host, &two(|plain| plain), ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
    }
    wake_both(&scene, "already-running", "");
    both_are(&scene, "running (booted)", 1);
}

#[test]
fn a_slow_start_delays_no_other_domain() {
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
    scene.assert_outcome("third", "started");
    assert_eq!(scene.decisions(BY_PACKET), 0, "the others waited for it");

    // Another packet for the one that is under way is the same wake.
    scene.packet(BY_PACKET, 1);
    scene.packet(BY_PACKET, 2);
    scene.assert_outcome(BY_PACKET, "started");
    assert_eq!(scene.state(BY_PACKET), "running (booted)");
    scene.wait_until_idle(BY_PACKET);
    assert_eq!((scene.starts(BY_PACKET), scene.outcomes(BY_PACKET, "started")), (1, 1));
}
