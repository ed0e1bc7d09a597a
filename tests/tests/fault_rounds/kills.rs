//! Components are killed (SIGKILL), alone and in pairs.

use std::thread::sleep;
use std::time::Duration;

use wakevirt_tests::bus::Kind;
use wakevirt_tests::host::Host;

use crate::round::{self, DOMAINS, Fault, Series};
use crate::seed::{Random, in_rounds};
use crate::system::{Part, RESTART, System, config};

/// The maximum time between the kills of a pair.
const GAP: Duration = Duration::from_millis(50);

/// Kills the parts that `choose` returns, in each round at another moment.
fn kill_in_rounds(
    what: &str,
    bus: Kind,
    rounds: usize,
    mut choose: impl FnMut(usize, &mut Random) -> Vec<Part>,
) {
    let host = Host::new();
    let mut series = Series::on(System::with_bus(&host, DOMAINS, config(), bus));
    for number in 0..rounds {
        let parts = choose(number, &mut series.random);
        let fault = Fault {
            description: format!("killed {parts:?}"),
            forgets: round::forgets(&parts),
            misses: round::misses(&parts),
            interrupts: false,
            begin: &mut |system, random| {
                for part in &parts {
                    system.kill(*part);
                    sleep(random.time_below(GAP));
                }
            },
            end: &mut |system, random| {
                sleep(RESTART);
                let mut order = parts.clone();
                if random.below(2) == 0 {
                    order.reverse();
                }
                order.into_iter().for_each(|part| system.start(part));
            },
        };
        series.run(fault);
    }
    series.print(what);
}

/// Two different parts.
fn pair(_round: usize, random: &mut Random) -> Vec<Part> {
    let first = random.choose(&Part::ALL);
    let others: Vec<Part> = Part::ALL.into_iter().filter(|part| *part != first).collect();
    vec![first, random.choose(&others)]
}

/// All parts, one after the other, beginning with a random one.
fn kill_each(what: &str, bus: Kind, rounds: usize) {
    let mut first = None;
    kill_in_rounds(what, bus, rounds, |round, random| {
        let first = *first.get_or_insert_with(|| random.below(Part::ALL.len()));
        Part::ALL.into_iter().cycle().skip((first + round) % Part::ALL.len()).take(1).collect()
    });
}

// In the long tests, each component is killed a hundred times alone, twenty times with dbus-broker, and about a hundred
// times with another component.
in_rounds! {
    fn each_part(2, 500) { |rounds| kill_each("one component is killed", Kind::DbusDaemon, rounds) }
    fn each_part_with_dbus_broker(1, 100) {
        |rounds| kill_each("one component is killed, with dbus-broker", Kind::DbusBroker, rounds)
    }
    fn pairs(1, 250) { |rounds| kill_in_rounds("two components are killed", Kind::DbusDaemon, rounds, pair) }
}
