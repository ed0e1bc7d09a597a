//! The runtime drop-ins that systemd writes for `SetUnitProperties`.

use std::fs;
use std::io;
use std::path::Path;

use wakevirt_host::model::{CpuSet, HostState};
use wakevirt_host::system::MACHINE_SLICE;

/// The directories in which systemd creates them: for units with a file, and for transient units.
const DIRECTORIES: [&str; 2] = ["/run/systemd/system.control", "/run/systemd/transient"];

/// The paths of the drop-ins that set a property to its default: all CPUs, or the default weight. Those of an
/// administrator who has limited a unit remain.
#[must_use]
pub fn paths(now: &HostState, possible: &CpuSet) -> Vec<String> {
    let all = now.allowed_cpus.iter().filter(|(_, cpus)| *cpus == possible);
    let mut drop_ins: Vec<(&str, &str)> = all.map(|(unit, _)| (unit.as_str(), "AllowedCPUs")).collect();
    if now.machine_weight.is_none() {
        drop_ins.push((MACHINE_SLICE, "CPUWeight"));
    }
    let path = |(unit, property): &(&str, &str)| {
        let file = format!("{unit}.d/50-{property}.conf");
        DIRECTORIES.map(|directory| format!("{directory}/{file}"))
    };
    drop_ins.iter().flat_map(path).collect()
}

/// Removes a drop-in, and its directory if it is empty. Returns whether there was one.
///
/// # Errors
/// If the drop-in cannot be removed.
pub fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        result => result?,
    }
    if let Some(directory) = path.parent() {
        // Other drop-ins remain.
        let _ = fs::remove_dir(directory);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_only_what_sets_a_default() {
        let cpus = |list: &str| list.parse::<CpuSet>().unwrap();
        let now = HostState {
            allowed_cpus: [("system.slice".to_owned(), cpus("0-3")), ("user.slice".to_owned(), cpus("0-1"))]
                .into(),
            machine_weight: Some(100),
            ..HostState::default()
        };
        let expected = DIRECTORIES.map(|it| format!("{it}/system.slice.d/50-AllowedCPUs.conf"));
        assert_eq!(paths(&now, &cpus("0-3")), expected);
        let default = paths(&HostState::default(), &cpus("0-3"));
        assert_eq!(default[0], "/run/systemd/system.control/machine.slice.d/50-CPUWeight.conf");
    }

    #[test]
    fn removes_a_drop_in_and_an_empty_directory() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("system.slice.d");
        fs::create_dir(&directory).unwrap();
        let (one, other) = (directory.join("50-AllowedCPUs.conf"), directory.join("50-IOWeight.conf"));
        fs::write(&one, "").unwrap();
        fs::write(&other, "").unwrap();
        assert!(remove(&one).unwrap() && directory.exists());
        assert!(!remove(&one).unwrap());
        assert!(remove(&other).unwrap() && !directory.exists());
    }
}
