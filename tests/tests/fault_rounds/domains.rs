//! Domains change while their wakes are in progress.

use std::thread::sleep;
use std::time::Duration;

use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::second::{SECOND_URI, SecondLibvirtd};
use wakevirt_tests::libvirt::{QEMU, define_all, qemu_domain};

use crate::round::Count;
use crate::seed::{Random, in_rounds};
use crate::system::{System, mac, name};

/// The domain that changes.
const DOMAIN: usize = 0;
/// The maximum time between the packet and the change.
const WINDOW: Duration = Duration::from_millis(400);

/// What happens to the domain.
const CHANGES: [&str; 6] =
    ["migrated", "undefined", "with another address", "renamed", "without its bridge", "saved"];

/// Runs a virsh(1) command that may fail, because the domain is in another state by then.
fn try_virsh(system: &System<'_>, arguments: &[&str]) {
    let mut virsh = system.host.command("virsh");
    let _ = virsh.args(["-q", "-c", QEMU]).args(arguments).output();
}

fn apply(system: &System<'_>, change: &str) {
    let domain = name(DOMAIN);
    match change {
        "undefined" => try_virsh(system, &["undefine", "--managed-save", &domain]),
        "with another address" => {
            let xml = qemu_domain(&domain, "52:54:00:ff:00:01", "br0");
            let uuid = system.libvirtd.virsh(QEMU, &["domuuid", &domain]);
            let with_uuid = xml.replace("<name>", &format!("<uuid>{}</uuid><name>", uuid.trim()));
            system.libvirtd.define(QEMU, &with_uuid);
        }
        "migrated" => {
            try_virsh(
                system,
                &["migrate", "--live", &domain, SECOND_URI, "--migrateuri", "unix:///run/migration"],
            );
        }
        "renamed" => try_virsh(system, &["domrename", &domain, "renamed"]),
        "without its bridge" => drop(system.host.sh("ip link delete br0")),
        _ => try_virsh(system, &["managedsave", &domain]),
    }
}

/// Restores the domain, which is off afterwards.
fn restore(system: &System<'_>) {
    system.host.sh("ip link show br0 >/dev/null 2>&1 || { ip link add br0 type bridge; ip link set br0 up; }
                    ip link set port0 master br0");
    let mut destroy = system.host.command("virsh");
    let _ = destroy.args(["-q", "-c", SECOND_URI, "destroy", &name(DOMAIN)]).output();
    system.host.sh("rm -f /run/migration");
    for name in [&*name(DOMAIN), "renamed"] {
        try_virsh(system, &["destroy", name]);
        try_virsh(system, &["undefine", "--managed-save", name]);
    }
    system.libvirtd.define(QEMU, &qemu_domain(&name(DOMAIN), &mac(DOMAIN), "br0"));
    system.wait_until_known(DOMAIN);
}

/// Each wake ends once. Afterwards, the domain can be woken.
fn change(rounds: usize) {
    let mut random = Random::new();
    let host = Host::new();
    let mut system = System::new(&host, 1);
    let _destination = SecondLibvirtd::start(&host);
    let mut count = Count::default();
    for _ in 0..rounds {
        let change = random.choose(&CHANGES);
        let (starts, outcomes) = (system.starts(DOMAIN), system.all_outcomes().len());
        let is_first = random.below(4) > 0;
        if is_first {
            system.send(DOMAIN);
            sleep(random.time_below(WINDOW));
        }
        apply(&system, change);
        if !is_first {
            system.send(DOMAIN);
        }
        system.wait_until_handled();
        system.wait_until_idle(DOMAIN);
        restore(&system);
        let new = system.all_outcomes().split_off(outcomes);
        // If the address is unknown by then, the packet has no outcome.
        assert!(new.len() <= 1, "{change}: {new:?}\n{}", system.logs());
        let outcome = new.first().map_or("unknown address", String::as_str);
        assert!(system.starts(DOMAIN) - starts <= 1, "{change}:\n{}", system.logs());
        assert!(
            ["started", "failed", "already-running", "migrated-away", "unknown address"].contains(&outcome),
            "{change}: {outcome}\n{}",
            system.logs()
        );
        count.add(&format!("{change}: {outcome}"));
        system.wake(DOMAIN);
        system.destroy(DOMAIN);
    }
    count.print(
        "a domain is undefined, redefined, renamed, saved or migrated, or its bridge is deleted, during its wake",
    );
}

/// Domains are defined while packets arrive.
fn define_many(rounds: usize) {
    let host = Host::new();
    let mut system = System::new(&host, 2);
    let mut count = Count::default();
    let numbers = 10..10 + 100 * rounds;
    let domain = |number| qemu_domain(&name(number), &mac(number), "br0");
    std::thread::scope(|scope| {
        let definitions = scope.spawn(|| define_all(&host, QEMU, numbers.clone().map(domain)));
        let mut wakes = 0;
        while !definitions.is_finished() || wakes == 0 {
            for domain in 0..2 {
                system.wake(domain);
                system.destroy(domain);
                count.add("woken meanwhile");
            }
            wakes += 1;
        }
        definitions.join().expect("all domains are defined");
    });
    // The actor knows the domain that was defined last.
    system.wait_until_known(numbers.end - 1);
    count.print(&format!("{} domains are defined while packets arrive", 100 * rounds));
}

in_rounds! {
    fn changed(1, 100) { change }
    fn defined(1, 50) { define_many }
}
