//! Events from libvirt's hook, and what the service does with them.

use std::fmt::Write as _;

use wakevirt_tests::host::Host;
use wakevirt_tests::{privileged, wait};

use super::{OVERCOMMIT, STATE, hook, overcommit, site, state, wait_until_handled};

const HUGEPAGES: &str = "[[domain]]\nmatch = \"vm*\"\nprepare = [\"hugepages\"]\n";

/// Connects and sends as much as it can, and adds files to the spool that are not events.
const FLOOD: &str = r#"
import os, socket
def connect():
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect("/run/wakevirt-host/socket")
    return s
idle = [connect() for _ in range(100)]
for number in range(2000):
    s = connect()
    s.send([b"x", b"\xff" * 255, b"../state/state.json", b"00000000000000000001-1.prepare"][number % 4])
    s.close()
spool = "/run/wakevirt-host/spool/"
for number in range(200):
    open(spool + f"{number:020}-1.prepare", "wb").write(os.urandom(number))
for number in range(200):
    open(spool + f"file{number}", "wb").close()
os.mkfifo(spool + "00000000000000000300-1.started")
os.symlink("/dev/zero", spool + "00000000000000000301-1.started")
open(spool + "00000000000000000302-1.stopped", "wb").truncate(1 << 30)
s = connect()
s.send(b"00000000000000000302-1.stopped")
s.recv(100)
"#;

#[test]
fn prepares_the_host_and_restores_it() {
    privileged!();
    let host = Host::new();
    let debian = site(&host, HUGEPAGES);
    debian.sh(&hook("vm1", "prepare"));
    assert_eq!(overcommit(&debian), "32");
    debian.sh(&hook("vm2", "prepare"));
    assert_eq!(overcommit(&debian), "64");
    debian.sh(&hook("other", "prepare"));
    assert_eq!(overcommit(&debian), "64", "the configuration does not contain this domain");
    // The hook waits only for a limited time for the end of such an event.
    let wait_for_overcommit = |pages| wait::until_true(pages, || overcommit(&debian) == pages);
    debian.sh(&hook("vm1", "release"));
    wait_for_overcommit("32");
    debian.sh(&(hook("vm2", "stopped") + &hook("vm2", "release") + &hook("vm2", "release")));
    wait_for_overcommit("0");
    wait_until_handled(&debian);
    assert!(state(&debian).contains("\"records\": []"), "{}", state(&debian));
    let journal = debian.journal("wakevirt-host");
    assert!(journal.contains("the host is prepared for \"vm1\""), "{journal}");
    assert!(journal.contains("the host is as before"), "{journal}");
}

#[test]
fn reports_a_limit_without_effect_and_undoes_it() {
    privileged!();
    let host = Host::new();
    // There is no cpuset controller.
    let debian = site(&host, "[[domain]]\nmatch = \"vm*\"\nprepare = [\"isolate\"]\nrequire = true\n");
    let pinned = hook("vm1", "prepare")
        .replace("</domain>", "<cputune><vcpupin vcpu='0' cpuset='1'/></cputune></domain>");
    let output = debian.command("bash").args(["-c", &pinned]).output().expect("bash runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("the host cannot be prepared for \"vm1\": isolate: AllowedCPUs has no effect"),
        "{error}"
    );
    let mask = "busctl get-property org.freedesktop.systemd1 \
        /org/freedesktop/systemd1/unit/init_2escope org.freedesktop.systemd1.Scope AllowedCPUs";
    // The length, and the bytes of the mask.
    let mask = debian.sh(mask);
    assert_eq!(mask.split_whitespace().nth(2), Some("3"), "both CPUs are available again: {mask}");
    assert!(state(&debian).contains("AllowedCPUs has no effect on"), "{}", state(&debian));
    debian.sh(&hook("vm1", "release"));
    wait_until_handled(&debian);
    assert!(state(&debian).contains("\"before\": null"), "{}", state(&debian));
}

#[test]
fn replays_the_events_of_a_stopped_service() {
    privileged!();
    let host = Host::new();
    let debian = site(&host, HUGEPAGES);
    // A missing service does not delay the hook.
    debian.sh("systemctl stop wakevirt-host.socket wakevirt-host.service");
    let mut script = String::new();
    for number in 0..51 {
        write!(
            script,
            "{}{}",
            hook(&format!("vm{number}"), "prepare"),
            hook(&format!("vm{number}"), "started")
        )
        .expect("a string grows");
        if number > 0 {
            script += &hook(&format!("vm{number}"), "release");
        }
    }
    debian.sh(&script);
    assert_eq!(debian.sh("ls /run/wakevirt-host/spool | wc -l"), "152\n");
    debian.sh("systemctl start wakevirt-host");
    wait_until_handled(&debian);
    // The record ends with the next check, because there is no QEMU.
    wait::until_true("the host to be as before", || state(&debian).contains("\"before\": null"));
    assert_eq!(overcommit(&debian), "0");
    let journal = debian.journal("wakevirt-host");
    assert_eq!(journal.matches("the host is prepared for").count(), 51, "{journal}");
}

#[test]
fn continues_after_it_was_killed() {
    privileged!();
    let host = Host::new();
    let debian = site(&host, HUGEPAGES);
    for round in 0..10 {
        // The delay before the kill grows by 3 ms.
        debian.sh(&format!(
            "pid=$(systemctl show --property=MainPID --value wakevirt-host)
             (sleep 0.0{:02}; kill -9 $pid) & \
             {}{}wait
             systemctl is-active --quiet wakevirt-host || systemctl start wakevirt-host",
            round * 3,
            hook("vm1", "prepare"),
            hook("vm2", "prepare"),
        ));
        wait_until_handled(&debian);
        wait::until_true("both domains to have their pages", || overcommit(&debian) == "64");
        debian.sh("systemctl kill --signal=KILL wakevirt-host");
        debian.sh(&(hook("vm2", "release") + &hook("vm1", "release")));
        wait::until_true("the host to be as before", || {
            debian.sh("ls /run/wakevirt-host/spool").is_empty() && overcommit(&debian) == "0"
        });
    }
    debian.sh(&format!("grep -q '\"before\": null' {STATE}"));
}

#[test]
fn withstands_floods_and_unknown_files() {
    privileged!();
    let host = Host::new();
    let debian = site(&host, HUGEPAGES);
    let pid = debian.main_process("wakevirt-host");
    debian.write("/usr/local/share/flood.py", FLOOD);
    debian.sh("python3 /usr/local/share/flood.py");
    let not_root = debian
        .command_as("wakevirt-capture", "python3")
        .arg("/usr/local/share/flood.py")
        .status()
        .expect("setpriv runs");
    assert!(!not_root.success());
    // Even if another user could connect, the service closes the connection.
    debian.sh("chmod 666 /run/wakevirt-host/socket");
    let script = "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect('/run/wakevirt-host/socket'); s.send(b'00000000000000000001-1.prepare'); print(s.recv(100))";
    let closed = debian.command_as("wakevirt-capture", "python3").args(["-c", script]).output();
    let closed = closed.expect("setpriv runs");
    let answer = String::from_utf8_lossy(&closed.stdout);
    let error = String::from_utf8_lossy(&closed.stderr);
    assert!(
        answer == "b''\n" || error.contains("ConnectionResetError") || error.contains("BrokenPipe"),
        "{answer}{error}"
    );
    debian.sh(&hook("vm1", "prepare"));
    let events = || debian.sh("ls /run/wakevirt-host/spool | grep --count --invert-match file || true");
    wait::until_true("the event to be handled", || overcommit(&debian) == "32" && events() == "0\n");
    assert_eq!(debian.main_process("wakevirt-host"), pid, "the service has not restarted");
    let memory = debian.sh("systemctl show --property=MemoryPeak --value wakevirt-host || true");
    assert!(!memory.contains("268435456"), "{memory}");
}

#[test]
fn reloads_its_configuration_and_survives_a_restart_of_the_bus() {
    privileged!();
    let host = Host::new();
    let debian = site(&host, HUGEPAGES);
    debian.sh(&hook("win", "prepare"));
    assert_eq!(overcommit(&debian), "0");
    debian.write("/etc/wakevirt/host.toml", &HUGEPAGES.replace("vm*", "win"));
    debian.sh("systemctl reload wakevirt-host");
    wait::until_true("the reload", || debian.journal("wakevirt-host").contains("configuration reloaded"));
    debian.sh(&hook("win", "prepare"));
    assert_eq!(overcommit(&debian), "32");
    debian.sh("systemctl restart dbus");
    debian.sh(&hook("win", "release"));
    wait::until_true("the host to be as before", || overcommit(&debian) == "0");
    debian.write("/etc/wakevirt/host.toml", "x");
    let reload =
        debian.command("systemctl").args(["reload", "wakevirt-host"]).status().expect("systemctl runs");
    assert!(!reload.success());
    wait::until_true("the failed reload", || debian.journal("wakevirt-host").contains("reload failed"));
}

#[test]
fn starts_units_and_reports_those_that_fail() {
    privileged!();
    let host = Host::new();
    let debian = site(
        &host,
        "prepare-wait = \"10s\"\n[[domain]]\nmatch = \"vm*\"\nprepare = [\"hugepages\"]\nrequire = true\n",
    );
    let unit = |name: &str, command: &str| {
        debian.write(
            &format!("/etc/systemd/system/{name}.service"),
            &format!("[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart={command}\n"),
        );
    };
    unit("good", "/bin/true");
    unit("bad", "/bin/false");
    unit("slow", "/bin/sleep 60");
    debian.sh("for name in good bad slow; do
        mkdir -p /etc/systemd/system/wakevirt-prepare@vm$name.target.wants
        ln -s ../$name.service /etc/systemd/system/wakevirt-prepare@vm$name.target.wants/
    done
    systemctl daemon-reload");
    debian.sh(&hook("vmgood", "prepare"));
    debian.sh("systemctl is-active --quiet wakevirt-prepare@vmgood.target good");
    debian.sh(&hook("vmgood", "release"));
    wait::until_true("the target to stop", || {
        debian.sh("systemctl is-active wakevirt-prepare@vmgood.target || true") == "inactive\n"
    });
    wait_until_handled(&debian);
    let slow = debian.command("bash").args(["-c", &hook("vmslow", "prepare")]).spawn();
    // The preparation has not failed as long as it continues.
    wait::until_true("the preparation to begin", || state(&debian).contains("\"is_changing\": true"));
    let status = debian.sh("wakevirtctl --json host status");
    assert!(status.contains("\"changing\": true") || status.contains("\"changing\":true"), "{status}");
    assert!(!slow.and_then(|mut slow| slow.wait()).is_ok_and(|status| status.success()));
    assert!(state(&debian).contains("\"is_changing\": false"), "{}", state(&debian));
    debian.sh(&hook("vmslow", "release"));
    for (name, reason) in [
        ("vmbad", "bad.service is failed"),
        ("vmslow", "wakevirt-prepare@vmslow.target did not start in time"),
    ] {
        let output = debian.command("bash").args(["-c", &hook(name, "prepare")]).output().expect("bash runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(reason), "{error}");
        assert!(state(&debian).contains(reason), "{}", state(&debian));
        debian.sh(&hook(name, "release"));
    }
    wait_until_handled(&debian);
    debian.sh(&format!("test -e {OVERCOMMIT} && grep -q '\"before\": null' {STATE}"));
}
