//! wakevirt with OpenRC as the init system.

use wakevirt_tests::host::Host;
use wakevirt_tests::init::{Init, System};
use wakevirt_tests::privileged;

#[test]
fn boots_and_reboots() {
    privileged!();
    let host = Host::new();
    let mut system = System::new(&host, Init::OpenRc);
    system.install();
    let enabled = system.chroot("rc-update").args(["add", "dbus", "default"]).status();
    assert!(enabled.is_ok_and(|status| status.success()));
    system.boot();
    system.wait_until("the bus", "rc-service dbus status");
    system.reboot();
    system.wait_until("the bus", "rc-service dbus status");
    system.shut_down();
}
