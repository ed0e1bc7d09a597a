//! `wakevirtctl host` on a booted Debian system, with a real libvirtd, the hook, and wakevirt-host. The system is a
//! container without the cpu and cpuset controllers, so that the preparation fails and its failures are reported.
#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test may panic")]

use serde_json::{Value, json};
use wakevirt_tests::browser::Browser;
use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::Debian;
use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::qemu_domain_with;
use wakevirt_tests::project::json::{assert_documented, documented};
use wakevirt_tests::scene::cockpit;
use wakevirt_tests::{privileged, wait};

const DOMAIN: &str = "my win11";
/// The domain's unit, quoted for a shell.
const UNIT: &str = r"'wakevirt-domain@my\x20win11.target'";
const CONFIG: &str =
    "[[domain]]\nmatch = \"my win*\"\nprepare = [\"isolate\"]\nweight = 900\nsleep = \"suspend\"\n";
const HOOK: &str = "/etc/libvirt/hooks/qemu.d/50-wakevirt";

/// A booted system with wakevirt-host, which is not enabled, and one domain that is shut off.
fn start(host: &Host) -> Debian<'_> {
    let mut debian = Debian::new(host, Kind::DbusDaemon);
    debian.install();
    debian.write("/etc/wakevirt/host.toml", CONFIG);
    debian.boot();
    let pins = "<cputune><vcpupin vcpu='0' cpuset='1'/></cputune>\n  <os>";
    debian.write("/root/domain.xml", &qemu_domain_with(DOMAIN, "").replace("<os>", pins));
    debian.sh("virsh define /root/domain.xml");
    debian
}

/// Runs `wakevirtctl --json` as root. Exit status 1 is a negative answer.
fn run(debian: &Debian<'_>, arguments: &str) -> Value {
    let output = debian.sh(&format!("wakevirtctl --json {arguments} || [ $? = 1 ]"));
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
}

/// The checks of the findings, with the commands that fix them.
fn findings(diagnosis: &Value) -> Vec<(String, Option<String>)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let findings = diagnosis["findings"].as_array().expect("an array").iter();
    findings.map(|it| (text(&it["check"]).expect("a string"), text(&it["cure"]))).collect()
}

/// Runs the command that fixes a finding of `host check`, after which the finding is gone.
fn fix(debian: &Debian<'_>, check: &str) {
    let found = findings(&run(debian, "host check"));
    let command =
        found.iter().find(|(name, _)| name == check).unwrap_or_else(|| panic!("{check}: {found:?}"));
    debian.sh(command.1.as_deref().expect("a command"));
    let left = findings(&run(debian, "host check"));
    assert!(left.iter().all(|(name, _)| name != check), "{check}: {left:?}");
}

#[test]
fn check_finds_faults_that_its_commands_fix() {
    privileged!();
    let host = Host::new();
    let debian = start(&host);
    let diagnosis = run(&debian, "host check");
    let optional = ["findings.cure", "findings.advice", "works", "not-checked"];
    assert_documented(&diagnosis, &documented("doctor"), &optional);
    let found: Vec<String> = findings(&diagnosis).into_iter().map(|(check, _)| check).collect();
    for expected in
        ["host-service-stopped", "host-controller-missing", "host-emulator-unpinned", "host-sleep"]
    {
        assert!(found.iter().any(|check| check == expected), "{expected}: {found:?}");
    }
    assert!(!found.iter().any(|check| check.starts_with("host-hook")), "{found:?}");
    fix(&debian, "host-service-stopped");

    debian.sh(&format!("rm {HOOK}"));
    fix(&debian, "host-hook-missing");
    // libvirtd reads the list of hooks when it is reloaded.
    debian.sh(&format!("ln -sfn /usr/sbin/wakevirt-hook {HOOK}"));
    fix(&debian, "host-hook-unread");
    fix(&debian, "host-service-disabled");
    debian.sh("systemctl disable wakevirt-host.service");
    fix(&debian, "host-service-disabled");

    debian.write("/etc/wakevirt/host.d/10-bad.toml", "[[domain]]\nmatch = \"a\"\nwieght = 3\n");
    let error = debian.sh("wakevirtctl host check 2>&1 || [ $? = 1 ]");
    assert!(error.contains("/etc/wakevirt/host.d/10-bad.toml:3: unknown key \"wieght\""), "{error}");
    debian.write("/etc/wakevirt/host.d/10-bad.toml", "[[domain]]\nmatch = \"absent\"\n");
    let found = findings(&run(&debian, "host check"));
    assert!(found.iter().any(|(check, _)| check == "host-table-unused"), "{found:?}");
}

#[test]
fn plan_status_and_undo_show_one_domain() {
    privileged!();
    let host = Host::new();
    let debian = start(&host);
    let plan = run(&debian, &format!("host plan '{DOMAIN}'"));
    assert_documented(&plan, &documented("host plan"), &["shutdown", "failures"]);
    assert_eq!(plan["run"], json!([format!("systemctl start {UNIT}")]));
    let none = run(&debian, "host status");
    let empty = ["domains", "failures", "kernel-threads", "interrupts", "units"];
    assert_documented(&none, &documented("host status"), &empty);
    assert_eq!((&none["service"], &none["domains"]), (&json!("inactive"), &json!([])));

    debian.sh("systemctl enable --now wakevirt-host.service");
    debian.sh(&format!("virsh start '{DOMAIN}'"));
    wait::until_true("the domain to be prepared", || {
        run(&debian, "host status")["domains"][0]["phase"] == "started"
    });
    let status = run(&debian, "host status");
    let optional = ["domains.pages", "domains.weight", "failures.domain", "kernel-threads", "interrupts"];
    assert_documented(&status, &documented("host status"), &optional);
    let failures = status["domains"][0]["failures"].to_string();
    assert!(failures.contains("cpuset"), "{status}");
    let doctor = run(&debian, "doctor --no-test");
    let found = findings(&doctor);
    assert!(found.iter().any(|(check, _)| check == "host-not-prepared"), "{doctor}");

    undoes(&debian);
}

/// Undoes the preparation while the domain is running.
fn undoes(debian: &Debian<'_>) {
    debian.sh("useradd user");
    let denied = debian.sh("setpriv --reuid user --clear-groups wakevirtctl host undo 2>&1 || [ $? = 4 ]");
    assert!(denied.contains("run: sudo wakevirtctl host undo"), "{denied}");
    let undone = run(debian, "host undo");
    assert_documented(&undone, &documented("host undo"), &["kept", "commands", "failures"]);
    assert_eq!(undone["stopped"], json!(["wakevirt-host.socket", "wakevirt-host.service"]));
    let kept = undone["kept"].to_string();
    assert!(kept.contains(r"wakevirt-domain@my\\x20win11.target"), "{undone}");
    debian.sh(&format!("systemctl is-active {UNIT}"));
    let again = run(debian, "host undo");
    assert_eq!((&again["commands"], &again["stopped"]), (&json!([]), &json!([])));
    let drop_ins = debian.sh("find /run/systemd/system.control /run/systemd/transient -name '50-*' || :");
    assert_eq!(drop_ins, "");
    assert_eq!(run(debian, "host undo --force")["kept"], json!([]));
    wait::until_true("the unit to stop", || {
        debian.sh(&format!("systemctl is-active {UNIT} || :")) == "inactive\n"
    });
    assert_eq!(debian.sh(&format!("virsh domstate '{DOMAIN}'")).trim(), "running");
}

#[test]
fn cockpit_shows_the_state_of_the_host() {
    privileged!();
    let host = Host::new();
    let debian = start(&host);
    debian.sh("install -d -m 755 /run/cockpit; systemctl enable --now wakevirt-host.service");
    let _cockpit = cockpit::start(&debian, "root", "127.0.0.1");
    let mut browser = Browser::start(&host);
    browser.open("http://127.0.0.1:9090/wakevirt", cockpit::FRAME);
    browser.wait_for_text("#host", "wakevirt-host: running");
    browser.wait_for_text("#host", "The host is not prepared for any active domain.");
    debian.sh(&format!("virsh start '{DOMAIN}'"));
    browser.wait_for_text("#host tr", DOMAIN);
    browser.wait_for_text("#host tr", "cpuset");
    assert_eq!(browser.problems(), [""; 0]);
}
