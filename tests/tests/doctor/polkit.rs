//! A version of polkit that does not read the shipped rules.

use wakevirt_protocol::bus::ACTOR_NAME;
use wakevirt_tests::bus::old_polkitd::OldPolkitd;
use wakevirt_tests::host::{Host, User, project};
use wakevirt_tests::libvirt::TEST;
use wakevirt_tests::{privileged, wait};

use crate::fixture::{DOMAIN, Fixture, HEALTHY, MAC};

/// Installs the examples as the package does, in an overlay, because the host shares `/usr` with this machine.
fn install_examples(host: &Host) {
    host.sh(&format!(
        "mkdir -p /run/doc/upper/wakevirt /run/doc/work
         cp -r {}/docs/examples /run/doc/upper/wakevirt/
         mount -t overlay -o lowerdir=/usr/share/doc,upperdir=/run/doc/upper,workdir=/run/doc/work overlay /usr/share/doc",
        project().display()
    ));
}

#[test]
fn fixes_a_polkit_that_does_not_read_rules() {
    privileged!();
    let host = Host::new();
    let polkit = OldPolkitd::install(&host);
    install_examples(&host);
    let fixture = Fixture::new(&host, HEALTHY);
    let _polkitd = polkit.start();
    let wake = || host.call(User::LibvirtMember, ACTOR_NAME, "Wake", &[&format!("'{MAC}'")]);
    let denied = wake();
    assert!(denied.as_ref().is_err_and(|error| error.message.contains("polkit requires")), "{denied:?}");
    let diagnosis = fixture.diagnose(&[]);
    assert_eq!(diagnosis.first()["check"], "polkit-old", "{:#}", diagnosis.json);
    assert!(diagnosis.has_evidence("polkit-old", "polkit 0.105"), "{:#}", diagnosis.json);
    host.sh(diagnosis.command_for("polkit-old"));
    // polkitd notices the new file with a delay.
    wait::until_true("polkit to allow the wake", || wake().is_ok());
    assert_eq!(fixture.libvirtd.state(TEST, DOMAIN), "running");
    assert_eq!(fixture.diagnose(&[]).json["healthy"], true);
}
