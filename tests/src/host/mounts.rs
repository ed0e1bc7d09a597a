//! The mounts that a process can reach: `/proc/PID/mountinfo`, proc(5).

use std::path::{Path, PathBuf};

use nix::unistd::Pid;

/// A mount that a process can reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    id: u32,
    parent: u32,
    /// The mounted directory or file, as a path within the file system.
    pub root: String,
    /// The mount point, as the process sees it.
    pub point: PathBuf,
    /// The options of this mount, such as `ro` and `nosuid`.
    pub options: Vec<String>,
    /// The type of the file system.
    pub kind: String,
    /// The options of the file system.
    pub kind_options: Vec<String>,
}

impl Mount {
    /// Parses a line: ID, parent ID, device, root, mount point, options, optional fields, `-`, type, source, options of
    /// the file system.
    fn parse(line: &str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ');
        let mut system = system.split(' ');
        let list = |text: &str| text.split(',').map(str::to_owned).collect();
        Some(Self {
            id: mount.next()?.parse().ok()?,
            parent: mount.next()?.parse().ok()?,
            root: mount.nth(1)?.to_owned(),
            point: mount.next()?.into(),
            options: list(mount.next()?),
            kind: system.next()?.to_owned(),
            kind_options: list(system.nth(1)?),
        })
    }

    /// Whether this option is set.
    #[must_use]
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|set| set == option)
    }

    /// Whether another mount hides this one.
    fn is_hidden_by(&self, other: &Self) -> bool {
        let over = other.parent == self.id && other.point == self.point;
        let above =
            other.parent == self.parent && other.point != self.point && self.point.starts_with(&other.point);
        over || above
    }
}

/// The mounts that a process can reach, without those that other mounts hide.
///
/// # Panics
/// If there is no such process.
#[must_use]
pub fn of(pid: Pid) -> Vec<Mount> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/mountinfo"))
        .unwrap_or_else(|error| panic!("no process {pid}: {error}"));
    reachable(&text)
}

fn reachable(text: &str) -> Vec<Mount> {
    let mut all: Vec<Mount> = text.lines().filter_map(Mount::parse).collect();
    loop {
        let is_hidden = |mount: &Mount| all.iter().any(|other| mount.is_hidden_by(other));
        let hidden: Vec<u32> = all.iter().filter(|mount| is_hidden(mount)).map(|mount| mount.id).collect();
        // A mount on top of a hidden one can be reached. A mount inside a hidden one cannot.
        let is_unreachable = |mount: &Mount| {
            hidden.contains(&mount.id)
                || all.iter().any(|parent| {
                    parent.id == mount.parent && hidden.contains(&parent.id) && parent.point != mount.point
                })
        };
        let left: Vec<Mount> = all.iter().filter(|mount| !is_unreachable(mount)).cloned().collect();
        if left.len() == all.len() {
            return left;
        }
        all = left;
    }
}

/// The mount that contains a path.
#[must_use]
pub fn at<'a>(mounts: &'a [Mount], path: &str) -> Option<&'a Mount> {
    let above = mounts.iter().filter(|mount| Path::new(path).starts_with(&mount.point));
    above.max_by_key(|mount| mount.point.components().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
1 0 0:1 / / ro,relatime shared:1 - overlay overlay rw,lowerdir=/x
2 1 0:2 / /tmp rw - tmpfs tmpfs rw
3 2 0:2 /private /tmp rw,nosuid master:2 - tmpfs tmpfs rw
4 1 0:3 / /run ro - tmpfs tmpfs rw
5 4 0:4 / /run/host rw - tmpfs tmpfs rw
6 4 0:5 / /run/host/file rw - ext4 /dev/vda rw
7 5 0:6 / /run/host/file ro - ext4 /dev/vda rw
8 2 0:7 / /tmp/inside rw - tmpfs tmpfs rw
";

    #[test]
    fn omits_hidden_mounts() {
        let mounts = reachable(TEXT);
        let ids: Vec<_> = mounts.iter().map(|mount| mount.id).collect();
        assert_eq!(ids, [1, 3, 4, 5, 7]);
        assert!(mounts[1].has("nosuid") && mounts[1].root == "/private");
    }

    #[test]
    fn finds_the_mount_of_a_path() {
        let mounts = reachable(TEXT);
        let id = |path| at(&mounts, path).map(|mount| mount.id);
        assert_eq!([id("/run/host/file"), id("/run/dbus"), id("/etc")], [Some(7), Some(4), Some(1)]);
    }
}
