//! libvirt's contract with its hooks, with the hook, a real libvirtd and QEMU on a booted Debian system. In most tests, a
//! stand-in answers instead of wakevirt-host.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may panic")]

use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use wakevirt_protocol::host::{Operation, Reply, SPOOL, WAIT};
use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::Debian;
use wakevirt_tests::hook::{Answer, Event, StandIn};
use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::qemu_domain_with;
use wakevirt_tests::{privileged, wait};

const HOOK: &str = "/usr/sbin/wakevirt-hook";
const LINK: &str = "/etc/libvirt/hooks/qemu.d/50-wakevirt";
const DOMAIN: &str = "guest";
/// Which operations libvirt reports when a domain starts and when it ends.
const START: [&str; 2] = ["prepare", "started"];
const END: [&str; 2] = ["stopped", "release"];
/// Measures the hook, for all users.
const MEASURE: &str = r#"#!/bin/bash
start=${EPOCHREALTIME/./}
/usr/sbin/wakevirt-hook "$@"
status=$?
echo "$2 $status $((${EPOCHREALTIME/./} - start)) $(id -u)" >>/run/measured
exit $status
"#;
/// The bound for a hook that does not have to wait.
const AT_ONCE: Duration = Duration::from_millis(100);
/// The machine can be busy.
const SLACK: Duration = Duration::from_secs(5);

/// A booted system with a domain, on which wakevirt is installed but not enabled.
fn system(host: &Host) -> Debian<'_> {
    let mut debian = Debian::new(host, Kind::DbusDaemon);
    debian.install();
    debian.write(&format!("/root/{DOMAIN}.xml"), &qemu_domain_with(DOMAIN, ""));
    // The tests restart libvirtd more often than systemd allows by default.
    debian.write("/etc/systemd/system/libvirtd.service.d/test.conf", "[Unit]\nStartLimitIntervalSec=0\n");
    debian.boot();
    virsh(&debian, &["define", &format!("/root/{DOMAIN}.xml")]);
    debian
}

/// The root directory of the booted system, for this process.
fn root(debian: &Debian<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root", debian.init()))
}

fn try_virsh(debian: &Debian<'_>, arguments: &[&str]) -> Output {
    let mut virsh = debian.command("virsh");
    virsh.args(["--quiet", "--connect", "qemu:///system"]).args(arguments).output().expect("virsh runs")
}

fn virsh(debian: &Debian<'_>, arguments: &[&str]) -> String {
    let output = try_virsh(debian, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "virsh {arguments:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn state(debian: &Debian<'_>) -> String {
    virsh(debian, &["domstate", DOMAIN])
}

/// The process IDs of all QEMU processes, one per line.
fn qemu(debian: &Debian<'_>) -> String {
    debian.sh("pgrep --full '^/usr/bin/qemu-system' || true")
}

/// One call of the hook.
#[derive(Debug)]
struct Call {
    operation: String,
    status: i32,
    duration: Duration,
    uid: u32,
}

/// The calls since the last call of this function.
fn take_calls(debian: &Debian<'_>) -> Vec<Call> {
    let text = debian.sh("cat /run/measured; : >/run/measured");
    let call = |line: &str| {
        let mut parts = line.split(' ');
        let operation = parts.next()?.to_owned();
        let status = parts.next()?.parse().ok()?;
        let duration = Duration::from_micros(parts.next()?.parse().ok()?);
        Some(Call { operation, status, duration, uid: parts.next()?.parse().ok()? })
    };
    text.lines().map(|line| call(line).unwrap_or_else(|| panic!("{line:?}"))).collect()
}

/// Replaces the link to the hook with a program that measures the hook.
fn measure(debian: &Debian<'_>) {
    debian.write(LINK, "");
    debian.sh(&format!("rm {LINK}; : >/run/measured; chmod 666 /run/measured"));
    debian.write(LINK, MEASURE);
    debian.sh(&format!("chmod 755 {LINK}"));
}

/// Starts and destroys the domain, and returns the calls of the hook, which must all exit with 0.
fn measured_cycle(debian: &Debian<'_>, what: &str) -> Vec<Call> {
    virsh(debian, &["start", DOMAIN]);
    virsh(debian, &["destroy", DOMAIN]);
    let mut calls = take_calls(debian);
    calls.retain(|call| Operation::from_name(&call.operation).is_some());
    let operations: Vec<_> = calls.iter().map(|call| call.operation.as_str()).collect();
    assert_eq!(operations, [START, END].concat(), "{what}");
    assert!(calls.iter().all(|call| call.status == 0), "{what}: {calls:?}");
    calls
}

/// Checks that the hook does not wait, and returns the number of its calls. On a busy machine, some calls are slow.
fn assert_answers_at_once(debian: &Debian<'_>, what: &str) -> usize {
    let mut calls = Vec::new();
    let fastest = |calls: &[Call], operation: &str| {
        calls.iter().filter(|call| call.operation == operation).map(|call| call.duration).min()
    };
    for cycle in 1..=20 {
        calls.append(&mut measured_cycle(debian, what));
        let is_fast = |operation: &&str| fastest(&calls, operation).is_some_and(|time| time < AT_ONCE);
        if cycle >= 3 && [START, END].concat().iter().all(is_fast) {
            break;
        }
    }
    for operation in [START, END].concat() {
        let fastest = fastest(&calls, operation).expect("there are calls");
        assert!(fastest < AT_ONCE, "{what}: {operation} took {fastest:?}");
    }
    let slowest = calls.iter().map(|call| call.duration).max().expect("there are calls");
    assert!(slowest < WAIT + SLACK, "{what}: {slowest:?}");
    calls.len()
}

#[test]
fn hook_answers_within_its_limits() {
    privileged!();
    let host = Host::new();
    let debian = system(&host);
    measure(&debian);
    let spooled = || debian.sh(&format!("ls {SPOOL} | wc -l; rm -f {SPOOL}/*")).trim().to_owned();

    let calls = assert_answers_at_once(&debian, "the service was never started");
    assert_eq!(spooled(), calls.to_string());
    let service = StandIn::start(&root(&debian), |_| Answer::done());
    let calls = assert_answers_at_once(&debian, "the service answers");
    assert_eq!(service.take_events().len(), calls);
    drop(service);
    let service = StandIn::start(&root(&debian), |_| Answer::Close);
    assert_answers_at_once(&debian, "the service exits");
    drop(service);
    debian.sh("ln -s /dev/null /run/wakevirt-host/socket");
    assert_answers_at_once(&debian, "the socket is not a socket");
    debian.sh("rm /run/wakevirt-host/socket");
    spooled();

    let service = StandIn::start(&root(&debian), |_| Answer::hang());
    let calls = measured_cycle(&debian, "the service hangs");
    assert!(calls.iter().all(|call| (WAIT..WAIT + SLACK).contains(&call.duration)), "{calls:?}");
    drop(service);

    debian.sh("rm -r /run/wakevirt-host");
    assert_answers_at_once(&debian, "the spool is missing");
    debian.sh(&format!("mv {HOOK} /root/hook"));
    // As after the removal of the package: the link remains for a moment.
    debian.sh(&format!("rm {LINK}; ln -s {HOOK} {LINK}"));
    virsh(&debian, &["start", DOMAIN]);
    virsh(&debian, &["destroy", DOMAIN]);
}

#[test]
fn hook_passes_on_every_event_of_a_domain() {
    privileged!();
    let host = Host::new();
    let debian = system(&host);
    let service = StandIn::start(&root(&debian), |_| Answer::done());
    let expect = |what: &str, operations: &[&str]| {
        // libvirtd reports some events after it has answered its client.
        let _ = wait::within(wait::TIMEOUT, || (service.events().len() >= operations.len()).then_some(()));
        assert_eq!(service.take_operations(), operations, "{what}");
    };

    virsh(&debian, &["start", DOMAIN]);
    expect("start", &START);
    virsh(&debian, &["suspend", DOMAIN]);
    virsh(&debian, &["resume", DOMAIN]);
    virsh(&debian, &["reset", DOMAIN]);
    expect("suspend, resume and reset", &[]);
    debian.sh("systemctl restart libvirtd");
    assert_eq!(state(&debian), "running");
    expect("restart of libvirtd", &["reconnect"]);
    virsh(&debian, &["managedsave", DOMAIN]);
    expect("managed save", &END);
    // If the hook printed anything, libvirt would use it as the domain's XML.
    virsh(&debian, &["start", DOMAIN]);
    assert_eq!(state(&debian), "running");
    expect("start from the managed save", &START);
    // QEMU exits by itself.
    debian.sh("pkill -9 --full '^/usr/bin/qemu-system'");
    wait::until_true("libvirt to notice", || state(&debian) == "shut off");
    expect("end of QEMU", &END);

    names_and_xml_arrive_unchanged(&debian, &service);
    large_and_hostile_xml_arrives_unchanged(&debian, &service);
}

fn names_and_xml_arrive_unchanged(debian: &Debian<'_>, service: &StandIn) {
    for name in ["a b", "it's \"quoted\" & <b>", r"win\x2d11", "-x", "ünï$(reboot)`\u{202e}"] {
        let escaped = name.replace('&', "&amp;").replace('<', "&lt;");
        debian.write("/root/named.xml", &qemu_domain_with(&escaped, ""));
        virsh(debian, &["create", "/root/named.xml"]);
        virsh(debian, &["destroy", &format!("--domain={name}")]);
        let events = service.take_events();
        let operations: Vec<_> = events.iter().map(|event| event.operation.name()).collect();
        assert_eq!(operations, [START, END].concat(), "{name:?}");
        for event in events {
            assert_eq!(event.name, name);
            assert_eq!(name_in(&event.xml), name, "{}", event.xml);
        }
    }
}

/// The name in a domain's XML.
fn name_in(xml: &str) -> String {
    let (_, rest) = xml.split_once("<name>").unwrap_or_else(|| panic!("no name in {xml:?}"));
    let name = rest.split("</name>").next().unwrap_or_default();
    [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")]
        .iter()
        .fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

fn large_and_hostile_xml_arrives_unchanged(debian: &Debian<'_>, service: &StandIn) {
    // Larger than a pipe and a message. libvirt needs many writes, and the hook reads for a second at most.
    let large = "x".repeat(1 << 18);
    let hostile = "&lt;/description&gt;&lt;vcpu&gt;9&lt;/vcpu&gt;&#x202e;]]&gt;";
    for text in [large.as_str(), hostile] {
        let xml = qemu_domain_with("other", "");
        let xml = xml.replace("<devices>", &format!("<description>{text}</description><devices>"));
        debian.write("/root/other.xml", &xml);
        virsh(debian, &["create", "/root/other.xml"]);
        virsh(debian, &["destroy", "other"]);
        let events = service.take_events();
        assert_eq!(events.len(), 4);
        for event in events {
            assert!(event.xml.contains("<description>") && event.xml.trim_end().ends_with("</domain>"));
            assert!(event.xml.len() > text.len() && event.xml.contains("<vcpu placement='static'>1</vcpu>"));
        }
    }
}

#[test]
fn only_a_refused_prepare_prevents_a_start() {
    privileged!();
    let host = Host::new();
    let debian = system(&host);
    let refuse = |operation: &'static str| {
        move |event: &Event| {
            let refused = event.operation.name() == operation;
            let wait = Reply::Wait(SLACK);
            let reason = "huge pages: 512 of 1024 pages of 2 MiB are free\n".to_owned();
            Answer::Replies(vec![wait, if refused { Reply::Refused(reason) } else { Reply::Done }])
        }
    };

    let service = StandIn::start(&root(&debian), refuse("prepare"));
    let output = try_virsh(&debian, &["start", DOMAIN]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(stderr.contains("huge pages: 512 of 1024 pages of 2 MiB are free"), "{stderr}");
    assert!(state(&debian).starts_with("shut off") && qemu(&debian).is_empty());
    assert_eq!(service.take_operations(), ["prepare", "stopped", "release"]);
    drop(service);

    for operation in ["started", "reconnect", "stopped", "release"] {
        let service = StandIn::start(&root(&debian), refuse(operation));
        virsh(&debian, &["start", DOMAIN]);
        debian.sh("systemctl restart libvirtd");
        wait::until_true("libvirt to report the domain", || service.events().len() == 3);
        wait_for_reconnection(&debian);
        assert_eq!(state(&debian), "running", "{operation}");
        virsh(&debian, &["destroy", DOMAIN]);
        let operations = service.take_operations();
        assert_eq!(operations, ["prepare", "started", "reconnect", "stopped", "release"]);
        drop(service);
    }
}

#[test]
fn a_restart_of_libvirtd_never_ends_a_domain() {
    privileged!();
    let host = Host::new();
    let debian = system(&host);
    virsh(&debian, &["start", DOMAIN]);
    let guest = qemu(&debian);
    assert_eq!(guest.lines().count(), 1, "{guest}");
    let restart = |what: &str| {
        debian.sh("systemctl restart libvirtd");
        wait_for_reconnection(&debian);
        assert_eq!(state(&debian), "running", "{what}");
        debian.sh("systemctl kill --signal=KILL --kill-whom=main libvirtd");
        wait::until_true("libvirtd to start again", || try_virsh(&debian, &["list"]).status.success());
        wait_for_reconnection(&debian);
        assert_eq!((state(&debian).as_str(), qemu(&debian)), ("running", guest.clone()), "{what}");
    };

    restart("the service was never started");
    for (what, answer) in [
        ("the service hangs", Answer::hang()),
        ("the service exits", Answer::Close),
        ("the service refuses", Answer::Replies(vec![Reply::Refused("no".to_owned())])),
        ("the service needs time and exits", Answer::Replies(vec![Reply::Wait(Duration::ZERO)])),
    ] {
        let service = StandIn::start(&root(&debian), move |_| answer.clone());
        restart(what);
        wait::until_true("libvirt to report the domain twice", || service.events().len() == 2);
        assert_eq!(service.take_operations(), ["reconnect"; 2], "{what}");
    }
    debian.sh(&format!(
        "mount -t tmpfs -o size=4k tmpfs {SPOOL}; dd if=/dev/zero of={SPOOL}/full bs=4k count=1"
    ));
    restart("the spool's file system is full");
    debian.sh(&format!("umount {SPOOL}; rm -r /run/wakevirt-host"));
    restart("the spool is missing");
    debian.sh(&format!("rm {HOOK}"));
    restart("the program is missing");
    debian.sh(&format!("rm {LINK}"));
    restart("the link is missing");

    // What libvirt does if a hook fails, so that the checks above can fail.
    debian.write(LINK, "#!/bin/false\n");
    debian.sh(&format!("chmod 755 {LINK}; systemctl restart libvirtd"));
    wait_for_reconnection(&debian);
    assert_eq!((state(&debian).as_str(), qemu(&debian).as_str()), ("shut off", ""));
}

/// Waits until libvirtd has called the hook for a running domain, and has handled its exit status: until then, it does
/// not suspend the domain, and a `destroy` reports that the domain is not running although it ends it.
fn wait_for_reconnection(debian: &Debian<'_>) {
    try_virsh(debian, &["suspend", DOMAIN]);
    try_virsh(debian, &["resume", DOMAIN]);
}

#[test]
fn libvirtd_is_killed_during_each_operation() {
    privileged!();
    let host = Host::new();
    let debian = system(&host);
    for (operation, running) in
        [("prepare", false), ("started", true), ("stopped", false), ("release", false)]
    {
        let service = StandIn::start(&root(&debian), move |event| {
            let is_slow = event.operation.name() == operation;
            Answer::Replies(vec![if is_slow { Reply::Wait(4 * SLACK) } else { Reply::Done }])
        });
        let cycle = "virsh --quiet --connect qemu:///system";
        debian.sh(&format!(
            "({cycle} start {DOMAIN} && {cycle} destroy {DOMAIN}) </dev/null >/dev/null 2>&1 &"
        ));
        let hook = wait::until("the hook to wait", || {
            let called = service.events().last().is_some_and(|event| event.operation.name() == operation);
            called.then(|| debian.sh("pgrep --exact 50-wakevirt || true")).filter(|pid| !pid.is_empty())
        });
        debian.sh("systemctl kill --signal=KILL --kill-whom=main libvirtd");
        wait::until_true("libvirtd to start again", || try_virsh(&debian, &["list"]).status.success());
        assert_eq!(state(&debian).starts_with("running"), running, "{operation}");
        // The service's exit ends the hook, which nobody waits for any more.
        drop(service);
        wait::until_true("the hook to exit", || debian.sh("pgrep --exact 50-wakevirt || true") != hook);
        let service = StandIn::start(&root(&debian), |_| Answer::done());
        if running {
            wait_for_reconnection(&debian);
            virsh(&debian, &["destroy", DOMAIN]);
        }
        let _ = service.take_events();
        virsh(&debian, &["start", DOMAIN]);
        virsh(&debian, &["destroy", DOMAIN]);
        assert_eq!(service.take_operations(), [START, END].concat(), "{operation}");
    }
}

#[test]
fn hook_ignores_the_domains_of_a_users_own_daemon() {
    privileged!();
    let host = Host::new();
    let debian = system(&host);
    measure(&debian);
    let service = StandIn::start(&root(&debian), |_| Answer::done());
    debian.sh("useradd --user-group --create-home bob && loginctl enable-linger bob");
    wait::until_true("the user's service manager", || {
        debian.sh("systemctl is-active user@$(id --user bob).service || true") == "active\n"
    });
    debian.sh(&format!("install -m 644 /root/{DOMAIN}.xml /home/bob/"));
    debian.in_session(
        "bob",
        &format!("virsh --quiet --connect qemu:///session create ~/{DOMAIN}.xml && virsh --connect qemu:///session destroy {DOMAIN}"),
    );
    let calls = take_calls(&debian);
    assert!(calls.iter().any(|call| call.operation == "prepare"), "{calls:?}");
    assert!(calls.iter().all(|call| call.uid != 0 && call.status == 0), "{calls:?}");
    assert_eq!((service.take_operations(), debian.sh(&format!("ls {SPOOL}"))), (Vec::new(), String::new()));
}

/// Sets the domain's table in host.toml, and starts or reloads the service. The file that compacts memory is read-only in
/// a container, so the preparation fails.
fn configure(debian: &Debian<'_>, require: bool) {
    let table = format!("[[domain]]\nmatch = \"{DOMAIN}\"\nprepare = [\"compact\"]\nrequire = {require}\n");
    debian.write("/etc/wakevirt/host.toml", &table);
    debian.sh("systemctl reload-or-restart wakevirt-host");
}

/// Waits until wakevirt-host has handled all events, and has this many records.
fn wait_for_records(debian: &Debian<'_>, count: usize, what: &str) {
    let records = format!("grep -c '\"name\": *\"{DOMAIN}\"' /run/wakevirt-host/state/state.json || true");
    let expected = format!("0\n{count}\n");
    let state = || debian.sh(&format!("ls {SPOOL} | wc -l; {records}"));
    // The spool can contain many events.
    let settled = wait::within(3 * wait::TIMEOUT, || (state() == expected).then_some(()));
    assert!(settled.is_some(), "{what}: {}\n{}", state(), debian.journal("wakevirt-host"));
}

#[test]
fn wakevirt_host_prevents_a_start_only_if_host_toml_requires_it() {
    privileged!();
    let host = Host::new();
    let debian = system(&host);
    configure(&debian, true);
    let output = try_virsh(&debian, &["start", DOMAIN]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("/compact"), "{stderr}");
    assert!(state(&debian).starts_with("shut off") && qemu(&debian).is_empty());
    wait_for_records(&debian, 0, "refused");

    // The service cannot refuse what it does not see.
    debian.sh("systemctl kill --signal=STOP wakevirt-host");
    virsh(&debian, &["start", DOMAIN]);
    debian.sh("systemctl kill --signal=CONT wakevirt-host");
    wait_for_records(&debian, 1, "started while the service hung");
    virsh(&debian, &["destroy", DOMAIN]);
    wait_for_records(&debian, 0, "destroyed");

    configure(&debian, false);
    wait::until_true("the reload", || debian.journal("wakevirt-host").contains("configuration reloaded"));
    virsh(&debian, &["start", DOMAIN]);
    wait_for_records(&debian, 1, "started without `require`");
    virsh(&debian, &["destroy", DOMAIN]);
    wait_for_records(&debian, 0, "destroyed");
}

#[test]
fn no_record_remains_when_wakevirt_host_or_libvirtd_is_killed() {
    privileged!();
    let host = Host::new();
    let debian = system(&host);
    configure(&debian, false);
    measure(&debian);
    let kill = "systemctl kill --signal=KILL --kill-whom=main";
    for between in ["true", &format!("{kill} wakevirt-host"), &format!("{kill} libvirtd")] {
        for arguments in [["start", DOMAIN], ["destroy", DOMAIN]] {
            virsh(&debian, &arguments);
            debian.sh(between);
            wait::until_true("libvirtd to start again", || try_virsh(&debian, &["list"]).status.success());
            let running = usize::from(arguments == ["start", DOMAIN]);
            wait_for_reconnection(&debian);
            wait_for_records(&debian, running, &format!("{arguments:?}, {between}"));
            assert_eq!(qemu(&debian).lines().count(), running);
        }
    }
    // Killed again and again while the domain starts and stops.
    debian.sh(&format!(
        "systemd-run --quiet --unit=killer sh -c 'while :; do {kill} wakevirt-host; sleep 0.3; done'"
    ));
    let _ = take_calls(&debian);
    for _ in 0..5 {
        measured_cycle(&debian, "the service is killed");
    }
    debian.sh("systemctl stop killer");
    wait_for_records(&debian, 0, "killed many times");

    // A hundred events while the service is stopped.
    debian.sh("systemctl stop wakevirt-host.socket wakevirt-host.service");
    for _ in 0..25 {
        measured_cycle(&debian, "the service is stopped");
    }
    assert_eq!(debian.sh(&format!("ls {SPOOL} | wc -l")), "100\n");
    debian.sh("systemctl start wakevirt-host");
    wait_for_records(&debian, 0, "a hundred events");
}
