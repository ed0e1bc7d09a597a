//! Checks that the mounts and namespaces of the services, as the kernel reports them, are those that the units set and
//! docs/THREAT-MODEL.md describes.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::fs::read_link;

use nix::unistd::Pid;
use wakevirt_tests::bus::Kind;
use wakevirt_tests::host::Host;
use wakevirt_tests::host::mounts::{self, Mount};
use wakevirt_tests::privileged;
use wakevirt_tests::scene::site::Site;

/// Writable mounts of both services: their own directories, and kernel file systems that have their own permission
/// checks.
const WRITABLE: &[&str] = &["/dev/mqueue", "/dev/pts", "/dev/shm", "/proc", "/tmp", "/var/tmp"];

/// The directory that systemd mounts over a directory that the service must not open.
const INACCESSIBLE: &str = "/inaccessible/dir";

/// A service and its mounts.
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

    /// The mount that contains a path.
    fn at(&self, path: &str) -> &Mount {
        mounts::at(&self.mounts, path).expect("a root mount")
    }

    /// The mount with this mount point.
    fn mount_point(&self, path: &str) -> &Mount {
        let mount = self.at(path);
        assert_eq!(mount.point.to_str(), Some(path), "{}: {:#?}", self.unit, self.mounts);
        mount
    }

    /// Checks that all mounts except the writable ones are read-only: `ProtectSystem=`, `ReadOnlyPaths=`,
    /// `ProtectControlGroups=`, `ProtectKernelTunables=`.
    fn check_read_only(&self, writable: &[&str]) {
        let expected = |mount: &&Mount| {
            let point = mount.point.to_str().unwrap();
            // This is the memory pressure file: systemd.resource-control(5), MemoryPressureWatch=.
            WRITABLE.contains(&point) || writable.contains(&point) || point.ends_with("/memory.pressure")
        };
        let other: Vec<_> =
            self.mounts.iter().filter(|mount| !mount.has("ro")).filter(|mount| !expected(mount)).collect();
        assert!(other.is_empty(), "{} can write to {other:#?}", self.unit);
        for path in
            ["/", "/etc", "/usr", "/run", "/run/dbus", "/run/systemd", "/sys", "/sys/fs/cgroup", "/dev"]
        {
            assert!(self.at(path).has("ro"), "{}: {path} is {:#?}", self.unit, self.at(path));
        }
    }

    /// Checks `PrivateTmp=`, `PrivateDevices=`, `ProtectProc=`, `ProcSubset=`, `ProtectHome=`.
    fn check_private_mounts(&self, site: &Site<'_>) {
        for path in ["/tmp", "/var/tmp"] {
            let root = &self.mount_point(path).root;
            assert!(root.contains(&format!("-{}.service-", self.unit)), "{}: {path} is {root}", self.unit);
        }
        let devices = format!("/proc/{}/root/dev", self.pid);
        let devices: Vec<_> =
            std::fs::read_dir(devices).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        for device in ["kmsg", "mem", "net", "tun", "kvm", "vda"] {
            assert!(!devices.iter().any(|found| found == device), "{}: {devices:?}", self.unit);
        }
        assert!(devices.iter().any(|found| found == "null"), "{}: {devices:?}", self.unit);
        let proc = self.mount_point("/proc");
        for option in ["hidepid=invisible", "subset=pid"] {
            assert!(proc.kind_options.iter().any(|set| set == option), "{}: {proc:#?}", self.unit);
        }
        let host = mounts::of(site.debian.init());
        assert!(!mounts::at(&host, "/proc").unwrap().kind_options.contains(&"subset=pid".to_owned()));
        assert!(self.mount_point("/root").root.ends_with(INACCESSIBLE), "{}", self.unit);
    }

    /// Checks that these namespaces are private to the service, and that it shares the others with the host:
    /// namespaces(7).
    fn check_namespaces(&self, site: &Site<'_>, own: &[&str]) {
        for name in ["ipc", "mnt", "net", "user", "uts"] {
            let [service, host] = [self.pid, site.debian.init()]
                .map(|pid| read_link(format!("/proc/{pid}/ns/{name}")).unwrap());
            assert_eq!(service != host, own.contains(&name), "{}: {name}", self.unit);
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
        capture.mount_point("/").root.ends_with("/wakevirt-capture"),
        "RootDirectory=: {:#?}",
        capture.mounts
    );
    for path in ["/etc", "/usr", "/opt", "/srv", "/run/dbus", "/var/run/dbus", "/run/systemd/journal"] {
        assert!(capture.mount_point(path).has("ro"), "BindReadOnlyPaths=: {:#?}", capture.mounts);
    }
    for (path, kind) in [("/proc", "proc"), ("/sys", "sysfs"), ("/dev", "tmpfs")] {
        assert_eq!(capture.mount_point(path).kind, kind, "MountAPIVFS=");
    }
    capture.check_read_only(&[]);
    capture.check_private_mounts(&site);
    capture.check_namespaces(&site, &["ipc", "mnt", "uts"]);

    let actor = Service::new(&site, "wakevirt-actor");
    actor.check_read_only(&["/run/wakevirt-actor"]);
    assert!(!actor.mount_point("/run/wakevirt-actor").has("ro"), "RuntimeDirectory=");
    for path in ["/home", "/run/user"] {
        assert!(actor.mount_point(path).root.ends_with(INACCESSIBLE), "ProtectHome=: {path}");
    }
    actor.check_private_mounts(&site);
    actor.check_namespaces(&site, &["ipc", "mnt", "net", "user", "uts"]);
}
