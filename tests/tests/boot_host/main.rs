//! wakevirt-host on a booted Debian system, with files in place of the host's sysfs, which is read-only there.

mod drop_ins;
mod events;
mod taken_over;

use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::Debian;
use wakevirt_tests::host::Host;
use wakevirt_tests::host::sysfs::{OVERCOMMIT, REPLACE, hook};
use wakevirt_tests::wait;

const STATE: &str = "/run/wakevirt-host/state/state.json";

/// Boots a system with this configuration, and starts the service.
fn site<'host>(host: &'host Host, config: &str) -> Debian<'host> {
    let mut debian = Debian::new(host, Kind::DbusDaemon);
    debian.install();
    debian.write("/etc/wakevirt/host.toml", config);
    debian.boot();
    debian.sh(REPLACE);
    debian.sh("systemd-tmpfiles --create wakevirt-host.conf");
    debian.sh("systemctl start wakevirt-host");
    debian
}

/// The number of huge pages that the kernel can provide on demand.
fn overcommit(debian: &Debian<'_>) -> String {
    debian.sh(&format!("cat {OVERCOMMIT}")).trim().to_owned()
}

/// Waits until the service has handled all events.
fn wait_until_handled(debian: &Debian<'_>) {
    // The spool can contain many events.
    let handled =
        wait::within(3 * wait::TIMEOUT, || debian.sh("ls /run/wakevirt-host/spool").is_empty().then_some(()));
    assert!(handled.is_some(), "the spool is not empty:\n{}", debian.journal("wakevirt-host"));
}

/// The state file.
fn state(debian: &Debian<'_>) -> String {
    debian.sh(&format!("cat {STATE}"))
}
