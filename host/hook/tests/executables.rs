//! The administrator's executables, which the hook runs on a host without systemd.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use wakevirt_protocol::host::{Operation, WAIT};
use wakevirt_tests::host::Host;
use wakevirt_tests::{privileged, wait};

const HOOK: &str = env!("CARGO_BIN_EXE_wakevirt-hook");
const DIRECTORY: &str = "/etc/wakevirt/host.d";
/// A domain that a shell or an option parser could misread.
const NAME: &str = "-win $(reboot) \"'\u{202e}";
/// The machine can be busy.
const SLACK: Duration = Duration::from_secs(5);

/// Appends its arguments to a file.
const LOG: &str = "printf '%s <%s> <%s>\\n' \"${0##*/}\" \"$1\" \"$2\" >>/run/ran\n";

/// Adds an executable.
fn add(host: &Host, name: &str, script: &str) {
    let file = format!("{DIRECTORY}/{name}");
    host.write(&file, &format!("#!/bin/sh\n{script}"));
    fs::set_permissions(host.path(&file), Permissions::from_mode(0o755)).unwrap();
}

/// Starts the hook with these arguments.
fn start(host: &Host, operation: &str) -> Child {
    host.command(HOOK).args([NAME, operation, "begin", "-"]).spawn().unwrap()
}

/// Runs the hook, and returns how long it took.
fn run(host: &Host, operation: &str) -> Duration {
    let begin = Instant::now();
    assert!(start(host, operation).wait().unwrap().success(), "{operation}");
    begin.elapsed()
}

/// What the executables have written to a file, and removes it.
fn take(host: &Host, file: &str) -> String {
    host.sh(&format!("cat {file} 2>/dev/null || true; rm -f {file}"))
}

/// A syslog daemon.
struct Syslog(UnixDatagram);

impl Syslog {
    fn start(host: &Host) -> Self {
        // `/dev` is that of the machine.
        host.sh("mkdir /run/dev; touch /run/dev/null; mount --bind /dev/null /run/dev/null; mount --rbind /run/dev /dev");
        let socket = UnixDatagram::bind(host.path("/dev/log")).unwrap();
        socket.set_read_timeout(Some(wait::TIMEOUT)).unwrap();
        Self(socket)
    }

    fn next(&self) -> String {
        let mut message = [0; 1024];
        let length = self.0.recv(&mut message).unwrap();
        String::from_utf8_lossy(message.get(..length).unwrap()).into_owned()
    }
}

#[test]
fn executables_run_in_the_order_of_their_names() {
    privileged!();
    let host = Host::new();
    add(&host, "20-b", LOG);
    add(&host, "10-a", LOG);
    host.write(&format!("{DIRECTORY}/50-table.toml"), "");
    host.write(&format!("{DIRECTORY}/README"), "not an executable");
    for operation in Operation::ALL.map(Operation::name) {
        run(&host, operation);
        let expected = format!("10-a <{NAME}> <{operation}>\n20-b <{NAME}> <{operation}>\n");
        let expected = if operation == "reconnect" { String::new() } else { expected };
        assert_eq!(take(&host, "/run/ran"), expected, "{operation}");
    }
    // libvirt's other operations.
    run(&host, "migrate");
    assert_eq!(take(&host, "/run/ran"), "");

    // With systemd, they are units instead.
    host.sh("mkdir -p /run/systemd/system");
    run(&host, "prepare");
    assert_eq!(take(&host, "/run/ran"), "");
}

#[test]
fn executables_inherit_nothing() {
    privileged!();
    let host = Host::new();
    add(&host, "a", "{ env; readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/2; pwd; umask; } >/run/ran\n");
    let mut hook = host.command(HOOK);
    hook.args([NAME, "prepare", "begin", "-"]).env("SECRET", "1").env("LD_PRELOAD", "").current_dir("/tmp");
    assert!(hook.stdin(Stdio::piped()).stdout(Stdio::piped()).status().unwrap().success());
    let ran = take(&host, "/run/ran");
    let lines: Vec<&str> = ran.lines().filter(|line| !line.starts_with("PWD=")).collect();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    // The standard output is redirected.
    let mut expected = vec!["LC_ALL=C.UTF-8", path, "/dev/null", "/run/ran", "/dev/null", "/", "0022"];
    expected.retain(|line| *line != "/run/ran");
    let mut found: Vec<&str> = lines.into_iter().filter(|line| *line != "/run/ran").collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn an_executable_that_others_can_change_does_not_run() {
    privileged!();
    let host = Host::new();
    let syslog = Syslog::start(&host);
    add(&host, "good", LOG);
    let path = |name: &str| host.path(&format!("{DIRECTORY}/{name}"));
    for name in ["foreign", "group", "world", "name.sh"] {
        add(&host, name, LOG);
    }
    chown(path("foreign"), Some(1000), None).unwrap();
    fs::set_permissions(path("group"), Permissions::from_mode(0o775)).unwrap();
    fs::set_permissions(path("world"), Permissions::from_mode(0o757)).unwrap();
    symlink(path("good"), path("link")).unwrap();
    run(&host, "prepare");
    assert_eq!(take(&host, "/run/ran"), format!("good <{NAME}> <prepare>\n"));
    for (name, reason) in [
        ("foreign", "it does not belong to root"),
        ("group", "other users can write to it"),
        ("link", "it is a symbolic link"),
        ("name.sh", "its name contains other characters"),
        ("world", "other users can write to it"),
    ] {
        let message = syslog.next();
        assert!(message.starts_with("<28>wakevirt-hook["), "{message}");
        assert!(message.contains(&format!("{DIRECTORY}/{name} does not run: {reason}")), "{message}");
    }
    // Whoever can write to the directory can replace its files.
    fs::set_permissions(host.path(DIRECTORY), Permissions::from_mode(0o777)).unwrap();
    run(&host, "prepare");
    assert_eq!(take(&host, "/run/ran"), "");
}

#[test]
fn a_start_waits_for_executables_and_does_not_fail_with_them() {
    privileged!();
    let host = Host::new();
    let syslog = Syslog::start(&host);
    add(&host, "1-slow", "sleep 3; echo slow >>/run/ran\n");
    add(&host, "2-bad", "echo bad >>/run/ran; exit 3\n");
    add(&host, "3-last", "echo last >>/run/ran\n");
    assert!(run(&host, "prepare") > WAIT);
    assert_eq!(take(&host, "/run/ran"), "slow\nbad\nlast\n");
    let message = syslog.next();
    assert!(message.contains("2-bad failed for prepare of \"-win $(reboot)"), "{message}");
    assert!(message.contains("exit status: 3"), "{message}");
}

#[test]
fn an_executable_that_hangs_is_neither_waited_for_nor_killed() {
    privileged!();
    let host = Host::new();
    let syslog = Syslog::start(&host);
    host.sh("mkfifo /run/gate");
    add(&host, "1-hangs", ": </run/gate; echo done >>/run/ran\n");
    add(&host, "2-next", LOG);
    for operation in ["started", "stopped", "release"] {
        let duration = run(&host, operation);
        assert!((WAIT..WAIT + SLACK).contains(&duration), "{operation}: {duration:?}");
    }
    assert_eq!(take(&host, "/run/ran"), "");

    // More executables that hang.
    let mut hooks: Vec<Child> = (0..70).map(|_| start(&host, "release")).collect();
    hooks.iter_mut().for_each(|hook| assert!(hook.wait().unwrap().success()));
    let runners = || host.sh("pgrep --count --full '^wakevirt-hook-runner' || true");
    wait::until_true("the runners beyond the limit to exit", || runners() == "64\n");
    let message = syslog.next();
    assert!(message.contains("64 earlier ones are still running"), "{message}");

    // They end when they can, and the next ones run.
    // An executable that has not reached the gate yet needs it to open again.
    wait::until_true("the runners to exit", || {
        host.sh(": <>/run/gate");
        runners() == "0\n"
    });
    let ran = take(&host, "/run/ran");
    assert_eq!((ran.matches("done\n").count(), ran.matches("2-next <").count()), (64, 64), "{ran}");
}

#[test]
fn only_root_runs_executables() {
    privileged!();
    let host = Host::new();
    add(&host, "a", LOG);
    let script = format!("exec -a wakevirt-hook-runner {HOOK} guest prepare");
    let as_user = |line: &str| {
        let mut command: Command = host.command("setpriv");
        command.args(["--reuid=65534", "--clear-groups", "bash", "-c", line]).status().unwrap()
    };
    assert!(as_user(&script).success());
    assert!(as_user(&format!("{HOOK} guest prepare begin -")).success());
    assert_eq!(take(&host, "/run/ran"), "");
    host.sh(&format!("bash -c '{script}'"));
    assert_eq!(take(&host, "/run/ran"), "a <guest> <prepare>\n");
}
