//! Wakes of domains whose state is changing, and of several domains at the same time.

use std::thread;
use std::time::Duration;

use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::Libvirtd;
use wakevirt_tests::libvirt::machine::{Emulator, GATE, Machine, open_gate};
use wakevirt_tests::scene::{ALL_ALLOWED, Scene};
use wakevirt_tests::{privileged, wait};

const VM: &str = "vm1";
/// The `hold` setting.
const HOLD: Duration = Duration::from_secs(3);

/// Makes libvirt compress memory with the gate.
const THROUGH_GATE: &str =
    "save_image_format = \"gzip\"\ndump_image_format = \"gzip\"\nsnapshot_image_format = \"gzip\"\n";

/// A scene with a running domain and the gate: a save, dump or snapshot waits until the gate opens.
fn with_gate(host: &Host) -> Scene<'_> {
    // The program with which libvirt compresses a guest's memory. Until the gate is open, the domain remains in its
    // state.
    let script = format!("#!/bin/sh\nuntil [ -e {GATE} ]; do sleep 0.05; done\nexec /run/gate/gzip \"$@\"\n");
    host.write("/run/gate/gate", &script);
    host.sh("cp /usr/bin/gzip /run/gate/gzip; chmod 755 /run/gate/gate; mount --bind /run/gate/gate /usr/bin/gzip");
    let scene = Scene::on(Libvirtd::start_with(host, THROUGH_GATE), &[Machine::new(VM)], ALL_ALLOWED);
    scene.virsh(&["start", VM]);
    scene
}

/// Runs this virsh(1) command, and sends a packet while the domain is in this state. Checks that the wake waits until
/// the command has ended, and checks the outcome. Returns the signal with the outcome.
fn assert_wake_waits(scene: &Scene<'_>, host: &Host, command: &[&str], state: &str, outcome: &str) -> String {
    thread::scope(|scope| {
        scope.spawn(|| scene.virsh(command));
        wait::until_true(state, || scene.state(VM) == state);
        scene.packet(VM, 1);
        scene.wait_until_active(VM);
        assert_eq!((scene.decisions(VM), scene.state(VM).as_str()), (0, state));
        open_gate(host);
    });
    scene.assert_outcome(VM, outcome)
}

#[test]
fn starts_a_domain_after_its_save() {
    privileged!();
    let host = Host::new();
    let scene = with_gate(&host);
    assert_wake_waits(&scene, &host, &["managedsave", VM], "paused (saving)", "started");
    // The saved state is complete.
    assert_eq!((scene.state(VM).as_str(), scene.starts(VM)), ("running (restored)", 2));
    assert_eq!(scene.outcomes(VM, "started"), 1);
}

#[test]
fn does_not_resume_a_domain_during_a_dump() {
    privileged!();
    let host = Host::new();
    let scene = with_gate(&host);
    let dump = ["dump", VM, "/run/gate/dump"];
    let line = assert_wake_waits(&scene, &host, &dump, "paused (dumping)", "already-running");
    // The actor found the domain running, and did not resume it.
    assert!(line.contains("'the domain is already running'"), "{line}");
    assert_eq!((scene.state(VM).as_str(), scene.starts(VM)), ("running (unpaused)", 1));
}

#[test]
fn starts_a_domain_after_its_crash_dump() {
    privileged!();
    let host = Host::new();
    let scene = with_gate(&host);
    let dump = ["dump", "--crash", VM, "/run/gate/dump"];
    assert_wake_waits(&scene, &host, &dump, "paused (dumping)", "started");
    assert_eq!((scene.state(VM).as_str(), scene.starts(VM)), ("running (booted)", 2));
}

#[test]
fn does_not_resume_a_domain_during_a_snapshot() {
    privileged!();
    let host = Host::new();
    let scene = with_gate(&host);
    let snapshot = ["snapshot-create-as", VM, "--memspec", "file=/run/gate/memory,snapshot=external"];
    let line = assert_wake_waits(&scene, &host, &snapshot, "paused (creating snapshot)", "already-running");
    // The actor found the domain running, and did not resume it.
    assert!(line.contains("'the domain is already running'"), "{line}");
    assert_eq!((scene.state(VM).as_str(), scene.starts(VM)), ("running (unpaused)", 1));
}

/// Four domains that start slowly. Together, they must not delay other domains of the same connection.
const SLOW: [&str; 4] = ["slow1", "slow2", "slow3", "slow4"];
/// A fifth domain that starts slowly, and two whose wakes must wait.
const MORE: [&str; 3] = ["slow5", "late1", "late2"];

#[test]
fn four_slow_starts_do_not_delay_other_domains_and_further_wakes_queue() {
    privileged!();
    let host = Host::new();
    let slow = SLOW.iter().chain(&MORE[..1]).map(|name| Machine::new(name).emulator(Emulator::Gated));
    let machines: Vec<_> = slow.chain([VM, MORE[1], MORE[2]].map(Machine::new)).collect();
    let config = format!("hold = \"{}s\"\n{ALL_ALLOWED}", HOLD.as_secs());
    let scene = Scene::new(&host, &machines, &config);
    let mut wire = scene.lan.injector();
    let all_start = |domains: &[&str]| {
        wait::until_true("the domains to start at the same time", || {
            let paused = scene.virsh(&["list", "--state-paused", "--name"]);
            domains.iter().all(|domain| paused.contains(domain))
        });
    };
    SLOW.iter().for_each(|domain| wire.send(&scene.frame(domain, 1)));
    all_start(&SLOW);
    wire.send(&scene.frame(VM, 1));
    scene.assert_outcome(VM, "started");
    for domain in SLOW {
        assert_eq!(scene.decisions(domain), 0, "{VM} waited for {domain}");
    }

    wire.send(&scene.frame(MORE[0], 1));
    all_start(&MORE[..1]);
    MORE[1..].iter().for_each(|domain| wire.send(&scene.frame(domain, 1)));
    let _ = scene.actor().log().wait_for("all connections to qemu:///system are in use; queued wakes: 2");
    let explanation = scene.explain(MORE[2]);
    assert!(
        explanation.contains("(other wakes queued for a connection to qemu:///system: 2)"),
        "{explanation}"
    );
    // The time that a wake waits for other wakes does not count towards `hold`.
    thread::sleep(HOLD);
    open_gate(&host);
    for domain in SLOW.iter().chain(&MORE) {
        scene.assert_outcome(domain, "started");
        assert_eq!((scene.state(domain).as_str(), scene.starts(domain)), ("running (booted)", 1));
    }
    let signal = scene.assert_outcome(MORE[2], "started");
    assert!(signal.contains("the wake was queued for "), "{signal}");
    let _ = scene.actor().log().wait_for("wakes are no longer queued for a connection to qemu:///system");
    for domain in SLOW.iter().chain(&MORE) {
        assert_eq!(scene.outcomes(domain, "started"), 1, "{domain}");
    }
}
