//! The caller's libvirt daemons, which manage the domains of `qemu:///session`, and their guests, read from /proc.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

/// The libvirt programs that manage QEMU domains.
const DAEMONS: [&str; 2] = ["libvirtd", "virtqemud"];

/// The maximum number of guests, and of descriptors of a guest that are examined.
const MAX_GUESTS: usize = 64;
const MAX_DESCRIPTORS: usize = 1024;

/// What /proc adds to the path of an open file that was removed: proc(5).
const REMOVED: &str = " (deleted)";

/// The caller's libvirt daemons and their guests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session {
    /// libvirt's directory for the programs of the caller's login sessions.
    pub directory: PathBuf,
    /// The daemons, by process ID.
    pub daemons: Vec<Daemon>,
    /// The guests, by process ID.
    pub guests: Vec<Guest>,
}

/// A libvirt daemon of the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// Its process ID.
    pub pid: u32,
    /// Its program.
    pub name: String,
    /// The directory of its socket.
    pub directory: PathBuf,
}

/// A QEMU process that one of the caller's libvirt daemons has started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Its process ID.
    pub pid: u32,
    /// The name of the domain.
    pub name: String,
    /// The directory of the daemon's socket.
    pub directory: PathBuf,
    /// Whether the directory, or libvirt's file in it, was removed.
    pub is_removed: bool,
}

impl Session {
    /// Reads /proc.
    #[must_use]
    pub fn read() -> Self {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut ids: Vec<u32> =
            processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        ids.sort_unstable();
        let own: Vec<(u32, String)> =
            ids.into_iter().filter_map(|pid| Some((pid, own_program(pid)?))).collect();
        let guests = own.iter().filter(|(_, name)| name.starts_with("qemu-"));
        Self {
            directory: session_directory().unwrap_or_default(),
            daemons: own.iter().filter_map(|(pid, name)| daemon(*pid, name)).collect(),
            guests: guests.filter_map(|(pid, _)| guest(*pid)).take(MAX_GUESTS).collect(),
        }
    }
}

/// The name of a process, if the caller owns it.
fn own_program(pid: u32) -> Option<String> {
    let directory = PathBuf::from(format!("/proc/{pid}"));
    if fs::metadata(&directory).ok()?.uid() != geteuid().as_raw() {
        return None;
    }
    Some(fs::read_to_string(directory.join("comm")).ok()?.trim().to_owned())
}

fn daemon(pid: u32, name: &str) -> Option<Daemon> {
    if !DAEMONS.contains(&name) {
        return None;
    }
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let variables: Vec<&[u8]> = environment.split(|byte| *byte == 0).collect();
    let value =
        |name: &str| variables.iter().find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    let directory = runtime_directory(|name| value(name).map(|value| OsStr::from_bytes(value).into()))?;
    Some(Daemon { pid, name: name.to_owned(), directory })
}

/// QEMU keeps the file open to which libvirt has written its process ID.
fn guest(pid: u32) -> Option<Guest> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten().take(MAX_DESCRIPTORS);
    descriptors.filter_map(|it| fs::read_link(it.path()).ok()).find_map(|target| guest_of(pid, &target))
}

/// The guest whose process has this file open, if it is the one with the process ID.
fn guest_of(pid: u32, file: &Path) -> Option<Guest> {
    let text = file.to_str()?;
    let (path, was_removed) = text.strip_suffix(REMOVED).map_or((text, false), |path| (path, true));
    let (directory, name) = path.rsplit_once("/qemu/run/")?;
    let name = name.strip_suffix(".pid").filter(|name| !name.contains('/'))?;
    let is_removed = was_removed || !fs::exists(path).unwrap_or(true);
    Some(Guest { pid, name: name.to_owned(), directory: directory.into(), is_removed })
}

/// libvirt's directory for the programs of the caller's login sessions. This process might not be in a session.
fn session_directory() -> Option<PathBuf> {
    let of_logind = PathBuf::from(format!("/run/user/{}", geteuid()));
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() && of_logind.is_dir() {
        return Some(of_logind.join("libvirt"));
    }
    runtime_directory(|name| std::env::var_os(name).map(PathBuf::from))
}

/// The runtime directory of a daemon with this environment, as in libvirt's virGetUserRuntimeDirectory.
fn runtime_directory(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    if let Some(runtime) = variable("XDG_RUNTIME_DIR") {
        return Some(runtime.join("libvirt"));
    }
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
    Some(cache.join("libvirt"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_directory_of_the_socket() {
        let directory = |environment: &'static [(&str, &str)]| {
            runtime_directory(|name| Some(environment.iter().find(|(key, _)| *key == name)?.1.into()))
        };
        assert_eq!(
            directory(&[("XDG_RUNTIME_DIR", "/run/user/7"), ("HOME", "/h")]),
            Some("/run/user/7/libvirt".into())
        );
        assert_eq!(directory(&[("HOME", "/h")]), Some("/h/.cache/libvirt".into()));
        assert_eq!(directory(&[("XDG_CACHE_HOME", "/c"), ("HOME", "/h")]), Some("/c/libvirt".into()));
        assert_eq!(directory(&[("A", "b")]), None);
    }

    #[test]
    fn recognizes_the_file_of_a_guest() {
        let guest = |file: &str| {
            let guest = guest_of(1, Path::new(file))?;
            Some((guest.name, guest.directory, guest.is_removed))
        };
        let removed = Some(("a.b".to_owned(), PathBuf::from("/no/libvirt"), true));
        assert_eq!(guest("/no/libvirt/qemu/run/a.b.pid (deleted)"), removed);
        // The file does not exist.
        assert_eq!(guest("/no/libvirt/qemu/run/a.b.pid"), removed);
        assert_eq!(guest("/no/libvirt/qemu/run/channel/a.pid"), None);
        assert_eq!(guest("/no/libvirt/qemu/run/a.xml"), None);
        assert_eq!(guest("socket:[7]"), None);
    }
}
