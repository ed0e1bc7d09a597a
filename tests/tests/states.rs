//! The effect of a wake on a QEMU domain in each state. Packets through a bridge and calls on the bus wake the domains,
//! with all permissions in libvirt and with restricted ones.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::machine::{Emulator, Guest, Machine, open_gate};
use wakevirt_tests::libvirt::second::{SECOND_URI, SecondLibvirtd};
use wakevirt_tests::privileged;
use wakevirt_tests::scene::{ALL_ALLOWED, LibvirtAccess, Scene};

/// Defines two tests for each function: in one, the actor is in the `libvirt` group; in the other, it has only the
/// permissions of the shipped polkit rule.
macro_rules! with_both_kinds_of_access {
    ($($function:ident)*) => { $(
        mod $function {
            use wakevirt_tests::scene::LibvirtAccess;

            #[test]
            fn with_the_group() {
                super::$function(LibvirtAccess::Group);
            }

            #[test]
            fn restricted() {
                super::$function(LibvirtAccess::Restricted);
            }
        }
    )* };
}

with_both_kinds_of_access! {
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

/// Two identical domains, one to wake with a packet and one with a call.
const BY_PACKET: &str = "by-packet";
const BY_CALL: &str = "by-call";
const BOTH: [&str; 2] = [BY_PACKET, BY_CALL];

/// Wakes one domain with a packet and the other one with a call, and checks the outcome and the reason of both.
fn assert_wakes(scene: &Scene<'_>, outcome: &str, reason: &str) {
    scene.lan.etherwake(scene.mac(BY_PACKET), &[]);
    match scene.call_wake(BY_CALL) {
        Ok(reply) => assert_eq!(reply, format!("('{outcome}',)")),
        Err(error) => {
            assert!(["failed", "migrated-away"].contains(&outcome), "{error:?}");
            assert_eq!(error.name, "org.wakevirt.Error.Failed", "{error:?}");
            assert!(error.message.contains(reason), "{error:?}");
        }
    }
    for domain in BOTH {
        let (actual, line) = scene.outcome(domain);
        assert_eq!(actual, outcome, "{line}");
        assert!(line.contains(reason), "{line}");
        if ["started", "resumed", "woken"].contains(&outcome) {
            // Capture received the packet on the bridge and on the port, but the domain was woken once.
            assert_eq!(scene.outcomes(domain, outcome), 1, "{domain}");
        }
    }
}

/// Checks the state of both domains, and how many times QEMU was started for each.
fn assert_states(scene: &Scene<'_>, state: &str, starts: usize) {
    for domain in BOTH {
        assert_eq!((scene.state(domain).as_str(), scene.starts(domain)), (state, starts), "{domain}");
    }
}

/// Two identical machines.
fn two(configure: impl Fn(Machine) -> Machine) -> Vec<Machine> {
    BOTH.iter().map(|domain| configure(Machine::new(domain))).collect()
}

fn starts_a_shut_off_domain(access: LibvirtAccess) {
    privileged!();
    let host = Host::new();
    let scene = Scene::with_access(access, &host, &two(|machine| machine), ALL_ALLOWED);
    assert_wakes(&scene, "started", "");
    assert_states(&scene, "running (booted)", 1);
}

fn starts_a_domain_after_its_qemu_was_killed(access: LibvirtAccess) {
    privileged!();
    let host = Host::new();
    let scene = Scene::with_access(access, &host, &two(|machine| machine), ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
        scene.kill_machine(domain);
        scene.wait_for_state(domain, "shut off");
        assert_eq!(scene.state(domain), "shut off (crashed)");
    }
    assert_wakes(&scene, "started", "");
    assert_states(&scene, "running (booted)", 2);
}

fn restores_a_saved_domain(access: LibvirtAccess) {
    privileged!();
    let host = Host::new();
    let scene = Scene::with_access(access, &host, &two(|machine| machine), ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
        scene.virsh(&["managedsave", domain]);
    }
    assert_wakes(&scene, "started", "it was shut off (saved)");
    assert_states(&scene, "running (restored)", 2);
}

fn restores_and_resumes_a_domain_saved_while_paused(access: LibvirtAccess) {
    privileged!();
    let host = Host::new();
    let scene = Scene::with_access(access, &host, &two(|machine| machine), ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
        scene.virsh(&["suspend", domain]);
        scene.virsh(&["managedsave", domain]);
    }
    assert_wakes(&scene, "started", "it was shut off (saved), and paused when it was saved");
    assert_states(&scene, "running (unpaused)", 2);
}

fn does_not_start_a_migrated_domain(access: LibvirtAccess) {
    privileged!();
    let host = Host::new();
    let scene = Scene::with_access(access, &host, &two(|machine| machine), ALL_ALLOWED);
    let _destination = SecondLibvirtd::start(&host);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
        scene.virsh(&["migrate", "--live", domain, SECOND_URI, "--migrateuri", "unix:///run/migration"]);
    }
    assert_wakes(&scene, "migrated-away", "");
    assert_states(&scene, "shut off (migrated)", 1);
}

fn resumes_a_paused_domain(access: LibvirtAccess) {
    privileged!();
    let host = Host::new();
    let scene = Scene::with_access(access, &host, &two(|machine| machine), ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", "--paused", domain]);
    }
    assert_wakes(&scene, "resumed", "");
    assert_states(&scene, "running (unpaused)", 1);
}

fn packets_leave_a_domain_paused_if_configured(access: LibvirtAccess) {
    privileged!();
    let host = Host::new();
    let rules = "[[allow]]\ndomain = \"*\"\npaused = \"leave\"\n";
    let scene = Scene::with_access(access, &host, &two(|machine| machine), rules);
    for domain in BOTH {
        scene.virsh(&["start", "--paused", domain]);
    }
    scene.packet(BY_PACKET, 1);
    let line = scene.assert_outcome(BY_PACKET, "not-allowed");
    assert!(line.contains("leave"), "{line}");
    assert_eq!(scene.state(BY_PACKET), "paused (user)");
    // Rules apply to packets only.
    assert_eq!(scene.call_wake(BY_CALL).unwrap(), "('resumed',)");
    assert_eq!(scene.state(BY_CALL), "running (unpaused)");
}

fn does_not_resume_a_domain_with_an_io_error(access: LibvirtAccess) {
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
    let scene = Scene::with_access(access, &host, &machines, ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
        scene.wait_for_state(domain, "paused");
    }
    assert_wakes(&scene, "failed", "I/O error");
    assert_states(&scene, "paused (I/O error)", 1);
}

fn does_not_resume_a_domain_paused_by_its_watchdog(access: LibvirtAccess) {
    privileged!();
    let host = Host::new();
    let scene = Scene::with_access(
        access,
        &host,
        &two(|machine| machine.guest(Guest::TriggersWatchdog)),
        ALL_ALLOWED,
    );
    for domain in BOTH {
        scene.virsh(&["start", domain]);
        scene.wait_for_state(domain, "paused");
    }
    assert_wakes(&scene, "failed", "watchdog");
    assert_states(&scene, "paused (watchdog)", 1);
}

fn wakes_a_suspended_guest(access: LibvirtAccess) {
    privileged!();
    let host = Host::new();
    let scene =
        Scene::with_access(access, &host, &two(|machine| machine.guest(Guest::Suspends)), ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
        scene.wait_for_state(domain, "pmsuspended");
    }
    assert_wakes(&scene, "woken", "");
    // libvirt changes the state when QEMU's event arrives, which follows the reply.
    for domain in BOTH {
        scene.wait_for_state(domain, "running");
    }
    assert_states(&scene, "running (event wakeup)", 1);
}

fn starts_a_domain_after_its_shutdown(access: LibvirtAccess) {
    privileged!();
    let host = Host::new();
    let machines = two(|machine| machine.guest(Guest::PowersOff).emulator(Emulator::IgnoresSigterm));
    let scene = Scene::with_access(access, &host, &machines, ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
        scene.shut_down(domain);
    }
    scene.lan.etherwake(scene.mac(BY_PACKET), &[]);
    let reply = std::thread::scope(|scope| {
        let reply = scope.spawn(|| scene.call_wake(BY_CALL));
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

fn does_not_start_a_preserved_crashed_domain(access: LibvirtAccess) {
    privileged!();
    let host = Host::new();
    let scene = Scene::with_access(access, &host, &two(|machine| machine.guest(Guest::Panics)), ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
        scene.wait_for_state(domain, "crashed");
    }
    assert_wakes(&scene, "failed", "crashed");
    assert_states(&scene, "crashed (panicked)", 1);
}

fn leaves_a_running_domain_alone(access: LibvirtAccess) {
    privileged!();
    let host = Host::new();
    let scene = Scene::with_access(access, &host, &two(|machine| machine), ALL_ALLOWED);
    for domain in BOTH {
        scene.virsh(&["start", domain]);
    }
    assert_wakes(&scene, "already-running", "");
    assert_states(&scene, "running (booted)", 1);
}

#[test]
fn a_slow_start_does_not_delay_other_domains() {
    privileged!();
    let host = Host::new();
    let machines =
        [Machine::new(BY_PACKET).emulator(Emulator::Gated), Machine::new(BY_CALL), Machine::new("third")];
    let scene = Scene::new(&host, &machines, ALL_ALLOWED);
    scene.lan.etherwake(scene.mac(BY_PACKET), &[]);
    scene.wait_for_state(BY_PACKET, "paused");
    assert_eq!(scene.state(BY_PACKET), "paused (starting up)");

    scene.lan.etherwake(scene.mac("third"), &[]);
    assert_eq!(scene.call_wake(BY_CALL).unwrap(), "('started',)");
    scene.assert_outcome("third", "started");
    assert_eq!(scene.decisions(BY_PACKET), 0, "the other wakes waited for the slow one");

    // Later packets for the slow domain join its wake.
    scene.packet(BY_PACKET, 1);
    scene.packet(BY_PACKET, 2);
    open_gate(&host);
    scene.assert_outcome(BY_PACKET, "started");
    assert_eq!(scene.state(BY_PACKET), "running (booted)");
    scene.wait_until_idle(BY_PACKET);
    assert_eq!((scene.starts(BY_PACKET), scene.outcomes(BY_PACKET, "started")), (1, 1));
}
