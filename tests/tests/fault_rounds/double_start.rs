//! The actor is killed while libvirt starts a domain, and the domain is switched off as soon as it runs: the next actor
//! must recognise that the domain has been started.

use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use virt::connect::Connect;
use virt::domain::{Domain, DomainState};
use virt::enumutil::Enum;
use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::{QEMU, qemu_domain};
use wakevirt_tests::wait;

use crate::seed::{Random, in_rounds};
use crate::system::{Part, RECOVERY, System, mac, name};

const DOMAIN: usize = 0;
/// The maximum time between the start and the kill. The actor usually records the end of the wake within this time.
const WINDOW: Duration = Duration::from_millis(4);

/// The domain, through a connection of this process.
fn domain(host: &Host) -> Domain {
    let socket = host.path("/run/libvirt/libvirt-sock");
    let uri = format!("qemu+unix:///system?socket={}", socket.display());
    let connection = Connect::open(Some(&uri)).expect("libvirtd accepts connections");
    connection.lookup_domain_by_name(&name(DOMAIN)).expect("the domain is defined")
}

fn is_running(domain: &Domain) -> bool {
    domain.info().is_ok_and(|info| info.state == Enum::Known(DomainState::Running))
}

/// Runs rounds, and returns how often the domain was started twice. In each round, `prepare` is called while the domain is
/// off.
fn double_starts(rounds: usize, prepare: impl Fn(&System<'_>)) -> usize {
    let mut random = Random::new();
    let host = Host::new();
    let mut system = System::new(&host, 1);
    let mut twice = 0;
    for _ in 0..rounds {
        prepare(&system);
        let domain = domain(&host);
        let starts = system.starts(DOMAIN);
        let delay = random.time_below(WINDOW);
        system.send(DOMAIN);
        let deadline = Instant::now() + RECOVERY;
        while !is_running(&domain) {
            assert!(Instant::now() < deadline, "the domain does not start:\n{}", system.logs());
        }
        scope(|scope| {
            scope.spawn(|| {
                sleep(delay);
                system.kill(Part::Actor);
            });
            // The call fails if it interrupts the start.
            wait::until_true("the domain to be off", || domain.destroy().is_ok() || !is_running(&domain));
        });
        let state = system.libvirtd.virsh(QEMU, &["domstate", "--reason", &name(DOMAIN)]);
        system.start(Part::Actor);
        system.wait_until_ready();
        system.wait_until_idle(DOMAIN);
        match system.starts(DOMAIN) - starts {
            1 => {}
            2 => {
                println!("started twice, although it was {state}");
                twice += 1;
            }
            number => panic!("started {number} times:\n{}", system.logs()),
        }
        if !system.is_off(DOMAIN) {
            system.destroy(DOMAIN);
        }
    }
    twice
}

/// The reason for which the domain was off before differs from the reason afterwards. The actor compares them.
fn first_start(rounds: usize) {
    let twice = double_starts(rounds, |system| {
        // A new definition has no reason.
        system.libvirtd.virsh(QEMU, &["undefine", &name(DOMAIN)]);
        system.libvirtd.define(QEMU, &qemu_domain(&name(DOMAIN), &mac(DOMAIN), "br0"));
        system.wait_until_known(DOMAIN);
    });
    assert!(10 * twice <= rounds, "{twice} of {rounds} started twice");
    println!(
        "soak: the actor is killed during a start, the domain is switched off at once, and was off for another reason \
         before | {rounds} rounds | started twice: {twice}"
    );
}

/// The domain was already off for the same reason before: only an event shows that it has run.
fn later_start(rounds: usize) {
    let twice = double_starts(rounds, |_| {});
    // A few rounds show no rate.
    assert!(rounds < 10 || 3 * twice <= rounds, "{twice} of {rounds} started twice");
    println!(
        "soak: the actor is killed during a start, the domain is switched off at once, and was off for the same reason \
         before | {rounds} rounds | started twice: {twice}"
    );
}

in_rounds! {
    fn first(3, 50) { first_start }
    fn later(3, 50) { later_start }
}
