//! Domains that the `autostart` key names start once after each boot.

use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::machine::Machine;
use wakevirt_tests::privileged;
use wakevirt_tests::scene::{ALL_ALLOWED, Scene};

const VM: &str = "vm1";
const OTHER: &str = "vm2";

#[test]
fn starts_domains_after_a_boot_and_not_after_a_restart() {
    privileged!();
    let host = Host::new();
    let config = format!("autostart = [\"{VM}\", \"missing\"]\n{ALL_ALLOWED}");
    let mut scene = Scene::new(&host, &[Machine::new(VM), Machine::new(OTHER)], &config);
    let log = scene.actor().log();
    let _ = log.wait_for("autostart: no domain has the name or UUID \"missing\"; virsh --connect");
    let _ = log.wait_for(&format!("started: domain \"{VM}\", autostart: it was shut off"));
    scene.wait_for_state(VM, "running");

    // A user switches the domain off. It stays off when libvirt or the actor is restarted.
    scene.virsh(&["destroy", VM]);
    scene.libvirtd.kill();
    scene.libvirtd.start_again();
    let _ = scene.actor().log().wait_for_nth("connected to", 2);
    scene.kill_actor();
    scene.start_actor_again();
    let _ = scene.actor().log().wait_for("connected to");
    // Wakes start in the order in which they were requested.
    scene.packet(OTHER, 1);
    scene.assert_outcome(OTHER, "started");
    assert_eq!(scene.starts(VM), 1);

    // /run is empty after a boot.
    scene.kill_actor();
    host.sh("rm -r /run/wakevirt-actor");
    scene.start_actor_again();
    scene.wait_for_state(VM, "running");
    assert_eq!(scene.starts(VM), 2);
    let signal = scene.assert_outcome(VM, "started");
    assert!(signal.contains("'trigger': <'autostart'>"), "{signal}");
}
