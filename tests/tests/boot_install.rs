//! `make install` and `make uninstall` on a Debian that has really booted: whoever has to read a file below
//! `/usr/local` does.
#![expect(clippy::expect_used, reason = "a test may stop where it stands")]

use std::path::Path;
use std::process::Command;

use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::Debian;
use wakevirt_tests::debian::inventory::Inventory;
use wakevirt_tests::host::{Host, project, succeed};
use wakevirt_tests::{privileged, wait};

/// Where the administrator has built.
const CHECKOUT: &str = "/root/wakevirt";

/// Copies what `make` has built, and what goes with it.
fn copy_checkout(debian: &Debian<'_>) {
    let own = std::env::current_exe().expect("a program knows its own file");
    let build = own.ancestors().nth(2).expect("a test is in target/PROFILE/deps");
    let list = succeed(Command::new(project().join("scripts/install")).arg("list"));
    let sources = list.lines().map(|line| line.split_once('\t').expect("source and target").0);
    for source in sources.chain(["scripts/install"]) {
        let into = format!("{CHECKOUT}/{source}");
        let folder = Path::new(&into).parent().expect("it is in a folder").to_string_lossy().into_owned();
        std::fs::create_dir_all(debian.path(&folder)).expect("a folder");
        match source.strip_prefix("target/release/") {
            Some(program) => debian.copy(&build.join(program), &into),
            None => debian.copy(&project().join(source), &into),
        }
    }
}

fn installs_and_uninstalls(bus: Kind) {
    let host = Host::new();
    let mut debian = Debian::new(&host, bus);
    copy_checkout(&debian);
    debian.boot();
    let before = Inventory::of_system(|line| debian.sh(line));
    // What make calls; the Debian has no make.
    let install = format!("cd {CHECKOUT} && DESTDIR= PREFIX= scripts/install install");

    debian.sh(&install);
    assert_eq!(
        debian.sh("systemctl is-enabled wakevirt-capture wakevirt-actor || true"),
        "disabled\ndisabled\n",
        "the presets are read, and nothing is enabled"
    );
    debian.sh("systemctl enable --now wakevirt-capture wakevirt-actor");
    let programs = ["wakevirt-capture", "wakevirt-actor"].map(|unit| debian.main_process(unit));
    for pid in programs {
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).expect("it runs");
        assert!(program.to_string_lossy().contains("/usr/local/bin/"), "{}", program.display());
    }
    // Bus policy and activation: the names are owned by those who may, and a call starts the actor.
    let ping = "busctl call org.wakevirt.Actor1 /org/wakevirt/Actor1 org.freedesktop.DBus.Peer Ping";
    debian.sh("busctl get-property org.wakevirt.Capture1 /org/wakevirt/Capture1 org.wakevirt.Capture1 Mode");
    debian.sh(&format!("systemctl stop wakevirt-actor && {ping}"));

    // A new version.
    let old = ["wakevirt-capture", "wakevirt-actor"].map(|unit| debian.main_process(unit));
    debian.sh(&install);
    let new = ["wakevirt-capture", "wakevirt-actor"].map(|unit| debian.main_process(unit));
    assert!(old[0] != new[0] && old[1] != new[1], "the old version still runs");

    start_for_a_user(&debian);
    debian.write("/etc/wakevirt/actor.toml", "");
    debian.sh(&format!("cd {CHECKOUT} && scripts/install uninstall"));
    assert_eq!(debian.sh("pgrep --uid bob --list-name 'wakevirt|libvirtd' || true"), "");
    // It says that the users, the groups and /etc/wakevirt are left. The actor's memory ends with the boot.
    // Debian 13 has /usr/local/libexec from the start; it stays on Debian 12 as well.
    let stays =
        ["wakevirt-capture:", "wakevirt-actor:", "wakevirt:", " /etc/wakevirt", "/run/wakevirt-actor"];
    Inventory::of_system(|line| debian.sh(line)).assert_same_as(
        &before,
        &[stays.as_slice(), &[" /usr/local/libexec ", "bob", "/run/user/"]].concat(),
    );
}

/// Starts the actor of a user, and with it the user's libvirt daemon.
fn start_for_a_user(debian: &Debian<'_>) {
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
