//! Interfaces and bridges are deleted, created again, renamed and moved while packets arrive.

use wakevirt_tests::host::Host;

use crate::round::{Fault, Series};
use crate::seed::in_rounds;

/// What happens to the interface through which the packets arrive, and what restores it.
const CHANGES: [(&str, &str, &str); 6] = [
    (
        "renamed",
        "ip link set port0 down; ip link set port0 name other0; ip link set other0 up",
        "ip link set other0 down; ip link set other0 name port0; ip link set port0 up",
    ),
    ("down", "ip link set port0 down", "ip link set port0 up"),
    (
        "moved to another bridge",
        "ip link add br1 type bridge; ip link set br1 up; ip link set port0 master br1",
        "ip link set port0 master br0; ip link delete br1",
    ),
    ("without a bridge", "ip link set port0 nomaster", "ip link set port0 master br0"),
    (
        "with more names",
        "ip link property add dev port0 altname port0-in-the-cellar altname enp99s0",
        "ip link property del dev port0 altname port0-in-the-cellar altname enp99s0",
    ),
    (
        "with a new bridge",
        "ip link delete br0; ip link add br0 type bridge; ip link set br0 up",
        "ip link set port0 master br0",
    ),
];

fn change(rounds: usize) {
    let host = Host::new();
    let mut series = Series::new(&host);
    for _ in 0..rounds {
        let (description, begin, end) = series.random.choose(&CHANGES);
        let fault = Fault {
            description: description.to_owned(),
            forgets: false,
            misses: true,
            // The start of a domain fails if its bridge is deleted.
            interrupts: description == "with a new bridge",
            begin: &mut |_, _| drop(host.sh(begin)),
            // Capture needs some time to notice the change, more on a busy machine.
            end: &mut |system, _| {
                host.sh(end);
                system.wait_until_received();
            },
        };
        series.run(fault);
    }
    series.print("the interface is renamed, set down, moved, or gets other names or a new bridge");
}

/// The interface is deleted, and another one with the same name is created.
fn replace(rounds: usize) {
    let host = Host::new();
    let mut series = Series::new(&host);
    for _ in 0..rounds {
        let fault = Fault {
            description: "the interface was replaced".to_owned(),
            forgets: false,
            misses: true,
            interrupts: false,
            begin: &mut |system, _| {
                host.sh("ip link delete port0; ip netns delete peer-port0");
                system.connect_lan();
            },
            end: &mut |system, _| system.wait_until_received(),
        };
        series.run(fault);
    }
    series.print("the interface is deleted and created again");
}

in_rounds! {
    fn changed(1, 120) { change }
    fn replaced(1, 50) { replace }
}
