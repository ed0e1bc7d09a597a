//! What the kernel says of the three processes as systemd runs them: the table of the design, by `/proc`.
#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

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

/// capabilities(7), `include/uapi/linux/capability.h`.
const NET_RAW: u64 = 1 << 13;

/// A process, and what it must be.
struct Expected {
    name: &'static str,
    pid: Pid,
    user: &'static str,
    /// The groups besides the user's own.
    groups: &'static [&'static str],
    bounding: u64,
    /// What it holds open. Where something may be there several times, or not at all, it ends with `*`.
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
            // The state directory carries the lock that keeps a second process from it.
            descriptors: &[
                "/dev/null",
                "/run/wakevirt-actor",
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
fn processes_hold_exactly_the_documented_rights() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host, Kind::DbusBroker);
    site.install();
    for process in processes(&site) {
        let Expected { name, pid, user, .. } = process;
        let status = Status::of(pid);
        assert_eq!(status.field("Uid"), [id(&site, "--user", user).as_str(); 4].join(" "), "{name}");
        let own = id(&site, "--group", user);
        assert_eq!(status.field("Gid"), [own.as_str(); 4].join(" "), "{name}");
        let mut groups: Vec<_> = process.groups.iter().map(|group| gid(&site, group)).chain([own]).collect();
        groups.sort();
        let mut held: Vec<_> = status.field("Groups").split_whitespace().map(str::to_owned).collect();
        held.sort();
        assert_eq!(held, groups, "{name}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status.capabilities(set), 0, "{name}: {set}");
        }
        assert_eq!(status.capabilities("CapBnd"), process.bounding, "{name}");
        assert_eq!((status.field("NoNewPrivs"), status.field("Seccomp")), ("1", "2"), "{name}");

        let open = descriptors::of(pid, host.init());
        let is_expected = |open: &String| {
            process.descriptors.iter().any(|kind| match kind.strip_suffix('*') {
                Some(several) => open.starts_with(several),
                None => open == kind,
            })
        };
        assert!(open.iter().all(is_expected), "{name}: {open:?}");
        let fixed = process.descriptors.iter().filter(|kind| !kind.ends_with('*'));
        for kind in fixed {
            assert!(open.iter().any(|open| open == kind), "{name} has no {kind}: {open:?}");
        }
        if name == "the sniffer" {
            assert_eq!(open, process.descriptors, "{name}");
        }
    }
    the_sniffer_is_confined(&site);
    the_announcer_reaches_no_other_daemon(&site);
}

/// What no file in `/proc` says: Landlock holds the sniffer, and nobody but root may trace it.
fn the_sniffer_is_confined(site: &Site<'_>) {
    let [sniffer, announcer, _] = processes(site);
    // Everyone may read it, in the sniffer's mount namespace as well.
    let file = "/etc/passwd";
    assert_eq!(ptrace::open_file(announcer.pid, file), Ok(()), "without Landlock, as the same user");
    assert_eq!(ptrace::open_file(sniffer.pid, file), Err(Errno::EACCES), "Landlock");
    // proc(5): these files belong to root where a process is not dumpable.
    let owner = |pid| std::fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid();
    assert_ne!(owner(announcer.pid), 0, "the announcer");
    assert_eq!(owner(sniffer.pid), 0, "the sniffer");
    // Both live on.
    assert_eq!(processes(site).map(|process| process.pid)[..2], [sniffer.pid, announcer.pid]);
}

/// There is no path from it to the socket on which libvirt tells everyone which domains there are.
fn the_announcer_reaches_no_other_daemon(site: &Site<'_>) {
    let [_, announcer, actor] = processes(site);
    let socket = "/run/libvirt/libvirt-sock-ro";
    // open(2): this is what a socket that is there answers.
    assert_eq!(ptrace::open_file(actor.pid, socket), Err(Errno::ENXIO), "the actor");
    assert_eq!(ptrace::open_file(announcer.pid, socket), Err(Errno::ENOENT), "the announcer");
    let folders = |inside: &str| {
        let folder = std::fs::read_dir(format!("/proc/{}/root/{inside}", announcer.pid)).unwrap();
        let mut names: Vec<_> =
            folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    // systemd 257 adds a folder for the host's /etc/os-release.
    let run: Vec<_> = folders("run").into_iter().filter(|name| name != "host").collect();
    assert_eq!(run, ["dbus", "systemd"]);
    let host = Path::new("/proc").join(announcer.pid.to_string()).join("root/run/host");
    if host.exists() {
        let of_systemd = |name: &String| [".os-release-stage", "os-release"].contains(&name.as_str());
        assert!(folders("run/host").iter().all(of_systemd), "{:?}", folders("run/host"));
    }
    assert_eq!(folders("run/systemd"), ["incoming", "journal", "notify"]);
}
