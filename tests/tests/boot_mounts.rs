//! What the kernel says of the services' mounts and namespaces: each line of the units about them, and what
//! docs/THREAT-MODEL.md makes of those lines.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test may stop where it stands")]

use std::fs::read_link;

use nix::unistd::Pid;
use wakevirt_tests::bus::Kind;
use wakevirt_tests::host::Host;
use wakevirt_tests::host::mounts::{self, Mount};
use wakevirt_tests::privileged;
use wakevirt_tests::scene::site::Site;

/// What both may write to, or what refuses a write by itself: API file systems of the kernel, and folders of
/// their own.
const WRITABLE: &[&str] = &["/dev/mqueue", "/dev/pts", "/dev/shm", "/proc", "/tmp", "/var/tmp"];

/// The folder that stands in the place of one that nobody may open.
const INACCESSIBLE: &str = "/inaccessible/dir";

/// A service and what it sees.
struct Service {
    unit: &'static str,
    pid: Pid,
    mounts: Vec<Mount>,
}

impl Service {
    fn new(site: &Site<'_>, unit: &'static str) -> Self {
        let pid = site.debian.main_process(unit);
        Self { unit, pid, mounts: mounts::of(pid) }
    }

    /// The mount that a path belongs to.
    fn at(&self, path: &str) -> &Mount {
        mounts::at(&self.mounts, path).expect("there is a root")
    }

    /// The mount at this very path.
    fn mounted(&self, path: &str) -> &Mount {
        let mount = self.at(path);
        assert_eq!(mount.point.to_str(), Some(path), "{}: {:#?}", self.unit, self.mounts);
        mount
    }

    /// Nothing else can be written to: `ProtectSystem=`, `ReadOnlyPaths=`, `ProtectControlGroups=`,
    /// `ProtectKernelTunables=`.
    fn writes_only_to(&self, further: &[&str]) {
        let expected = |mount: &&Mount| {
            let point = mount.point.to_str().unwrap();
            // A file that tells of a lack of memory: systemd.resource-control(5), MemoryPressureWatch=.
            WRITABLE.contains(&point) || further.contains(&point) || point.ends_with("/memory.pressure")
        };
        let other: Vec<_> = self.mounts.iter().filter(|mount| !mount.has("ro")).collect();
        let other: Vec<_> = other.into_iter().filter(|mount| !expected(mount)).collect();
        assert!(other.is_empty(), "{} can write to {other:#?}", self.unit);
        for path in
            ["/", "/etc", "/usr", "/run", "/run/dbus", "/run/systemd", "/sys", "/sys/fs/cgroup", "/dev"]
        {
            assert!(self.at(path).has("ro"), "{}: {path} is {:#?}", self.unit, self.at(path));
        }
    }

    /// `PrivateTmp=`, `PrivateDevices=`, `ProtectProc=`, `ProcSubset=`, `ProtectHome=`.
    fn has_its_own(&self, site: &Site<'_>) {
        for path in ["/tmp", "/var/tmp"] {
            let root = &self.mounted(path).root;
            assert!(root.contains(&format!("-{}.service-", self.unit)), "{}: {path} is {root}", self.unit);
        }
        let devices = format!("/proc/{}/root/dev", self.pid);
        let devices: Vec<_> =
            std::fs::read_dir(devices).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        for device in ["kmsg", "mem", "net", "tun", "kvm", "vda"] {
            assert!(!devices.iter().any(|found| found == device), "{}: {devices:?}", self.unit);
        }
        assert!(devices.iter().any(|found| found == "null"), "{}: {devices:?}", self.unit);
        let proc = self.mounted("/proc");
        for option in ["hidepid=invisible", "subset=pid"] {
            assert!(proc.kind_options.iter().any(|set| set == option), "{}: {proc:#?}", self.unit);
        }
        let host = mounts::of(site.debian.init());
        assert!(!mounts::at(&host, "/proc").unwrap().kind_options.contains(&"subset=pid".to_owned()));
        assert!(self.mounted("/root").root.ends_with(INACCESSIBLE), "{}", self.unit);
    }

    /// Of these namespaces it has its own, and of the others the host's: namespaces(7).
    fn is_in_its_own(&self, site: &Site<'_>, own: &[&str]) {
        for name in ["ipc", "mnt", "net", "user", "uts"] {
            let [its, hosts] = [self.pid, site.debian.init()]
                .map(|pid| read_link(format!("/proc/{pid}/ns/{name}")).unwrap());
            assert_eq!(its != hosts, own.contains(&name), "{}: {name}", self.unit);
        }
    }
}

#[test]
fn mounts_and_namespaces_match_the_units() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host, Kind::DbusBroker);
    site.install();

    let capture = Service::new(&site, "wakevirt-capture");
    assert!(
        capture.mounted("/").root.ends_with("/wakevirt-capture"),
        "RootDirectory=: {:#?}",
        capture.mounts
    );
    for path in ["/etc", "/usr", "/opt", "/srv", "/run/dbus", "/var/run/dbus", "/run/systemd/journal"] {
        assert!(capture.mounted(path).has("ro"), "BindReadOnlyPaths=: {:#?}", capture.mounts);
    }
    for (path, kind) in [("/proc", "proc"), ("/sys", "sysfs"), ("/dev", "tmpfs")] {
        assert_eq!(capture.mounted(path).kind, kind, "MountAPIVFS=");
    }
    capture.writes_only_to(&[]);
    capture.has_its_own(&site);
    capture.is_in_its_own(&site, &["ipc", "mnt", "uts"]);

    let actor = Service::new(&site, "wakevirt-actor");
    actor.writes_only_to(&["/run/wakevirt-actor"]);
    assert!(!actor.mounted("/run/wakevirt-actor").has("ro"), "RuntimeDirectory=");
    for path in ["/home", "/run/user"] {
        assert!(actor.mounted(path).root.ends_with(INACCESSIBLE), "ProtectHome=: {path}");
    }
    actor.has_its_own(&site);
    actor.is_in_its_own(&site, &["ipc", "mnt", "net", "user", "uts"]);
}
