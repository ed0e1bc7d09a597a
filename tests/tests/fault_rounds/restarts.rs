//! Services are stopped at a random moment and started again, as the service manager does (SIGTERM).

use wakevirt_tests::host::Host;

use crate::round::{self, Fault, Series};
use crate::seed::in_rounds;
use crate::system::Part;

/// The services that are restarted, in the order in which they stop. They start in the reverse order: the units order
/// wakevirt-capture after wakevirt-actor.
const RESTARTED: [&[Part]; 3] = [&[Part::Actor], &[Part::Announcer], &[Part::Announcer, Part::Actor]];

fn restart_in_rounds(rounds: usize) {
    let host = Host::new();
    let mut series = Series::new(&host);
    for parts in RESTARTED.into_iter().cycle().take(rounds) {
        let fault = Fault {
            description: format!("restarted {parts:?}"),
            forgets: round::forgets(parts),
            misses: round::misses(parts),
            interrupts: false,
            begin: &mut |system, _| parts.iter().for_each(|part| system.stop(*part)),
            end: &mut |system, _| parts.iter().rev().for_each(|part| system.start(*part)),
        };
        series.run(fault);
    }
    series.print("one or both services are restarted");
}

in_rounds! {
    fn services(3, 300) { restart_in_rounds }
}
