//! `make install` and `make uninstall` on a booted Debian system: systemd, the bus and polkit read the files below
//! `/usr/local`.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::path::Path;
use std::process::Command;

use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::Debian;
use wakevirt_tests::debian::inventory::Inventory;
use wakevirt_tests::host::{Host, project, succeed};
use wakevirt_tests::{privileged, wait};

/// The administrator's checkout, in which the programs are built.
const CHECKOUT: &str = "/root/wakevirt";

/// Copies the programs that `make` built, and the other files that are installed.
fn copy_checkout(debian: &Debian<'_>) {
    let test = std::env::current_exe().expect("the test knows its own path");
    let build = test.ancestors().nth(2).expect("the test is in target/PROFILE/deps");
    let list = succeed(Command::new(project().join("scripts/install")).arg("list"));
    let sources = list.lines().map(|line| line.split_once('\t').expect("source and target").0);
    let files = sources.filter(|source| !source.starts_with("link:"));
    for source in files.chain(["scripts/install"]) {
        let target = format!("{CHECKOUT}/{source}");
        let directory = Path::new(&target)
            .parent()
            .expect("the file has a parent directory")
            .to_string_lossy()
            .into_owned();
        std::fs::create_dir_all(debian.path(&directory)).expect("the directory is created");
        match source.strip_prefix("target/release/") {
            Some(program) => debian.copy(&build.join(program), &target),
            None => debian.copy(&project().join(source), &target),
        }
    }
}

fn installs_and_uninstalls(bus: Kind) {
    let host = Host::new();
    let mut debian = Debian::new(&host, bus);
    copy_checkout(&debian);
    debian.boot();
    let before = Inventory::of_system(|line| debian.sh(line));
    // This is the command that `make install` runs. make is not installed on the system.
    let install = format!("cd {CHECKOUT} && DESTDIR= PREFIX= scripts/install install");

    debian.sh(&install);
    assert_eq!(
        debian.sh("systemctl is-enabled wakevirt-capture wakevirt-actor || true"),
        "disabled\ndisabled\n",
        "the presets enabled a service"
    );
    debian.sh("systemctl enable --now wakevirt-capture wakevirt-actor");
    let programs = ["wakevirt-capture", "wakevirt-actor"].map(|unit| debian.main_process(unit));
    for pid in programs {
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).expect("the service is running");
        assert!(program.to_string_lossy().contains("/usr/local/bin/"), "{}", program.display());
    }
    // Bus policy and activation: the services own their names, and a call starts the actor.
    let ping = "busctl call org.wakevirt.Actor1 /org/wakevirt/Actor1 org.freedesktop.DBus.Peer Ping";
    debian.sh("busctl get-property org.wakevirt.Capture1 /org/wakevirt/Capture1 org.wakevirt.Capture1 Mode");
    debian.sh(&format!("systemctl stop wakevirt-actor && {ping}"));

    assert_journal_explains_messages(&debian);

    // Installing a new version restarts the services.
    let old = ["wakevirt-capture", "wakevirt-actor"].map(|unit| debian.main_process(unit));
    debian.sh(&install);
    let new = ["wakevirt-capture", "wakevirt-actor"].map(|unit| debian.main_process(unit));
    assert!(old[0] != new[0] && old[1] != new[1], "the old version is still running");

    start_users_actor(&debian);
    // The program runs from /usr/local as well.
    debian.sh("systemctl enable --now wakevirt-metrics.socket wakevirt-metrics-textfile.timer
         exec 3<>/dev/tcp/127.0.0.1/10842; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3
         grep --quiet 'service=\"actor\"} 1' <&3
         systemctl start wakevirt-metrics-textfile.service");
    debian.write("/etc/wakevirt/actor.toml", "");
    debian.sh(&format!("cd {CHECKOUT} && scripts/install uninstall"));
    assert_eq!(debian.sh("pgrep --uid bob --list-name 'wakevirt|libvirtd' || true"), "");
    // `make uninstall` prints that it leaves the users, the groups and /etc/wakevirt. The actor's state directory
    // exists until the next boot. Debian 13 has /usr/local/libexec before the installation; on Debian 12, the directory
    // is left behind.
    let left = [
        "wakevirt-capture:",
        "wakevirt-actor:",
        "wakevirt-metrics:",
        "wakevirt-host:",
        "wakevirt-sleep:",
        "wakevirt-ddc:",
        "wakevirt-nas:",
        "i2c:",
        "wakevirt:",
        " /etc/wakevirt",
        "/run/wakevirt-actor",
    ];
    Inventory::of_system(|line| debian.sh(line))
        .assert_same_as(&before, &[left.as_slice(), &[" /usr/local/libexec ", "bob", "/run/user/"]].concat());
}

/// Checks that the journal has the fields of a message, and that its catalog explains the message.
fn assert_journal_explains_messages(debian: &Debian<'_>) {
    let journal = "journalctl --boot --no-pager WAKEVIRT_CONNECTION=qemu:///system";
    wait::until_true("the actor to connect", || debian.sh(journal).contains("connected to qemu:///system"));
    let explained = debian.sh(&format!("{journal} -x"));
    assert!(explained.contains("Subject: wakevirt-actor is connected to a hypervisor"), "{explained}");
    assert!(explained.contains("Documentation: man:wakevirt-journal(7)"), "{explained}");
}

/// Starts a user's own actor, which starts the user's libvirt daemon.
fn start_users_actor(debian: &Debian<'_>) {
    debian.sh("useradd --user-group --create-home bob && loginctl enable-linger bob");
    let manager = "systemctl is-active user@$(id --user bob).service || true";
    wait::until_true("the user's service manager", || debian.sh(manager) == "active\n");
    debian.in_session("bob", "systemctl --user start wakevirt-actor");
    wait::until_true("the user's libvirt daemon", || {
        debian.sh("pgrep --uid bob --exact --count libvirtd || true") == "1\n"
    });
}

#[test]
fn installs_and_uninstalls_with_dbus_daemon() {
    privileged!();
    installs_and_uninstalls(Kind::DbusDaemon);
}

#[test]
fn installs_and_uninstalls_with_dbus_broker() {
    privileged!();
    installs_and_uninstalls(Kind::DbusBroker);
}
