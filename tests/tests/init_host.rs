//! wakevirt-host without systemd, with files in place of the host's sysfs, which is read-only there.
#![expect(clippy::expect_used, reason = "a test may panic")]

use wakevirt_tests::host::Host;
use wakevirt_tests::host::sysfs::{self, OVERCOMMIT};
use wakevirt_tests::init::{Init, System};
use wakevirt_tests::process::proc::Status;
use wakevirt_tests::{privileged, wait};

const CONFIG: &str = "[[domain]]\nmatch = \"vm*\"\nprepare = [\"hugepages\"]\n\
    [[domain]]\nmatch = \"pinned\"\nprepare = [\"hugepages\", \"isolate\"]\nweight = 900\nrequire = true\n";

/// Runs [`sysfs::hook`]. Returns its error if it fails.
fn hook(system: &System<'_>, name: &str, operation: &str) -> Result<(), String> {
    let output =
        system.command("bash").args(["-euc", &sysfs::hook(name, operation)]).output().expect("nsenter runs");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Starts the service on a system without a bus, and prepares domains.
fn check(init: Init) {
    let host = Host::new();
    let mut system = System::new(&host, init);
    system.install();
    system.define_services();
    system.write("/etc/wakevirt/host.toml", CONFIG);
    system.boot();
    system.sh(sysfs::REPLACE);
    let is_up = match init {
        // OpenRC stops services that are started before it has reached the runlevel. Without syslog, the log would be in
        // a file that it opens.
        Init::OpenRc => {
            "[ $(rc-status --runlevel) = default -a ! -e /run/openrc/rc.starting ] && rc-service syslog start"
        }
        Init::Runit => "sv status wakevirt-host",
        Init::S6 => "s6-svok /etc/s6/service/wakevirt-host",
        Init::Shepherd => "herd status",
    };
    system.wait_until("the service manager", is_up);
    system.start("wakevirt-host");
    wait::until_true("the warning", || {
        system.log_of("wakevirt-host").contains("have no effect: they need systemd")
    });
    wait::until_true("the socket", || system.path("/run/wakevirt-host/socket").exists());

    let status = Status::of(system.process("wakevirt-host"));
    assert_ne!(status.effective_uid(), 0);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status.capabilities(set), 0, "{set}");
    }

    let overcommit = || system.sh(&format!("cat {OVERCOMMIT}")).trim().to_owned();
    assert_eq!(hook(&system, "vm1", "prepare"), Ok(()));
    assert_eq!(overcommit(), "32");
    let refused = hook(&system, "pinned", "prepare").expect_err("it requires what needs systemd");
    for key in ["isolate", "weight"] {
        assert!(refused.contains(&format!("{key}: needs systemd")), "{refused}");
    }
    assert_eq!(hook(&system, "pinned", "release"), Ok(()));
    assert_eq!(overcommit(), "32");
    let shown = system.command_as("wakevirt-actor", "wakevirtctl").args(["host", "status"]).output();
    let shown = String::from_utf8(shown.expect("setpriv runs").stdout).expect("the output is UTF-8");
    assert!(shown.contains("vm1"), "{shown}");

    // A new process restores the host.
    nix::sys::signal::kill(system.process("wakevirt-host"), nix::sys::signal::Signal::SIGKILL)
        .expect("it runs");
    wait::until_true("the event after the restart", || {
        hook(&system, "vm1", "release") == Ok(()) && overcommit() == "0"
    });
    system.sh("wakevirtctl host undo");
}

#[test]
#[ignore = "make check-anywhere"]
fn prepares_huge_pages_with_openrc() {
    privileged!();
    check(Init::OpenRc);
}

#[test]
#[ignore = "make check-anywhere"]
fn prepares_huge_pages_with_runit() {
    privileged!();
    check(Init::Runit);
}

#[test]
#[ignore = "make check-anywhere"]
fn prepares_huge_pages_with_s6() {
    privileged!();
    check(Init::S6);
}

#[test]
#[ignore = "make check-anywhere"]
fn prepares_huge_pages_with_shepherd() {
    privileged!();
    check(Init::Shepherd);
}
