//! A user's virtual machine that is running and is shown as shut off: its causes, and that it does not happen with the
//! user units. The user logs in over SSH, as a member of the `kvm` group only.
#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test may panic")]

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::{Debian, ROOT, ssh};
use wakevirt_tests::host::{Host, project, succeed};
use wakevirt_tests::libvirt::qemu_domain_with;
use wakevirt_tests::process::Process;
use wakevirt_tests::{privileged, wait};

const USER: &str = "alice";
const DOMAIN: &str = "own";
const MAC: &str = "52:54:00:12:34:56";
const OTHER_MAC: &str = "52:54:00:12:34:57";
/// The pgrep(1) patterns for QEMU processes and libvirt daemons.
const GUEST: &str = "qemu-system";
const DAEMON: &str = "(libvirtd|virtqemud)";
/// Each daemon, of which Debian packages only the first one.
const LIBVIRTD: &str = "libvirtd";
const VIRTQEMUD: &str = "virtqemud";
/// A domain that libvirt starts.
const AUTOSTARTED: &str = "boot";
/// sshd starts no session for a login.
const WITHOUT_PAM: (&str, &str) = ("no-pam.conf", "UsePAM no\n");
/// The shipped drop-in for sshd.
const DROP_IN: &str = "docs/examples/ssh/10-wakevirt-session.conf";

/// Boots a Debian system on which wakevirt and this daemon are installed, and capture and an SSH server are running. The
/// user has definitions of domains, which log their serial console.
fn site<'host>(host: &'host Host, daemon: &str) -> Debian<'host> {
    let mut debian = Debian::new(host, Kind::DbusDaemon);
    debian.install();
    if daemon == VIRTQEMUD {
        // libvirtd is still installed: no program must start it.
        let built = succeed(&mut Command::new(project().join("scripts/modular-libvirt")));
        host.sh(&format!("cp -a {}/. {ROOT}/", built.trim()));
    }
    for (name, mac) in [(DOMAIN, MAC), (AUTOSTARTED, OTHER_MAC)] {
        let devices = format!(
            "<interface type='user'><mac address='{mac}'/><model type='virtio'/></interface>
             <serial type='pty'><log file='/home/{USER}/{name}.log'/></serial>"
        );
        // The firmware writes to the console.
        let xml = qemu_domain_with(name, &devices).replace("</type>", "</type><bios useserial='yes'/>");
        debian.write(&format!("/root/{name}.xml"), &xml);
    }
    debian.boot();
    ssh::install(&debian);
    debian.sh(&format!(
        "systemctl enable --now wakevirt-capture
         useradd --create-home --user-group --groups kvm --shell /bin/bash {USER}
         install -m 644 /root/{DOMAIN}.xml /root/{AUTOSTARTED}.xml /home/{USER}/
         install -d -o {USER} -g {USER} /home/{USER}/.config /home/{USER}/.config/libvirt
         cp /etc/libvirt/qemu.conf /home/{USER}/.config/libvirt/qemu.conf"
    ));
    ssh::authorize(&debian, USER);
    debian
}

/// The process IDs of a program that the user runs.
fn processes(debian: &Debian<'_>, program: &str) -> Vec<String> {
    let pids = debian.sh(&format!("pgrep --uid {USER} --full '(^|/){program}' || true"));
    pids.lines().map(str::to_owned).collect()
}

/// The state of the domain that the user's programs show, in a new SSH session.
fn state(debian: &Debian<'_>) -> String {
    virsh(debian, &format!("domstate {DOMAIN}"))
}

/// Runs virsh(1) as the user, in a new SSH session.
fn virsh(debian: &Debian<'_>, command: &str) -> String {
    ssh::run(debian, USER, &format!("virsh --quiet --connect qemu:///session {command}")).trim().to_owned()
}

/// The state of the domain that another host shows, which connects over SSH with a URI without parameters.
fn state_over_ssh(debian: &Debian<'_>) -> String {
    let uri = format!("qemu+ssh://{USER}@127.0.0.1/session");
    succeed(debian.command("virsh").args(["--quiet", "--connect", &uri, "domstate", DOMAIN]))
        .trim()
        .to_owned()
}

/// Runs doctor in the user's session, which must exist, and the command of this finding.
fn run_fix(debian: &Debian<'_>, check: &str) {
    let json = debian.in_session(USER, "wakevirtctl --bus session --json doctor || true");
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let finding = json["findings"].as_array().and_then(|all| all.iter().find(|it| it["check"] == check));
    let command = finding.and_then(|it| it["cure"].as_str());
    debian.in_session(USER, command.unwrap_or_else(|| panic!("doctor does not find {check}: {json:#}")));
}

/// Logs in over SSH until [`log_out`].
fn log_in(debian: &Debian<'_>) -> Process {
    let line = "echo hello; until test -e /tmp/log-out; do sleep 0.1; done";
    let session = Process::start("a login", &mut ssh::command(debian, USER, line));
    let _ = session.log().wait_for("hello");
    session
}

fn log_out(debian: &Debian<'_>, mut session: Process) {
    debian.sh("touch /tmp/log-out");
    let _ = session.wait_for_exit();
    debian.sh("rm /tmp/log-out");
}

/// Waits until logind(8) has removed the user's runtime directory, and has forgotten the user.
fn wait_for_logout(debian: &Debian<'_>) {
    let exists =
        format!("{{ ls /run/user; loginctl --no-legend list-users; }} | grep -cw $(id -u {USER}) || true");
    let gone = wait::within(wait::TIMEOUT * 3, || (debian.sh(&exists) == "0\n").then_some(()));
    assert!(gone.is_some(), "the runtime directory still exists");
}

/// Kills all processes of the user.
fn end_everything(debian: &Debian<'_>) {
    debian.sh(&format!("pkill --signal KILL --uid {USER}"));
    wait_for_logout(debian);
}

/// Starts the user's libvirt daemon with the user units, without a login.
fn enable_units(debian: &Debian<'_>) {
    debian.sh(&format!("loginctl enable-linger {USER}"));
    let bus = format!("test -S /run/user/$(id -u {USER})/bus && echo yes || true");
    wait::until_true("the user's service manager", || debian.sh(&bus) == "yes\n");
    let before = connections(debian);
    debian.in_session(USER, "systemctl --user enable --now wakevirt-actor");
    wait_for_actor(debian, before);
}

/// How many times the user's actor has connected to a daemon since the system's boot.
fn connections(debian: &Debian<'_>) -> usize {
    debian.user_journal("wakevirt-actor").matches("connected to qemu:///session").count()
}

/// Waits until the user's actor has connected to a daemon more often than this.
fn wait_for_actor(debian: &Debian<'_>, before: usize) {
    // A daemon that ends waits up to 30 s for its own threads.
    let connected = wait::within(wait::TIMEOUT * 3, || (connections(debian) > before).then_some(()));
    assert!(connected.is_some(), "the user's actor does not connect to the daemon");
}

/// A system service starts the daemon in the runtime directory of a login, as the user. logind(8) removes that directory
/// after the last logout, and QEMU keeps running.
#[test]
#[ignore = "make check-anywhere"]
fn vm_is_lost_when_its_runtime_directory_goes() {
    privileged!();
    let host = Host::new();
    let debian = site(&host, LIBVIRTD);
    let session = log_in(&debian);
    virsh(&debian, &format!("define {DOMAIN}.xml"));
    let daemon = processes(&debian, DAEMON).join(" ");
    debian.sh(&format!(
        "kill {daemon}; while kill -0 {daemon} 2>/dev/null; do sleep 0.1; done
         uid=$(id -u {USER})
         systemd-run --unit=own-vms --property=User={USER} --property=KillMode=process \
             --setenv=XDG_RUNTIME_DIR=/run/user/$uid --setenv=HOME=/home/{USER} libvirtd
         until test -S /run/user/$uid/libvirt/libvirt-sock; do sleep 0.1; done"
    ));
    virsh(&debian, &format!("start {DOMAIN}"));
    assert_eq!(state(&debian), "running");
    log_out(&debian, session);
    wait_for_logout(&debian);

    // The VM is running, and is shown as shut off.
    let guest = processes(&debian, GUEST);
    assert_eq!(guest.len(), 1, "{guest:?}");
    assert_eq!(state(&debian), "shut off");
    assert_eq!(state_over_ssh(&debian), "shut off");
    assert_eq!(processes(&debian, GUEST), guest);
    let session = log_in(&debian);
    run_fix(&debian, "lost-vm");
    wait::until_true("QEMU to exit", || processes(&debian, GUEST).is_empty());
    log_out(&debian, session);
    end_everything(&debian);

    // With the units, the directory stays.
    enable_units(&debian);
    let session = log_in(&debian);
    virsh(&debian, &format!("start {DOMAIN}"));
    log_out(&debian, session);
    let is_lingering = format!("loginctl show-user --property=State --value {USER}");
    wait::until_true("the session to end", || debian.sh(&is_lingering) == "lingering\n");
    assert_eq!(state(&debian), "running");
    assert_eq!(state_over_ssh(&debian), "running");
    assert_eq!(processes(&debian, DAEMON).len(), 1);
}

/// A login without a session has no `XDG_RUNTIME_DIR`. libvirt then uses a directory in `~/.cache`.
#[test]
fn vm_is_lost_over_ssh_without_a_session() {
    privileged!();
    let host = Host::new();
    let debian = site(&host, LIBVIRTD);
    let session = log_in(&debian);
    virsh(&debian, &format!("define {DOMAIN}.xml"));
    virsh(&debian, &format!("start {DOMAIN}"));
    assert_eq!(state_over_ssh(&debian), "running");
    assert_eq!(processes(&debian, DAEMON).len(), 1);
    ssh::configure(&debian, WITHOUT_PAM.0, WITHOUT_PAM.1);
    assert_eq!(state_over_ssh(&debian), "shut off");
    assert_eq!(processes(&debian, GUEST).len(), 1);
    assert_eq!(processes(&debian, DAEMON).len(), 2);
    run_fix(&debian, "two-runtime-directories");
    wait_for_actor(&debian, 0);
    let in_session = format!("virsh --quiet --connect qemu:///session domstate {DOMAIN}");
    assert_eq!(debian.in_session(USER, &in_session).trim(), "running");
    assert_eq!(processes(&debian, DAEMON).len(), 1);
    log_out(&debian, session);
    end_everything(&debian);

    // With the units and the drop-in, there is one daemon.
    enable_units(&debian);
    configure_drop_in(&debian);
    virsh(&debian, &format!("start {DOMAIN}"));
    assert_eq!(state_over_ssh(&debian), "running");
    assert_eq!(processes(&debian, DAEMON).len(), 1);
}

/// Installs the shipped drop-in for sshd, for the user.
fn configure_drop_in(debian: &Debian<'_>) {
    let path = project().join(DROP_IN);
    let text = std::fs::read_to_string(path).expect("the example");
    let uid = debian.sh(&format!("id -u {USER}"));
    let text = text.replace("Match User alice", &format!("Match User {USER}")).replace("1000", uid.trim());
    ssh::configure(debian, "10-wakevirt-session.conf", &text);
}

/// When logind announces that the host shuts down, the daemon saves the VM. Newer versions of libvirt restore it at boot.
#[test]
#[ignore = "make check-anywhere"]
fn vm_is_saved_when_the_host_shuts_down() {
    privileged!();
    let host = Host::new();
    let mut debian = site(&host, LIBVIRTD);
    enable_units(&debian);
    virsh(&debian, &format!("'define {DOMAIN}.xml; start {DOMAIN}'"));
    debian.reboot();
    wait_for_actor(&debian, 0);
    let log = debian.sh(&format!("cat /home/{USER}/.cache/libvirt/qemu/log/{DOMAIN}.log"));
    assert!(log.contains("shutting down, reason=saved"), "{log}");
    let reason = || virsh(&debian, &format!("domstate --reason {DOMAIN}"));
    if debian.sh("libvirtd --version").contains(" 9.") {
        assert_eq!(virsh(&debian, "list --all --with-managed-save --name"), DOMAIN);
        let saved = debian.sh(&format!("ls /home/{USER}/.config/libvirt/qemu/save"));
        assert_eq!(saved.trim(), format!("{DOMAIN}.save"));
        virsh(&debian, &format!("start {DOMAIN}"));
    }
    wait::until_true("the VM to be restored", || reason() == "running (restored)");
}

/// Boots without a login: libvirt starts the domain with its autostart flag, and a packet wakes the other one. Then both
/// run until the user connects after three idle minutes.
fn runs_from_boot(program: &str) {
    let host = Host::new();
    let lan = host.veth("port0");
    let mut debian = site(&host, program);
    ssh::run(&debian, USER, &format!("wakevirtctl --bus session allow --force {DOMAIN}"));
    enable_units(&debian);
    virsh(&debian, &format!("'define {DOMAIN}.xml; define {AUTOSTARTED}.xml; autostart {AUTOSTARTED}'"));
    debian.reboot();
    let guests = |count: usize| {
        let seen =
            wait::within(wait::TIMEOUT * 3, || (processes(&debian, GUEST).len() == count).then_some(()));
        assert!(seen.is_some(), "{count} guests do not run:\n{}", debian.user_journal("wakevirt-libvirtd"));
    };
    guests(1);
    wait_for_actor(&debian, 0);
    lan.etherwake(MAC, &["-b"]);
    guests(2);
    assert_eq!(
        debian.sh("loginctl --no-legend list-sessions | grep -vw manager || true"),
        "",
        "a user is logged in"
    );
    let daemons = processes(&debian, DAEMON);
    assert_eq!(daemons, processes(&debian, program), "the daemon is another one");
    assert_eq!(daemons.len(), 1, "{daemons:?}");
    let log = debian.user_journal("wakevirt-libvirtd");
    assert!(log.contains("libvirt version: "), "the daemon does not log to the journal: {log}");

    guests_survive(&debian, program);
    let daemon = processes(&debian, DAEMON);
    kill_bus(&debian);

    std::thread::sleep(Duration::from_secs(180));
    assert_eq!(state_over_ssh(&debian), "running");
    configure_drop_in(&debian);
    ssh::configure(&debian, WITHOUT_PAM.0, WITHOUT_PAM.1);
    assert_eq!(state_over_ssh(&debian), "running");
    assert_eq!(virsh(&debian, &format!("domstate {AUTOSTARTED}")), "running");
    assert_eq!(processes(&debian, DAEMON), daemon);
    assert_eq!(processes(&debian, program), daemon);
    assert_eq!(processes(&debian, GUEST).len(), 2);
}

/// Kills the daemon. The guests and the logs of their consoles survive it.
fn guests_survive(debian: &Debian<'_>, program: &str) {
    let daemons = processes(debian, DAEMON);
    let starts =
        || debian.sh(&format!("grep -c SeaBIOS /home/{USER}/{DOMAIN}.log || true")).trim().to_owned();
    wait::until_true("the guest to write to its console", || starts() == "1");
    debian.sh(&format!("kill -9 {}", daemons.join(" ")));
    let restarted = wait::within(wait::TIMEOUT * 2, || {
        let now = processes(debian, DAEMON);
        (now.len() == 1 && now != daemons && has_socket(debian, program)).then_some(())
    });
    assert!(restarted.is_some(), "the daemon does not run: {:?}", processes(debian, DAEMON));
    virsh(debian, &format!("reset {DOMAIN}"));
    wait::until_true("the guest to write to its console again", || starts() == "2");
}

/// Kills the user's bus, on which the daemon must not depend.
fn kill_bus(debian: &Debian<'_>) {
    let before = connections_to_bus(debian);
    debian.in_session(USER, "systemctl --user kill --signal=KILL dbus.service");
    wait::until_true("the actor to connect to the bus again", || connections_to_bus(debian) > before);
}

/// How many times the user's actor has connected to the user's bus since the system's boot.
fn connections_to_bus(debian: &Debian<'_>) -> usize {
    debian.user_journal("wakevirt-actor").matches("providing org.wakevirt.Actor1").count()
}

/// Whether a client can connect to the daemon.
fn has_socket(debian: &Debian<'_>, program: &str) -> bool {
    let socket = if program == VIRTQEMUD { "virtqemud-sock" } else { "libvirt-sock" };
    let line = format!(
        "LIBVIRT_AUTOSTART=0 virsh --quiet --connect 'qemu:///session?socket=/run/user/'$(id -u)'/libvirt/{socket}' uri"
    );
    ssh::command(debian, USER, &line).output().is_ok_and(|output| output.status.success())
}

#[test]
#[ignore = "make check-anywhere"]
fn runs_from_boot_with_libvirtd() {
    privileged!();
    runs_from_boot(LIBVIRTD);
}

#[test]
#[ignore = "make check-anywhere"]
fn runs_from_boot_with_virtqemud() {
    privileged!();
    runs_from_boot(VIRTQEMUD);
}
