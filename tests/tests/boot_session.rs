//! A user's own actor and libvirt daemon on a booted Debian system, without a login.

use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::Debian;
use wakevirt_tests::debian::package;
use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::qemu_domain_with;
use wakevirt_tests::network::Peer;
use wakevirt_tests::scene::site::wait_for_cool_down;
use wakevirt_tests::{privileged, wait};

const USER: &str = "alice";
const DOMAIN: &str = "own";
const MAC: &str = "52:54:00:12:34:56";
const ACTOR: &str = "wakevirt-actor";
const LIBVIRTD: &str = "wakevirt-libvirtd";
/// The pgrep(1) patterns for the domain's QEMU process and the user's libvirt daemon.
const GUEST: &str = "qemu-system";
const DAEMON: &str = "libvirtd";

/// Boots a Debian system on which the package is installed and capture is running. The service manager of [`USER`] runs
/// without a login. The user has a domain, for which only the definition file was copied, and a rule that allows it.
fn site(host: &Host) -> (Debian<'_>, Peer<'_>) {
    let lan = host.veth("port0");
    let mut debian = Debian::new(host, Kind::DbusDaemon);
    debian.copy(&package::built(), "/root/wakevirt.deb");
    let interface =
        format!("<interface type='user'><mac address='{MAC}'/><model type='virtio'/></interface>");
    debian.write(&format!("/root/{DOMAIN}.xml"), &qemu_domain_with(DOMAIN, &interface));
    debian.boot();
    debian.sh(&format!(
        "apt-get install --yes /root/wakevirt.deb
         systemctl enable --now wakevirt-capture
         useradd --user-group {USER}
         home=/home/{USER}
         install -d $home/.config/libvirt/qemu $home/.config/wakevirt
         install -m 644 /root/{DOMAIN}.xml $home/.config/libvirt/qemu/{DOMAIN}.xml
         printf '[[allow]]\\ndomain = \"{DOMAIN}\"\\n' >$home/.config/wakevirt/actor.toml
         chown -R {USER}:{USER} $home
         loginctl enable-linger {USER}"
    ));
    wait_for_session(&debian);
    (debian, lan)
}

fn wait_for_session(debian: &Debian<'_>) {
    let bus = format!("test -S /run/user/$(id -u {USER})/bus && echo yes || true");
    wait::until_true("the user's service manager to start", || debian.sh(&bus) == "yes\n");
}

/// Waits until the log of a user's unit contains this text at least `count` times.
fn wait_for_log(debian: &Debian<'_>, unit: &str, text: &str, count: usize) {
    let journal = || debian.user_journal(unit);
    // A libvirtd that is asked to exit can take 30 s longer to do so (virNetDaemonRun in libvirt's virnetdaemon.c).
    let seen = wait::within(wait::TIMEOUT * 3, || (journal().matches(text).count() >= count).then_some(()));
    assert!(seen.is_some(), "{unit} did not log {text:?}:\n{}\n{}", journal(), debian.user_journal(LIBVIRTD));
}

/// The process IDs of a program that the user runs, one per line.
fn processes(debian: &Debian<'_>, program: &str) -> String {
    debian.sh(&format!("pgrep --uid {USER} --full '(^|/){program}' || true"))
}

fn virsh(debian: &Debian<'_>, command: &str) -> String {
    debian.in_session(USER, &format!("virsh --quiet --connect qemu:///session {command}")).trim().to_owned()
}

fn wake(debian: &Debian<'_>, lan: &Peer<'_>, count: usize) {
    wait_for_log(debian, ACTOR, "connected to qemu:///session: 1 domain", count);
    lan.etherwake(MAC, &["-b"]);
    wait_for_log(debian, ACTOR, &format!("started: domain \"{DOMAIN}\""), count);
}

#[test]
fn wakes_a_users_domain_without_a_login() {
    privileged!();
    let host = Host::new();
    let (mut debian, lan) = site(&host);
    debian.in_session(USER, &format!("systemctl --user enable {ACTOR}"));
    assert_eq!(processes(&debian, DAEMON), "");
    debian.reboot();
    wake(&debian, &lan, 1);
    let guest = processes(&debian, GUEST);
    assert_eq!(guest.lines().count(), 1, "{guest}");
    // The daemon does not run in the sandbox of the actor's unit.
    let daemon = debian.sh(&format!("cat /proc/{}/status", processes(&debian, DAEMON).trim()));
    assert!(daemon.contains("NoNewPrivs:\t0\n"), "{daemon}");
    assert_eq!(virsh(&debian, &format!("domstate {DOMAIN}")), "running");
    assert_eq!(processes(&debian, DAEMON).lines().count(), 1, "virsh started another daemon");

    // The daemon is restarted after it is killed, and its guest keeps running.
    debian.sh(&format!("kill -9 {}", processes(&debian, DAEMON).trim()));
    wait_for_log(&debian, ACTOR, "connected to qemu:///session: 1 domain", 2);
    debian.in_session(USER, &format!("systemctl --user restart {LIBVIRTD}"));
    wait_for_log(&debian, ACTOR, "connected to qemu:///session: 1 domain", 3);
    assert_eq!(virsh(&debian, &format!("domstate {DOMAIN}")), "running");
    assert_eq!(processes(&debian, GUEST), guest);

    check_removal(&debian, &guest);
}

/// Checks that removing the package stops the user's actor and daemon, but not the user's guest.
fn check_removal(debian: &Debian<'_>, guest: &str) {
    debian.sh(&format!("systemctl --global enable {ACTOR}"));
    debian.write("/etc/systemd/user/wakevirt-libvirtd.service.d/own.conf", "[Service]\nRestartSec=9s\n");
    debian.sh("apt-get remove --yes wakevirt");
    assert_eq!(processes(debian, ACTOR), "");
    assert_eq!(processes(debian, DAEMON), "");
    assert_eq!(processes(debian, GUEST), guest);
    debian.sh("apt-get purge --yes wakevirt");
    assert_eq!(debian.sh("find /etc/systemd /var/lib/systemd -name '*wakevirt*'"), "");
    // docs/INSTALL.md says that this link remains.
    debian.sh(&format!("test -L /home/{USER}/.config/systemd/user/default.target.wants/{ACTOR}.service"));
}

#[test]
fn uses_a_libvirtd_started_by_virsh_until_it_exits() {
    privileged!();
    let host = Host::new();
    let (debian, lan) = site(&host);
    // This is the situation after a user has created the domain with virsh.
    virsh(&debian, "list --all");
    let virsh_daemon = processes(&debian, DAEMON);
    assert_eq!(virsh_daemon.lines().count(), 1, "{virsh_daemon}");
    debian.in_session(USER, &format!("systemctl --user enable --now {ACTOR}"));
    wait_for_log(&debian, LIBVIRTD, "libvirtd is already running", 1);
    wake(&debian, &lan, 1);
    assert_eq!(processes(&debian, DAEMON), virsh_daemon);

    virsh(&debian, &format!("destroy {DOMAIN}"));
    wait_for_cool_down();
    debian.sh(&format!("kill {}", virsh_daemon.trim()));
    wake(&debian, &lan, 2);
    let unit_daemon = processes(&debian, DAEMON);
    assert!(unit_daemon.lines().count() == 1 && unit_daemon != virsh_daemon, "{unit_daemon}");
    let main_pid =
        debian.in_session(USER, &format!("systemctl --user show --property=MainPID --value {LIBVIRTD}"));
    assert_eq!(unit_daemon, main_pid);
}

#[test]
fn user_changes_the_configuration_that_the_log_names() {
    privileged!();
    let host = Host::new();
    let (debian, lan) = site(&host);
    debian.in_session(USER, &format!("rm ~/.config/wakevirt/actor.toml; systemctl --user start {ACTOR}"));
    wait_for_log(&debian, ACTOR, "no packet can wake a domain", 1);
    let log = debian.user_journal(ACTOR);
    assert!(log.contains(&format!("/home/{USER}/.config/wakevirt/actor.toml")), "{log}");
    assert!(!log.contains("/etc/wakevirt"), "{log}");

    wait_for_log(&debian, ACTOR, "connected to qemu:///session: 1 domain", 1);
    let allowed = debian.in_session(USER, &format!("wakevirtctl --bus session allow {DOMAIN}"));
    let file = format!("/home/{USER}/.config/wakevirt/actor.d/50-allow-{DOMAIN}.toml");
    assert!(allowed.starts_with(&format!("wrote {file}:\n")), "{allowed}");
    wake(&debian, &lan, 1);
    // The check in the unit reads the same files.
    let reload = format!("systemctl --user reload {ACTOR}");
    debian.in_session(USER, &reload);
    debian.in_session(USER, &format!("echo nonsense >{file}; ! {reload}; rm {file}; {reload}"));
    let forbidden = debian.in_session(USER, &format!("wakevirtctl --bus session forbid {DOMAIN}"));
    assert_eq!(forbidden.trim(), format!("{file} does not exist"));
}
