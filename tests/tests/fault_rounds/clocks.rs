//! Both services continue in another time namespace, as after a host that was suspended: CLOCK_BOOTTIME jumps.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use wakevirt_tests::host::Host;

use crate::round::{Fault, Series};
use crate::seed::in_rounds;
use crate::system::{Part, RESTART};

/// The longest jump.
const DAY: usize = 24 * 60 * 60;

fn jump(rounds: usize) {
    // Time namespaces need Linux 5.6: time_namespaces(7).
    if !Path::new("/proc/self/ns/time").exists() {
        return println!("SKIPPED: the kernel has no time namespaces");
    }
    let host = Host::new();
    let mut series = Series::new(&host);
    for _ in 0..rounds {
        // Backwards in some rounds, as after a boot for which the state file was not deleted.
        let offset = series.random.below(DAY);
        let fault = Fault {
            description: format!(
                "CLOCK_BOOTTIME jumped from {} to {offset} s",
                series.system.boottime_offset
            ),
            forgets: true,
            misses: true,
            interrupts: false,
            begin: &mut |system, _| {
                system.kill(Part::Actor);
                system.kill(Part::Announcer);
                system.boottime_offset = offset;
            },
            end: &mut |system, _| {
                // The services are children of unshare(1), and exit after it.
                sleep(2 * RESTART + Duration::from_millis(100));
                system.start(Part::Announcer);
                system.start(Part::Actor);
            },
        };
        series.run(fault);
    }
    series.print("CLOCK_BOOTTIME jumps by up to a day");
}

in_rounds! {
    fn boottime(1, 20) { jump }
}
