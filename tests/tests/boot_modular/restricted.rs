//! The commands from docs/RESTRICTED.md, unchanged, with one access driver in each daemon.

use wakevirt_tests::host::Host;
use wakevirt_tests::privileged;
use wakevirt_tests::process::proc::Status;
use wakevirt_tests::project::readme::commands_of;
use wakevirt_tests::scene::site::Site;

use super::{ACTOR, define_other, site, wait_for_log, wake_domain, wake_other};

const PAGE: &str = "docs/RESTRICTED.md";
/// Runs the page's commands as the actor's user, and returns how many of them libvirt denied.
fn denied(site: &Site<'_>, commands: &str) -> usize {
    let output = site.debian.command("sh").args(["-c", commands]).output().expect("sh runs");
    let error = String::from_utf8_lossy(&output.stderr);
    let denied = error.matches("error: access denied").count();
    let listing = error.matches("error: Failed to list").count();
    assert_eq!(error.matches("error:").count(), denied + listing, "another error:\n{error}");
    denied
}

#[test]
#[ignore = "make check-anywhere"]
fn each_daemon_restricts_the_actor() {
    privileged!();
    let host = Host::new();
    let site = site(&host, "");
    define_other(&site);
    let mut check = commands_of(PAGE, "Modular daemons").concat();
    if site.debian.sh("ls /usr/sbin").contains("virtinterfaced") {
        assert_eq!(check.lines().count(), 7, "an assignment and six checks");
    } else {
        check = check.lines().filter(|line| !line.contains("interface:")).collect::<Vec<_>>().join("\n");
    }
    let checked = check.lines().count() - 1;
    assert_eq!(denied(&site, &check), 0, "without the access driver, the actor can do everything");
    site.debian.sh("systemctl enable --now virtproxyd.socket");

    let enable = commands_of(PAGE, "Enable");
    site.debian.sh(enable.last().expect("commands"));
    wait_for_log(&site, "permissions on qemu:///system: restricted by libvirt's access driver", 1);
    let status = Status::of(site.debian.main_process(ACTOR));
    let own = site.debian.sh("id --group wakevirt-actor");
    assert!(
        status.field("Groups").split_whitespace().all(|group| group == own.trim()),
        "the actor keeps a group"
    );
    assert_eq!(denied(&site, &check), checked);
    wake_domain(&site, 1);
    wake_other(&site, 1);

    // virtproxyd passes the actor's identity on.
    site.debian.write("/etc/wakevirt/actor.toml", "connections = [\"qemu:///system?mode=legacy\"]\n");
    site.debian.sh("systemctl restart wakevirt-actor");
    wait_for_log(
        &site,
        "permissions on qemu:///system?mode=legacy: restricted by libvirt's access driver",
        1,
    );
    wake_domain(&site, 2);
    wake_other(&site, 2);
    let secrets = "setpriv --reuid wakevirt-actor --regid wakevirt-actor --clear-groups \
        virsh --connect 'qemu:///system?mode=legacy' dumpxml --security-info win11 >/dev/null";
    assert_eq!(denied(&site, secrets), 1);

    let disable = commands_of(PAGE, "Disable");
    site.debian.sh(&disable.concat());
    assert_eq!(denied(&site, &check), 0);
    assert_eq!(denied(&site, secrets), 0);
    assert_eq!(site.debian.sh("systemctl --failed --no-legend --plain"), "");
}
