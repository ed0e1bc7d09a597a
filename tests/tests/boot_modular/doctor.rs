//! `wakevirtctl doctor` names the daemon that a connection needs.

use serde_json::Value;
use wakevirt_tests::host::Host;
use wakevirt_tests::scene::site::Site;
use wakevirt_tests::{privileged, wait};

use super::{site, wait_for_log, wake_domain};

/// The JSON output of `wakevirtctl doctor`.
pub(super) fn diagnose(site: &Site<'_>) -> Value {
    let output =
        site.debian.command("wakevirtctl").args(["--json", "doctor"]).output().expect("wakevirtctl runs");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Waits until doctor reports that libvirt is not reachable, and runs the command that it prints.
fn fix(site: &Site<'_>, evidence: &str) {
    wait::until_true("doctor to find the problem", || {
        diagnose(site)["findings"][0]["check"] == "libvirt-unreachable"
    });
    let diagnosis = diagnose(site);
    let finding = &diagnosis["findings"][0];
    assert!(finding["evidence"].to_string().contains(evidence), "{finding:#}");
    site.debian.sh(finding["cure"].as_str().expect("a command"));
    wait::until_true("doctor to find nothing", || diagnose(site)["healthy"] == true);
}

#[test]
#[ignore = "make check-anywhere"]
fn doctor_names_the_daemon_and_the_command() {
    privileged!();
    let host = Host::new();
    let site = site(&host, "");
    wait_for_log(&site, "connected to qemu:///system: 1 domain", 1);
    site.debian.sh("systemctl mask --now virtqemud.service virtqemud.socket");
    fix(&site, "virtqemud.service: masked, inactive");
    wake_domain(&site, 1);

    site.debian.write("/etc/wakevirt/actor.toml", "connections = [\"qemu:///system?mode=legacy\"]\n");
    site.debian.sh("systemctl restart wakevirt-actor");
    fix(&site, "virtproxyd.service: loaded, inactive");
    wake_domain(&site, 2);
}
