//! Checks that the privileges of the three processes under systemd, as `/proc` reports them, are those in the process
//! table of docs/ARCHITECTURE.md.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::Pid;
use wakevirt_tests::bus::Kind;
use wakevirt_tests::host::Host;
use wakevirt_tests::process::descriptors;
use wakevirt_tests::process::proc::{self, Status};
use wakevirt_tests::process::ptrace;
use wakevirt_tests::scene::site::Site;
use wakevirt_tests::{privileged, wait};

/// CAP_NET_RAW in linux/capability.h.
const NET_RAW: u64 = 1 << 13;

/// A process and its expected privileges.
struct Expected {
    name: &'static str,
    pid: Pid,
    user: &'static str,
    /// The supplementary groups, without the user's own group.
    groups: &'static [&'static str],
    bounding: u64,
    /// The kinds of open descriptors. A kind that ends with `*` can occur any number of times, including zero.
    descriptors: &'static [&'static str],
}

fn processes(site: &Site<'_>) -> [Expected; 3] {
    let announcer = site.debian.main_process("wakevirt-capture");
    let sniffer = wait::until("the sniffer", || proc::children(announcer).first().copied());
    [
        Expected {
            name: "the sniffer",
            pid: sniffer,
            user: "wakevirt-capture",
            groups: &[],
            bounding: NET_RAW,
            descriptors: &[
                "/dev/null",
                "/dev/null",
                "UDP socket",
                "UDP socket",
                "Unix socket",
                "packet socket",
            ],
        },
        Expected {
            name: "the announcer",
            pid: announcer,
            user: "wakevirt-capture",
            groups: &[],
            bounding: NET_RAW,
            descriptors: &["/dev/null", "Unix socket*", "[eventfd]*", "[eventpoll]*", "other socket*"],
        },
        Expected {
            name: "the actor",
            pid: site.debian.main_process("wakevirt-actor"),
            user: "wakevirt-actor",
            groups: &["libvirt"],
            bounding: 0,
            // The state directory is open because a lock on it excludes a second process.
            descriptors: &[
                "/dev/null",
                "/run/wakevirt-actor",
                "/run/wakevirt-actor/state",
                "Unix socket*",
                "[eventfd]*",
                "[eventpoll]*",
                "pipe*",
            ],
        },
    ]
}

fn id(site: &Site<'_>, option: &str, name: &str) -> String {
    site.debian.sh(&format!("id {option} {name}")).trim().to_owned()
}

fn gid(site: &Site<'_>, group: &str) -> String {
    site.debian.sh(&format!("getent group {group} | cut -d: -f3")).trim().to_owned()
}

#[test]
fn processes_hold_exactly_the_documented_privileges() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host, Kind::DbusBroker);
    site.install();
    for process in processes(&site) {
        let Expected { name, pid, user, .. } = process;
        let status = Status::of(pid);
        assert_eq!(status.field("Uid"), [id(&site, "--user", user).as_str(); 4].join(" "), "{name}");
        let own_group = id(&site, "--group", user);
        assert_eq!(status.field("Gid"), [own_group.as_str(); 4].join(" "), "{name}");
        let mut groups: Vec<_> =
            process.groups.iter().map(|group| gid(&site, group)).chain([own_group]).collect();
        groups.sort();
        let mut actual: Vec<_> = status.field("Groups").split_whitespace().map(str::to_owned).collect();
        actual.sort();
        assert_eq!(actual, groups, "{name}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status.capabilities(set), 0, "{name}: {set}");
        }
        assert_eq!(status.capabilities("CapBnd"), process.bounding, "{name}");
        assert_eq!((status.field("NoNewPrivs"), status.field("Seccomp")), ("1", "2"), "{name}");

        let open = descriptors::of(pid, host.init());
        let is_expected = |open: &String| {
            process.descriptors.iter().any(|kind| match kind.strip_suffix('*') {
                Some(prefix) => open.starts_with(prefix),
                None => open == kind,
            })
        };
        assert!(open.iter().all(is_expected), "{name}: {open:?}");
        for kind in process.descriptors.iter().filter(|kind| !kind.ends_with('*')) {
            assert!(open.iter().any(|open| open == kind), "{name} has no {kind}: {open:?}");
        }
        if name == "the sniffer" {
            assert_eq!(open, process.descriptors, "{name}");
        }
    }
    check_sniffers_confinement(&site);
    check_announcers_reach(&site);
}

/// Checks what no file in `/proc` shows: Landlock confines the sniffer, and only root can trace it.
fn check_sniffers_confinement(site: &Site<'_>) {
    let [sniffer, announcer, _] = processes(site);
    // All users can read this file, even in the sniffer's mount namespace.
    let file = "/etc/passwd";
    assert_eq!(ptrace::open_file(announcer.pid, file), Ok(()), "the announcer: same user, no Landlock");
    assert_eq!(ptrace::open_file(sniffer.pid, file), Err(Errno::EACCES), "the sniffer: Landlock");
    // proc(5): root owns these files if the process is not dumpable.
    let owner = |pid| std::fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid();
    assert_ne!(owner(announcer.pid), 0, "the announcer");
    assert_eq!(owner(sniffer.pid), 0, "the sniffer");
    // Both processes are still running.
    assert_eq!(processes(site).map(|process| process.pid)[..2], [sniffer.pid, announcer.pid]);
}

/// Checks that the announcer cannot reach the sockets of other daemons, such as libvirt's read-only socket, on which
/// all users can list the domains.
fn check_announcers_reach(site: &Site<'_>) {
    let [_, announcer, actor] = processes(site);
    let socket = "/run/libvirt/libvirt-sock-ro";
    // open(2) on an existing socket fails with ENXIO.
    assert_eq!(ptrace::open_file(actor.pid, socket), Err(Errno::ENXIO), "the actor");
    assert_eq!(ptrace::open_file(announcer.pid, socket), Err(Errno::ENOENT), "the announcer");
    let entries = |inside: &str| {
        let directory = std::fs::read_dir(format!("/proc/{}/root/{inside}", announcer.pid)).unwrap();
        let mut names: Vec<_> =
            directory.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    // systemd 257 adds a directory for the host's /etc/os-release.
    let run: Vec<_> = entries("run").into_iter().filter(|name| name != "host").collect();
    assert_eq!(run, ["dbus", "systemd"]);
    let host = Path::new("/proc").join(announcer.pid.to_string()).join("root/run/host");
    if host.exists() {
        let of_systemd = |name: &String| [".os-release-stage", "os-release"].contains(&name.as_str());
        assert!(entries("run/host").iter().all(of_systemd), "{:?}", entries("run/host"));
    }
    assert_eq!(entries("run/systemd"), ["incoming", "journal", "notify"]);
}
