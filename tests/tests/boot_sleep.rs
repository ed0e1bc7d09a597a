//! wakevirt-sleep on a booted Debian system with logind, systemd and QEMU. The kernel's file for sleep states is replaced,
//! so that systemd goes through a complete suspend, but the machine stays awake.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::path::Path;

use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::Debian;
use wakevirt_tests::host::{Host, project, succeed};
use wakevirt_tests::libvirt::linux;
use wakevirt_tests::libvirt::machine::Guest;
use wakevirt_tests::libvirt::qemu_domain_with;
use wakevirt_tests::{privileged, wait};

/// The file in place of `/sys/power/state`, and its content before a suspend.
const STATE: &str = "/run/power-state";
const STATES: &str = "freeze mem disk";
/// systemd-sleep(8) runs this program before and after the kernel suspends.
const HOOK: &str = "#!/bin/sh\nvirsh --quiet --connect qemu:///system list --all >/run/domains-$1\n";
/// Guests that do not react to anything.
const IDLE: &str = "<serial type='null'/>";
/// The unit that puts domains to sleep.
const SUSPEND: &str = "wakevirt-suspend";

/// A system on which wakevirt-sleep is installed with this configuration, and its units are enabled.
fn site<'host>(host: &'host Host, config: &str) -> Debian<'host> {
    let mut debian = Debian::new(host, Kind::DbusDaemon);
    debian.install();
    debian.write("/etc/wakevirt/host.toml", config);
    debian.write("/usr/lib/systemd/system-sleep/record", HOOK);
    let floppy = Guest::PowersOff.floppy().expect("a boot sector");
    std::fs::write(debian.path("/var/lib/libvirt/images/powers-off.img"), floppy)
        .expect("the image is written");
    debian.boot();
    debian.sh(&format!(
        "chmod +x /usr/lib/systemd/system-sleep/record
         echo '{STATES}' >{STATE}
         mount --bind {STATE} /sys/power/state
         systemctl enable --now wakevirt-sleep wakevirt-shutdown
         systemctl enable {SUSPEND}
         systemctl start systemd-logind"
    ));
    debian
}

fn start(debian: &Debian<'_>, name: &str, devices: &str) {
    debian.write(&format!("/root/{name}.xml"), &qemu_domain_with(name, devices));
    virsh(debian, &format!("define '/root/{name}.xml'"));
    virsh(debian, &format!("start '{name}'"));
}

/// Starts a guest that powers off when it is asked to, and waits until it accepts such a request.
fn start_obedient(debian: &Debian<'_>, name: &str) {
    let floppy = "<disk type='file' device='floppy'><driver name='qemu' type='raw'/>
        <source file='/var/lib/libvirt/images/powers-off.img'/><target dev='fda' bus='fdc'/><readonly/></disk>";
    start(debian, name, floppy);
    // The guest has enabled the power button in the register for this.
    wait::until_true("the guest to enable the power button", || {
        let command = format!("qemu-monitor-command '{name}' --hmp 'i/h 0x602'");
        virsh(debian, &command).ends_with("0100")
    });
}

fn virsh(debian: &Debian<'_>, command: &str) -> String {
    debian.sh(&format!("virsh --quiet --connect qemu:///system {command}")).trim().to_owned()
}

fn state(debian: &Debian<'_>, domain: &str) -> String {
    virsh(debian, &format!("domstate {domain}"))
}

/// Requests a suspend as root. Returns logind's error, if any.
fn suspend(debian: &Debian<'_>) -> String {
    debian.sh(&format!("rm -f /run/domains-*; echo '{STATES}' >{STATE}"));
    call_suspend(debian.command("busctl"))
}

fn call_suspend(mut busctl: std::process::Command) -> String {
    let call =
        "call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager Suspend b false";
    let output = busctl.args(call.split(' ')).output().expect("busctl runs");
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

/// What systemd has written to the kernel's file: `mem` in place of the first characters.
fn has_suspended(debian: &Debian<'_>) -> bool {
    !debian.sh(&format!("cat {STATE}")).starts_with(STATES)
}

/// Prints the number of jobs, whether logind refuses another suspend, and whether units of the suspend are active.
const PROGRESS: &str = "systemctl list-jobs --no-legend | grep -c . || true
    busctl get-property org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager PreparingForSleep
    systemctl is-active sleep.target wakevirt-suspend || true";

/// Waits until the suspend has ended for systemd and logind, and its unit as well.
fn wait_until_awake(debian: &Debian<'_>) {
    // Guests can take long to sleep and to be awake again.
    let (output, is_awake) = wait::observe(
        4 * wait::TIMEOUT,
        || debian.sh(PROGRESS),
        |output| {
            output.starts_with("0\nb false\n")
                && !output.lines().any(|line| ["active", "activating", "deactivating"].contains(&line))
        },
    );
    assert!(is_awake, "the host is not awake:\n{output}\n{}", debian.journal(SUSPEND));
}

/// The modes of wakevirt's locks in logind, each with what it locks.
fn locks(debian: &Debian<'_>) -> Vec<(String, String)> {
    let list = debian.sh("busctl --json=short call org.freedesktop.login1 /org/freedesktop/login1 \
                          org.freedesktop.login1.Manager ListInhibitors");
    let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    let list = list.pointer("/data/0").and_then(|list| list.as_array()).expect("a list");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    list.iter().filter(|it| it[1] == "wakevirt").map(|it| (text(&it[3]), text(&it[0]))).collect()
}

fn wait_for_locks(debian: &Debian<'_>, expected: &[(&str, &str)]) {
    let expected: Vec<_> =
        expected.iter().map(|(mode, what)| ((*mode).to_owned(), (*what).to_owned())).collect();
    let found = wait::within(wait::TIMEOUT, || (locks(debian) == expected).then_some(()));
    assert!(
        found.is_some(),
        "{:?} instead of {expected:?}:\n{}",
        locks(debian),
        debian.journal("wakevirt-sleep")
    );
}

/// The version of systemd.
fn systemd(debian: &Debian<'_>) -> u32 {
    let version = debian.sh("systemctl --version");
    version.split([' ', '(']).nth(1).and_then(|number| number.parse().ok()).expect("a version")
}

/// The program's user can take no other locks.
fn takes_no_other_locks(debian: &Debian<'_>) {
    assert_ne!(call_suspend(debian.command_as("wakevirt-sleep", "busctl")), "");
    for (what, allowed) in
        [("sleep:idle:handle-lid-switch", true), ("shutdown", false), ("handle-power-key", false)]
    {
        let mut inhibit = debian.command_as("wakevirt-sleep", "systemd-inhibit");
        let status = inhibit.args([&format!("--what={what}"), "--who=test", "--mode=block", "true"]).status();
        assert_eq!(status.expect("setpriv runs").success(), allowed, "{what}");
    }
}

/// The lock is taken again after a restart of logind and of the bus.
fn keeps_its_lock_over_restarts(debian: &Debian<'_>, mode: &str) {
    // systemd 257's logind does not return to a bus that was restarted.
    for restart in
        ["systemctl restart systemd-logind", "systemctl restart dbus; systemctl restart systemd-logind"]
    {
        debian.sh(restart);
        wait::until_true("the bus to be available", || {
            debian
                .command("busctl")
                .args(["status", "org.freedesktop.login1"])
                .output()
                .is_ok_and(|it| it.status.success())
        });
        wait_for_locks(debian, &[(mode, "sleep:idle")]);
    }
}

const NOSLEEP: &str = "[[domain]]\nmatch = \"weak\"\nnosleep = true\n
[[domain]]\nmatch = \"lid\"\nnosleep = true\nlid = true\n
[[domain]]\nmatch = \"block\"\nnosleep = \"block\"\n";

#[test]
fn keeps_the_host_awake_while_a_domain_runs() {
    privileged!();
    let host = Host::new();
    let debian = site(&host, NOSLEEP);
    // The first version with block-weak, and the first in which root does not override block: NEWS of systemd 257.
    let is_new = systemd(&debian) >= 257;
    let weak = if is_new { "block-weak" } else { "block" };
    assert_eq!(locks(&debian), []);
    assert_eq!(suspend(&debian), "");
    wait_until_awake(&debian);
    assert!(has_suspended(&debian));

    start(&debian, "other", IDLE);
    start(&debian, "weak", IDLE);
    wait_for_locks(&debian, &[(weak, "sleep:idle")]);
    // A user is refused, and root is not.
    debian.sh("useradd someone");
    assert_ne!(call_suspend(debian.command_as("someone", "busctl")), "");
    assert_eq!(suspend(&debian), "");
    wait_until_awake(&debian);
    assert!(has_suspended(&debian));
    takes_no_other_locks(&debian);
    keeps_its_lock_over_restarts(&debian, weak);

    start(&debian, "lid", IDLE);
    wait_for_locks(&debian, &[(weak, "sleep:idle:handle-lid-switch")]);
    start(&debian, "block", IDLE);
    wait_for_locks(&debian, &[("block", "sleep:idle:handle-lid-switch")]);
    virsh(&debian, "destroy lid");
    wait_for_locks(&debian, &[("block", "sleep:idle")]);
    let refusal = suspend(&debian);
    wait_until_awake(&debian);
    assert_eq!((refusal.is_empty(), has_suspended(&debian)), (!is_new, !is_new), "{refusal}");

    // The lock remains while libvirt is unavailable, because the domains run on.
    debian.sh("systemctl stop libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirtd");
    wait::until_true("the connection to be lost", || {
        debian.journal("wakevirt-sleep").contains("is unavailable")
    });
    wait_for_locks(&debian, &[("block", "sleep:idle")]);
    debian.sh("systemctl start libvirtd.socket libvirtd");
    // A new libvirtd may not find the QEMU process of a domain, because this system has no cgroup controllers.
    debian.sh("for domain in weak block; do virsh --connect qemu:///system destroy $domain || true; done");
    wait_for_locks(&debian, &[]);
}

const SLEEP: &str = "[[domain]]\nmatch = \"*paused\"\nsleep = \"pause\"\n
[[domain]]\nmatch = \"saved\"\nsleep = \"save\"\n
[[domain]]\nmatch = \"off*\"\nsleep = \"shutdown\"\n";

/// Domains in each state, and what they do during the suspend and afterwards.
fn suspends_with_domains(debian: &Debian<'_>) {
    for name in ["paused", "already paused", "saved", "other"] {
        start(debian, name, IDLE);
    }
    start_obedient(debian, "off");
    start_obedient(debian, "off already");
    virsh(debian, "destroy 'off already'");
    virsh(debian, "suspend 'already paused'");
    assert_eq!(suspend(debian), "");
    wait_until_awake(debian);
    assert!(has_suspended(debian), "{}", debian.journal(SUSPEND));
    let expected = |running| {
        [
            ("paused", "paused"),
            ("already paused", "paused"),
            ("saved", "shut off"),
            ("other", "running"),
            ("off", "shut off"),
            ("off already", "shut off"),
        ]
        .map(|(name, asleep)| (name, if running && !name.contains("already") { "running" } else { asleep }))
    };
    let during = debian.sh("cat /run/domains-pre");
    for (name, state) in expected(false) {
        let line = during.lines().find(|line| line.contains(&format!(" {name}  "))).unwrap_or_default();
        assert!(line.ends_with(state), "{name} is not {state}:\n{during}\n{}", debian.journal(SUSPEND));
    }
    for (name, expected) in expected(true) {
        assert_eq!(state(debian, &format!("'{name}'")), expected, "{name}:\n{}", debian.journal(SUSPEND));
    }
    assert_eq!(debian.sh("ls /run/wakevirt-sleep"), "");
}

#[test]
fn puts_domains_to_sleep_and_wakes_only_those() {
    privileged!();
    let host = Host::new();
    let debian = site(&host, SLEEP);
    suspends_with_domains(&debian);
}

#[test]
fn restricted_permissions_in_libvirt_are_enough() {
    privileged!();
    let host = Host::new();
    let debian = site(&host, SLEEP);
    debian.sh(
        "for unit in wakevirt-sleep wakevirt-suspend; do
             mkdir -p /etc/systemd/system/$unit.service.d
             cp /usr/share/doc/wakevirt/examples/restricted/restricted.conf /etc/systemd/system/$unit.service.d/
         done
         sed -i '$a\\' /etc/libvirt/libvirtd.conf
         cat /usr/share/doc/wakevirt/examples/restricted/libvirtd.conf >>/etc/libvirt/libvirtd.conf
         systemctl daemon-reload
         systemctl restart libvirtd wakevirt-sleep",
    );
    let secret = ["--reuid", "wakevirt-sleep", "--regid", "wakevirt-sleep", "--clear-groups", "--"];
    let virsh = ["virsh", "--connect", "qemu:///system", "nodedev-list"];
    let denied = debian.command("setpriv").args(secret).args(virsh).output().expect("setpriv runs");
    assert!(String::from_utf8_lossy(&denied.stderr).contains("access denied"), "{denied:?}");
    suspends_with_domains(&debian);
}

const STUCK: &str = "sleep-wait = \"10s\"\n
[[domain]]\nmatch = \"stuck\"\nsleep = \"shutdown\"\non-failure = \"stay-awake\"\n
[[domain]]\nmatch = \"paused\"\nsleep = \"pause\"\n";

#[test]
fn a_domain_that_does_not_sleep_in_time_keeps_the_host_awake_if_configured() {
    privileged!();
    let host = Host::new();
    let debian = site(&host, STUCK);
    start(&debian, "stuck", IDLE);
    start(&debian, "paused", IDLE);
    assert_eq!(suspend(&debian), "");
    wait_until_awake(&debian);
    let log = debian.journal(SUSPEND);
    assert!(!has_suspended(&debian), "{log}");
    for line in [
        "the host stays awake",
        "asleep: domain \"paused\" (pause)",
        "not asleep: domain \"stuck\" (shutdown)",
        "awake: domain \"paused\"",
    ] {
        assert!(log.contains(line), "{line}:\n{log}");
    }
    assert_eq!([state(&debian, "stuck"), state(&debian, "paused")], ["running", "running"]);

    debian.write("/etc/wakevirt/host.d/late.toml", "[[domain]]\nmatch = \"stuck\"\non-failure = \"sleep\"\n");
    assert_eq!(suspend(&debian), "");
    wait_until_awake(&debian);
    assert!(has_suspended(&debian), "{}", debian.journal(SUSPEND));
    assert_eq!([state(&debian, "stuck"), state(&debian, "paused")], ["running", "running"]);

    // Without libvirt, it is not known which domains run.
    debian.sh("rm /etc/wakevirt/host.d/late.toml
         systemctl stop wakevirt-sleep libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirtd");
    assert_eq!(suspend(&debian), "");
    wait_until_awake(&debian);
    let log = debian.journal(SUSPEND);
    assert!(!has_suspended(&debian) && log.contains("the running domains are not known"), "{log}");
}

#[test]
fn a_killed_suspend_leaves_no_domain_asleep() {
    privileged!();
    let host = Host::new();
    let debian = site(&host, &STUCK.replace("10s", "1h"));
    start(&debian, "stuck", IDLE);
    start(&debian, "paused", IDLE);
    assert_eq!(suspend(&debian), "");
    wait::until_true("the domain to sleep", || state(&debian, "paused") == "paused");
    let list = debian.sh("stat --format='%A %U' /run/wakevirt-sleep/asleep.json");
    assert_eq!(list, "-rw------- wakevirt-sleep\n");
    debian.sh("kill -9 $(systemctl show --property=MainPID --value wakevirt-suspend)");
    wait::until_true("the domain to be awake", || state(&debian, "paused") == "running");
    wait_until_awake(&debian);
    assert!(!has_suspended(&debian));
}

#[test]
fn saves_and_shuts_down_domains_before_the_host_shuts_down() {
    privileged!();
    let host = Host::new();
    let config = "[[domain]]\nmatch = \"saved\"\nshutdown = \"save\"\n
                  [[domain]]\nmatch = \"off\"\nshutdown = \"shutdown\"\n";
    let mut debian = site(&host, config);
    debian.sh("mkdir -p /var/log/journal && journalctl --flush");
    start(&debian, "saved", IDLE);
    start_obedient(&debian, "off");
    // A stop of the unit alone does nothing.
    debian.sh("systemctl restart wakevirt-shutdown");
    assert!(debian.journal("wakevirt-shutdown").contains("the host is not shutting down"));
    assert_eq!([state(&debian, "saved"), state(&debian, "off")], ["running", "running"]);

    debian.reboot();
    assert_eq!([state(&debian, "saved"), state(&debian, "off")], ["shut off", "shut off"]);
    let saved = virsh(&debian, "list --all --with-managed-save --name");
    assert_eq!(
        saved,
        "saved",
        "{}",
        debian.sh("journalctl --boot=-1 --identifier=wakevirt-sleep --identifier=systemd")
    );
    let log = debian.sh(
        "journalctl --boot=-1 --output=cat --unit=wakevirt-shutdown --unit=libvirt-guests --unit=libvirtd",
    );
    for line in ["asleep: domain \"saved\" (save)", "asleep: domain \"off\" (shutdown)"] {
        assert!(log.contains(line), "{line}:\n{log}");
    }
    let position = |text: &str| log.rfind(text).unwrap_or(log.len());
    assert!(position("asleep: domain") < position("Stopped libvirt-guests.service"), "{log}");
    assert!(position("asleep: domain") < position("Stopped libvirtd.service"), "{log}");
}

/// Linux with a guest agent, as `scripts/guest-agent` creates it, and swap space.
fn start_linux(debian: &Debian<'_>, name: &str) {
    debian.sh(&format!("truncate -s 256M /var/lib/libvirt/images/{name}.img"));
    let xml = format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><kernel>/var/lib/libvirt/images/kernel</kernel>
    <initrd>/var/lib/libvirt/images/initramfs</initrd><cmdline>console=ttyS0 quiet</cmdline></os>
  <features><acpi/></features>
  <pm><suspend-to-mem enabled='yes'/><suspend-to-disk enabled='yes'/></pm>
  <devices>
    <controller type='usb' model='none'/><memballoon model='none'/>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/>
      <source file='/var/lib/libvirt/images/{name}.img'/><target dev='vda' bus='virtio'/></disk>
    <serial type='file'><source path='/var/log/libvirt/qemu/{name}-console.log'/></serial>
    {}
  </devices>
</domain>",
        linux::AGENT
    );
    debian.write(&format!("/root/{name}.xml"), &xml);
    virsh(debian, &format!("define /root/{name}.xml"));
    virsh(debian, &format!("start {name}"));
}

/// Sends a command to the agent of a guest. `None` if it fails.
fn agent(debian: &Debian<'_>, name: &str, command: &str) -> Option<String> {
    let mut virsh = debian.command("virsh");
    virsh.args(["--connect", "qemu:///system", "qemu-agent-command", "--timeout", "5", name, command]);
    let output = virsh.output().expect("virsh runs");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits until the agent answers, which it does after a start in about 5 s.
fn wait_for_agent(debian: &Debian<'_>, name: &str) {
    let answers = || agent(debian, name, r#"{"execute":"guest-ping"}"#).map(drop);
    let answered = wait::within(3 * wait::TIMEOUT, answers);
    let console = format!("cat /var/log/libvirt/qemu/{name}-console.log");
    assert!(answered.is_some(), "the agent of {name} does not answer:\n{}", debian.sh(&console));
}

#[test]
fn guests_suspend_and_hibernate_with_the_host() {
    privileged!();
    let host = Host::new();
    let config = "[[domain]]\nmatch = \"memory\"\nsleep = \"suspend\"\n
                  [[domain]]\nmatch = \"disk\"\nsleep = \"hibernate\"\n";
    let debian = site(&host, config);
    let guest = succeed(&mut std::process::Command::new(project().join("scripts/guest-agent")));
    for file in ["kernel", "initramfs"] {
        debian.copy(&Path::new(guest.trim()).join(file), &format!("/var/lib/libvirt/images/{file}"));
    }
    let both = ["memory", "disk"];
    both.iter().for_each(|name| start_linux(&debian, name));
    // A file in the guest's memory, which only a guest that was not booted again has.
    let open =
        |mode| format!(r#"{{"execute":"guest-file-open","arguments":{{"path":"/marker","mode":"{mode}"}}}}"#);
    for name in both {
        wait_for_agent(&debian, name);
        assert_eq!(agent(&debian, name, &open("r")), None);
        assert!(agent(&debian, name, &open("w")).is_some());
    }
    assert_eq!(suspend(&debian), "");
    wait_until_awake(&debian);
    let log = debian.journal(SUSPEND);
    assert!(has_suspended(&debian), "{log}");
    let during = debian.sh("cat /run/domains-pre");
    for (name, state) in [("memory", "pmsuspended"), ("disk", "shut off")] {
        let line = during.lines().find(|line| line.contains(name)).unwrap_or_default();
        assert!(line.ends_with(state), "{name} is not {state}:\n{during}\n{log}");
    }
    for name in both {
        // libvirt changes the state when QEMU's event about the wakeup arrives.
        let is_awake = || (state(&debian, name) == "running").then_some(());
        assert!(wait::within(wait::TIMEOUT, is_awake).is_some(), "{name}: {log}");
        wait_for_agent(&debian, name);
        assert!(agent(&debian, name, &open("r")).is_some(), "{name} has lost its memory");
    }
}
