//! The caller's libvirt daemons, which manage the domains of `qemu:///session`, read from /proc.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use nix::unistd::geteuid;

/// The libvirt programs that manage QEMU domains.
const DAEMONS: [&str; 2] = ["libvirtd", "virtqemud"];

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

/// The daemons of the caller, by process ID.
#[must_use]
pub fn daemons() -> Vec<Daemon> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut daemons: Vec<Daemon> = ids.filter_map(daemon).collect();
    daemons.sort_by_key(|daemon| daemon.pid);
    daemons
}

fn daemon(pid: u32) -> Option<Daemon> {
    let directory = PathBuf::from(format!("/proc/{pid}"));
    if fs::metadata(&directory).ok()?.uid() != geteuid().as_raw() {
        return None;
    }
    let name = fs::read_to_string(directory.join("comm")).ok()?.trim().to_owned();
    if !DAEMONS.contains(&name.as_str()) {
        return None;
    }
    let environment = fs::read(directory.join("environ")).ok()?;
    Some(Daemon { pid, name, directory: runtime_directory(&environment)? })
}

/// The runtime directory of a daemon with this environment, as in libvirt's virGetUserRuntimeDirectory.
fn runtime_directory(environment: &[u8]) -> Option<PathBuf> {
    let variable = |name: &str| {
        let pairs = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        pairs.into_iter().find_map(|pair| Some(PathBuf::from(pair.strip_prefix(name)?.strip_prefix('=')?)))
    };
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
        let directory = |environment: &str| runtime_directory(environment.as_bytes());
        assert_eq!(
            directory("A=b\0XDG_RUNTIME_DIR=/run/user/7\0HOME=/h\0"),
            Some("/run/user/7/libvirt".into())
        );
        assert_eq!(directory("HOME=/h\0"), Some("/h/.cache/libvirt".into()));
        assert_eq!(directory("XDG_CACHE_HOME=/c\0HOME=/h\0"), Some("/c/libvirt".into()));
        assert_eq!(directory("A=b\0"), None);
    }
}
