//! Wakes while a component is down, slow, hung or killed: no wake is lost without a report, and none is performed twice.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use wakevirt_protocol::bus::ACTOR_INTERFACE;
use wakevirt_tests::host::{Host, User};
use wakevirt_tests::libvirt::machine::{Emulator, Guest, Machine, close_gate, open_gate};
use wakevirt_tests::scene::{ALL_ALLOWED, Scene};
use wakevirt_tests::{privileged, wait};

const VM: &str = "vm1";
const OTHER: &str = "vm2";

/// The `hold` setting in the tests in which this time passes.
const HOLD: Duration = Duration::from_secs(2);
/// The `cool-down` setting. A busy machine needs seconds for the packet that must arrive during it.
const COOL_DOWN: Duration = Duration::from_secs(12);
/// The usual timeout of a D-Bus call. The reply must arrive before it.
const DBUS_TIMEOUT: Duration = Duration::from_secs(25);

/// A scene with one domain, which is shut off. Any packet for it wakes it.
fn one_machine(host: &Host) -> Scene<'_> {
    Scene::new(host, &[Machine::new(VM)], ALL_ALLOWED)
}

/// A scene with two such domains.
fn two_machines(host: &Host) -> Scene<'_> {
    Scene::new(host, &[Machine::new(VM), Machine::new(OTHER)], ALL_ALLOWED)
}

/// A scene with one domain that starts when the gate is open.
fn gated_machine(host: &Host) -> Scene<'_> {
    Scene::new(host, &[Machine::new(VM).emulator(Emulator::Gated)], ALL_ALLOWED)
}

/// Waits until a wake of the domain is pending, and checks that the actor has reported no outcome.
fn wait_until_pending(scene: &Scene<'_>, domain: &str) {
    scene.wait_until_active(domain);
    assert_eq!(scene.decisions(domain), 0);
}

/// Waits until the domain is running and no wake is pending, and checks how many times it was started.
fn check_running(scene: &Scene<'_>, domain: &str, starts: usize) {
    scene.wait_for_state(domain, "running");
    scene.wait_until_idle(domain);
    assert_eq!((scene.state(domain).as_str(), scene.starts(domain)), ("running (booted)", starts));
}

#[test]
fn waits_for_a_start_by_another_client() {
    privileged!();
    let host = Host::new();
    let scene = gated_machine(&host);
    thread::scope(|scope| {
        scope.spawn(|| scene.virsh(&["start", VM]));
        scene.wait_for_state(VM, "paused");
        scene.packet(VM, 1);
        scene.wait_until_active(VM);
        assert_eq!((scene.decisions(VM), scene.state(VM).as_str()), (0, "paused (starting up)"));
        open_gate(&host);
    });
    scene.assert_outcome(VM, "already-running");
    check_running(&scene, VM, 1);
}

#[test]
fn holds_a_wake_until_libvirt_restarts() {
    privileged!();
    let host = Host::new();
    let mut scene = two_machines(&host);
    scene.libvirtd.kill();
    scene.packet(VM, 1);
    scene.packet(VM, 2);
    let mac = format!("'{}'", scene.mac(OTHER));
    let reply = thread::scope(|scope| {
        let call = scope.spawn(|| host.call(User::Root, ACTOR_INTERFACE, "Wake", &[&mac]));
        wait_until_pending(&scene, VM);
        scene.libvirtd.start_again();
        call.join().unwrap()
    });
    assert_eq!(reply.unwrap(), "('started',)");
    for domain in [VM, OTHER] {
        scene.assert_outcome(domain, "started");
        check_running(&scene, domain, 1);
        assert_eq!(scene.outcomes(domain, "started"), 1);
    }
}

#[test]
fn caller_gets_the_reply_held_while_libvirt_is_down() {
    privileged!();
    let host = Host::new();
    let mut scene = one_machine(&host);
    scene.libvirtd.kill();
    let _ = scene.actor().log().wait_for("lost: ");
    let explanation = scene.explain(VM);
    assert!(
        explanation.contains("(true, ") && explanation.contains("would be held for up to 1m"),
        "{explanation}"
    );
    let called = Instant::now();
    assert_eq!(scene.call_wake(VM).unwrap(), "('held',)");
    assert!(called.elapsed() < DBUS_TIMEOUT, "{:?}", called.elapsed());
    scene.libvirtd.start_again();
    scene.assert_outcome(VM, "started");
    check_running(&scene, VM, 1);
}

#[test]
fn a_held_wake_expires() {
    privileged!();
    let host = Host::new();
    let config = format!("hold = \"{}s\"\n{ALL_ALLOWED}", HOLD.as_secs());
    let mut scene = Scene::new(&host, &[Machine::new(VM)], &config);
    scene.libvirtd.kill();
    let _ = scene.actor().log().wait_for("lost: ");
    let sent = Instant::now();
    scene.packet(VM, 1);
    let line = scene.assert_outcome(VM, "expired");
    assert!(sent.elapsed() >= HOLD, "{line}");
    scene.libvirtd.start_again();
    // The expired wake is not performed later. A new packet wakes the domain.
    let _ = scene.actor().log().wait_for_nth("connected to", 2);
    assert_eq!(scene.state(VM), "shut off (unknown)");
    scene.packet(VM, 2);
    scene.wait_for_outcome(VM, "started", 1);
    scene.wait_until_idle(VM);
    assert_eq!((scene.starts(VM), scene.outcomes(VM, "started")), (1, 1));
}

#[test]
fn starts_a_domain_once_if_the_actor_is_killed() {
    privileged!();
    let host = Host::new();
    let mut scene = gated_machine(&host);
    scene.packet(VM, 1);
    scene.wait_for_state(VM, "paused");
    // The actor has called libvirt, and is killed before the reply.
    scene.kill_actor();
    open_gate(&host);
    scene.start_actor_again();
    check_running(&scene, VM, 1);
    assert!(scene.outcomes(VM, "started") <= 1);
}

/// After a restart, the actor reports the start, although the `hold` time is over and the previous process requested
/// the start.
#[test]
fn a_slow_start_does_not_expire_if_the_actor_is_killed() {
    privileged!();
    let host = Host::new();
    let config = format!("hold = \"{}s\"\n{ALL_ALLOWED}", HOLD.as_secs());
    let mut scene = Scene::new(&host, &[Machine::new(VM).emulator(Emulator::Gated)], &config);
    // A packet that the bridge does not receive, so that there is no copy of it for the next process.
    scene.lan.etherwake(scene.mac(VM), &[]);
    scene.wait_for_state(VM, "paused");
    scene.kill_actor();
    thread::sleep(HOLD);
    open_gate(&host);
    scene.wait_for_state(VM, "running");
    scene.start_actor_again();
    let decision = scene.actor().log().wait_for(&format!(": domain \"{VM}\", "));
    assert!(decision.contains("started: "), "{decision}");
    assert_eq!((scene.state(VM).as_str(), scene.starts(VM)), ("running (booted)", 1));
}

#[test]
fn a_finished_wake_is_not_repeated_after_a_restart() {
    privileged!();
    let host = Host::new();
    let mut scene = two_machines(&host);
    scene.packet(VM, 1);
    scene.assert_outcome(VM, "started");
    scene.virsh(&["destroy", VM]);
    scene.kill_actor();
    scene.start_actor_again();
    // The actor handles packets in the order of their announcement, so the old packet would come first.
    scene.packet(OTHER, 1);
    scene.assert_outcome(OTHER, "started");
    scene.wait_until_idle(VM);
    assert_eq!((scene.state(VM).as_str(), scene.starts(VM)), ("shut off (destroyed)", 1));
}

#[test]
fn repeats_a_start_if_libvirt_is_killed_during_it() {
    privileged!();
    let host = Host::new();
    let mut scene = gated_machine(&host);
    scene.packet(VM, 1);
    scene.wait_for_state(VM, "paused");
    scene.libvirtd.kill();
    scene.libvirtd.start_again();
    open_gate(&host);
    scene.assert_outcome(VM, "started");
    scene.wait_for_state(VM, "running");
    scene.wait_until_idle(VM);
    assert_eq!((scene.state(VM).as_str(), scene.outcomes(VM, "started")), ("running (booted)", 1));
}

#[test]
fn a_woken_domain_cools_down() {
    privileged!();
    let host = Host::new();
    let config = format!("cool-down = \"{}s\"\n{ALL_ALLOWED}", COOL_DOWN.as_secs());
    let scene = Scene::new(&host, &[Machine::new(VM)], &config);
    scene.packet(VM, 1);
    scene.assert_outcome(VM, "started");
    let woken = Instant::now();
    scene.virsh(&["destroy", VM]);
    scene.packet(VM, 2);
    scene.wait_for_outcome(VM, "cooling-down", 1);
    assert_eq!(scene.state(VM), "shut off (destroyed)");
    // The ignored packet does not extend the cool-down.
    thread::sleep(COOL_DOWN.saturating_sub(woken.elapsed()));
    scene.packet(VM, 3);
    scene.wait_for_outcome(VM, "started", 2);
    // The cool-down does not apply to callers.
    scene.virsh(&["destroy", VM]);
    assert_eq!(scene.call_wake(VM).unwrap(), "('started',)");
}

#[test]
fn holds_a_packet_until_the_first_connection_to_libvirt() {
    privileged!();
    let host = Host::new();
    let mut scene = one_machine(&host);
    scene.kill_actor();
    scene.libvirtd.kill();
    scene.start_actor_again();
    // The actor cannot know yet which domain has the MAC address, and `Explain` says so.
    scene.packet(VM, 1);
    scene.wait_until_packet_held(VM);
    assert_eq!(scene.decisions(VM), 0);
    let explanation = scene.explain(VM);
    assert!(explanation.contains("unavailable: qemu:///system"), "{explanation}");
    assert!(explanation.contains("would be held for up to 1m"), "{explanation}");
    let error = host.call(User::Root, ACTOR_INTERFACE, "ListDomains", &[]).unwrap_err();
    assert_eq!(error.name, "org.wakevirt.Error.HypervisorUnavailable", "{error:?}");
    assert!(error.message.contains("qemu:///system"), "{error:?}");
    scene.libvirtd.start_again();
    scene.assert_outcome(VM, "started");
    check_running(&scene, VM, 1);
}

/// The actor abandons such a wake, because the wake itself could be the cause of the crashes.
#[test]
fn a_wake_pending_during_two_crashes_is_not_retried() {
    privileged!();
    let host = Host::new();
    let mut scene = two_machines(&host);
    scene.libvirtd.kill();
    // A packet that the bridge does not receive. The first crash could come before a copy of it has arrived.
    scene.lan.etherwake(scene.mac(VM), &[]);
    wait_until_pending(&scene, VM);
    for _ in 0..2 {
        scene.kill_actor();
        scene.start_actor_again();
        let _ = scene.actor().log().wait_for("providing org.wakevirt.Actor1");
    }
    let _ = scene.actor().log().wait_for(&format!("wake of \"{VM}\" is abandoned"));
    let history = host.call(User::Root, ACTOR_INTERFACE, "History", &["uint32 10"]).unwrap();
    assert!(history.contains("'failed'") && history.contains("crashed twice"), "{history}");
    scene.libvirtd.start_again();
    // Other domains can still be woken.
    scene.packet(OTHER, 2);
    check_running(&scene, OTHER, 1);
    assert_eq!((scene.state(VM).as_str(), scene.starts(VM)), ("shut off (unknown)", 0));
}

#[test]
fn holds_a_wake_while_libvirt_hangs() {
    privileged!();
    let host = Host::new();
    let scene = one_machine(&host);
    scene.libvirtd.process().signal(Signal::SIGSTOP);
    scene.packet(VM, 1);
    scene.packet(VM, 2);
    wait_until_pending(&scene, VM);
    scene.libvirtd.process().signal(Signal::SIGCONT);
    scene.assert_outcome(VM, "started");
    check_running(&scene, VM, 1);
    assert_eq!(scene.outcomes(VM, "started"), 1);
}

#[test]
fn follows_a_new_announcer_and_does_not_repeat_old_packets() {
    privileged!();
    let host = Host::new();
    let mut scene = two_machines(&host);
    scene.packet(VM, 1);
    scene.assert_outcome(VM, "started");
    scene.virsh(&["destroy", VM]);
    scene.restart_capture();
    // The new announcer's sequence starts at one.
    scene.packet(OTHER, 1);
    scene.assert_outcome(OTHER, "started");
    check_running(&scene, OTHER, 1);
    assert_eq!((scene.state(VM).as_str(), scene.starts(VM)), ("shut off (destroyed)", 1));
}

#[test]
fn wakes_domains_for_packets_announced_while_the_actor_was_down() {
    privileged!();
    let host = Host::new();
    let mut scene = two_machines(&host);
    // The actor misses packets for both domains, and a second one for the second domain.
    scene.kill_actor();
    scene.packet(VM, 1);
    scene.packet(OTHER, 1);
    scene.packet(OTHER, 2);
    scene.start_actor_again();
    for domain in [VM, OTHER] {
        check_running(&scene, domain, 1);
    }
}

#[test]
fn a_waiting_wake_survives_an_actor_restart() {
    privileged!();
    let host = Host::new();
    let machine = Machine::new(VM).guest(Guest::PowersOff).emulator(Emulator::IgnoresSigterm);
    let mut scene = Scene::new(&host, &[machine], ALL_ALLOWED);
    scene.virsh(&["start", VM]);
    scene.shut_down(VM);
    scene.packet(VM, 1);
    scene.wait_until_active(VM);
    scene.kill_actor();
    scene.start_actor_again();
    scene.kill_machine(VM);
    check_running(&scene, VM, 2);
}

/// If a domain was saved while it was paused, libvirt restores it as paused. The reason is "migrating" until the domain
/// is resumed.
#[test]
fn resumes_a_domain_that_another_client_restored_paused() {
    privileged!();
    let host = Host::new();
    let scene = one_machine(&host);
    scene.virsh(&["start", VM]);
    scene.virsh(&["suspend", VM]);
    scene.virsh(&["managedsave", VM]);
    scene.virsh(&["start", VM]);
    assert_eq!(scene.state(VM), "paused (migrating)");
    scene.packet(VM, 1);
    scene.assert_outcome(VM, "resumed");
    assert_eq!(scene.state(VM), "running (unpaused)");
}

#[test]
fn resumes_a_restored_domain_after_the_actor_is_killed() {
    privileged!();
    let host = Host::new();
    let mut scene = gated_machine(&host);
    open_gate(&host);
    scene.virsh(&["start", VM]);
    scene.virsh(&["suspend", VM]);
    scene.virsh(&["managedsave", VM]);
    close_gate(&host);
    scene.packet(VM, 1);
    scene.wait_for_state(VM, "paused");
    scene.kill_actor();
    open_gate(&host);
    wait::until_true("libvirt to restore the domain", || scene.state(VM) == "paused (migrating)");
    scene.start_actor_again();
    scene.wait_for_state(VM, "running");
    assert_eq!(scene.starts(VM), 2);
}
