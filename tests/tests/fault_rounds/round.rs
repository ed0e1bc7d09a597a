//! One round: a packet arrives before, during and after a fault.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use wakevirt_tests::host::Host;
use wakevirt_tests::wait;

use crate::seed::Random;
use crate::system::{HOLD, Part, System, name};

/// The domains that the packets before, during and after the fault wake.
const BEFORE: usize = 0;
pub const DURING: usize = 1;
const AFTER: usize = 2;
/// The number of domains that a round needs.
pub const DOMAINS: usize = 3;

/// The maximum time between the packet and the fault. A wake takes less than half of it on an idle machine.
const WINDOW: Duration = Duration::from_millis(400);
/// The time in which the actor's log contains the outcome of a wake that has ended, on a busy machine.
const LOG_TIME: Duration = Duration::from_secs(2);

/// What happened to the packets that arrived during faults, and how often.
#[derive(Debug, Default)]
pub struct Count(BTreeMap<String, usize>);

impl Count {
    pub fn add(&mut self, what: &str) {
        *self.0.entry(what.to_owned()).or_default() += 1;
    }

    /// Prints a row for the table of `make soak`.
    pub fn print(&self, what: &str) {
        let rounds: usize = self.0.values().sum();
        let counts: Vec<_> = self.0.iter().map(|(what, number)| format!("{what}: {number}")).collect();
        println!("soak: {what} | {rounds} rounds | {}", counts.join(", "));
    }
}

/// A fault, and what ends it.
pub struct Fault<'fault> {
    pub description: String,
    pub begin: &'fault mut dyn FnMut(&mut System<'_>, &mut Random),
    /// Afterwards, all components run, but need not be ready.
    pub end: &'fault mut dyn FnMut(&mut System<'_>, &mut Random),
    /// Whether nobody remembers an announced packet after the fault, such as when capture and the actor are killed.
    pub forgets: bool,
    /// Whether capture can miss a packet, because it is not running or its interface is down.
    pub misses: bool,
    /// Whether the fault can make a start fail, other than by killing libvirtd.
    pub interrupts: bool,
}

/// Rounds on one system.
pub struct Series<'host> {
    pub random: Random,
    pub system: System<'host>,
    count: Count,
}

impl<'host> Series<'host> {
    pub fn new(host: &'host Host) -> Self {
        Self::on(System::new(host, DOMAINS))
    }

    /// Rounds on a system with [`DOMAINS`] domains.
    pub fn on(system: System<'host>) -> Self {
        Self { random: Random::new(), system, count: Count::default() }
    }

    /// Runs a round with this fault: see [`run`].
    pub fn run(&mut self, fault: Fault<'_>) {
        run(&mut self.system, &mut self.random, fault, &mut self.count);
    }

    pub fn print(&self, what: &str) {
        self.count.print(what);
    }
}

/// Runs a round, in which all domains are off at the beginning and at the end.
///
/// # Panics
/// If a packet before or after the fault does not start its domain exactly once, or an announced packet during the fault
/// does not, without an outcome that the fault allows. If libvirtd is killed while it starts the domain, the actor starts
/// it again.
fn run(system: &mut System<'_>, random: &mut Random, fault: Fault<'_>, count: &mut Count) {
    let starts: Vec<usize> = (0..DOMAINS).map(|domain| system.starts(domain)).collect();
    let expired = system.expired_packets(DURING);
    let (announced, outcomes) = (system.announced(DURING), system.outcomes(DURING).len());
    system.killed_during = None;

    system.wake(BEFORE);
    // If the actor repeats the wake, libvirt starts the domain again.
    system.destroy(BEFORE);
    let is_first = random.below(4) > 0;
    let (sent, offset) = (Instant::now(), system.boottime_offset);
    if is_first {
        system.send(DURING);
        sleep(random.time_below(WINDOW));
    }
    (fault.begin)(system, random);
    if !is_first {
        system.send(DURING);
    }
    (fault.end)(system, random);
    system.wait_until_ready();
    system.wake(AFTER);
    (0..DOMAINS).for_each(|domain| system.wait_until_idle(domain));

    let context = || format!("{}:\n{}", fault.description, system.logs());
    // The actor logs the outcome after it has published it.
    let logged = || Some(system.outcomes(DURING).split_off(outcomes)).filter(|outcome| !outcome.is_empty());
    let mut outcome = wait::within(LOG_TIME, logged).unwrap_or_default();
    if system.expired_packets(DURING) > expired {
        // The packet was held because libvirt was not connected yet. The line does not name the domain.
        outcome.push("expired".to_owned());
    }
    // The age of the packet for the services.
    let age = sent.elapsed() + Duration::from_secs(system.boottime_offset.saturating_sub(offset) as u64);
    let new: Vec<usize> =
        starts.iter().enumerate().map(|(domain, earlier)| system.starts(domain) - earlier).collect();
    let was_interrupted = system.killed_during.iter().flatten().any(|starting| *starting == name(DURING));
    let can_fail = fault.interrupts || system.killed_during.is_some();
    match (new.as_slice(), system.announced(DURING) > announced) {
        // A libvirtd that is killed during a start can leave the domain locked.
        ([1, 1, 1], _) if was_interrupted && outcome == ["failed"] => {
            count.add("failed after an interrupted start");
            system.release(DURING);
        }
        ([1, 1, 1], _) => count.add("done"),
        ([1, 2, 1], _) if (fault.interrupts || was_interrupted) && outcome == ["started"] => {
            count.add("done after an interrupted start");
        }
        ([1, 0, 1], true) => match outcome.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["expired"] if age >= HOLD => count.add("expired"),
            ["failed"] if can_fail => count.add("failed"),
            [] if fault.forgets => count.add("forgotten"),
            _ => panic!("an announced packet did not start its domain, {outcome:?}: {}", context()),
        },
        ([1, 0, 1], false) if fault.misses && outcome.is_empty() => count.add("not announced"),
        _ => panic!("starts before, during and after the fault: {new:?}, {outcome:?}: {}", context()),
    }
    switch_off(system);
}

fn switch_off(system: &System<'_>) {
    for domain in [DURING, AFTER] {
        if !system.is_off(domain) {
            system.destroy(domain);
        }
    }
}

/// Whether capture misses packets after these parts were killed.
pub fn misses(killed: &[Part]) -> bool {
    killed.iter().any(|part| matches!(part, Part::Announcer | Part::Sniffer))
}

/// Whether nobody remembers an announced packet after these parts were killed: the announcer, which remembers packets and
/// exits with its sniffer, and a part that has not passed the packet on yet.
pub fn forgets(killed: &[Part]) -> bool {
    misses(killed) && killed.iter().any(|part| matches!(part, Part::Actor | Part::Bus))
}
