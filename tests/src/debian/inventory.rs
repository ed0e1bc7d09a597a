//! Lists everything that an installation could leave behind.

use std::collections::BTreeSet;

/// Lists users, groups, and files and directories with their modes, owners and link targets. Omits the files of dpkg
/// and apt, and files that change even without an installation.
const FILES: &str = r"
    find / -xdev \( -path /dev -o -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /root -o -path /var/log \
        -o -path /var/cache -o -path /var/tmp -o -path /var/lib/apt -o -path /var/lib/dpkg \
        -o -path /var/lib/systemd/random-seed -o -path '/etc/*-' \) -prune -o -printf '%M %u:%g %p %l\n'
    cat /etc/passwd /etc/group /etc/shadow /etc/gshadow
";

/// Lists units, and wakevirt's files in `/run` and its names on the bus.
const STATE: &str = r"
    systemctl list-unit-files --all --no-legend --plain
    find /run -xdev -name '*wakevirt*'
    systemctl list-units --all --plain --no-legend '*wakevirt*'
    busctl list --acquired --activatable --no-legend | grep -o '^org[^ ]*wakevirt[^ ]*' || true
";

/// The listed entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory(BTreeSet<String>);

impl Inventory {
    /// Lists a system that is not booted. `sh` runs a shell command in it as root, and returns its output.
    #[must_use]
    pub fn of_files(sh: impl Fn(&str) -> String) -> Self {
        Self(sh(FILES).lines().map(str::to_owned).collect())
    }

    /// Lists a booted system.
    #[must_use]
    pub fn of_system(sh: impl Fn(&str) -> String) -> Self {
        // libvirtd creates its directories after it has reported that it is ready. This waits for them.
        sh("virsh --quiet --connect qemu:///system list");
        let Self(files) = Self::of_files(&sh);
        Self(files.into_iter().chain(sh(STATE).lines().map(str::to_owned)).collect())
    }

    /// Checks that the entries are the same as before, except those that contain one of these words.
    ///
    /// # Panics
    /// If they differ, with the differences in the message.
    pub fn assert_same_as(&self, before: &Self, ignored: &[&str]) {
        let is_relevant = |line: &&String| !ignored.iter().any(|word| line.contains(word));
        let left: Vec<_> = self.0.difference(&before.0).filter(is_relevant).collect();
        let missing: Vec<_> = before.0.difference(&self.0).filter(is_relevant).collect();
        assert!(left.is_empty() && missing.is_empty(), "left behind: {left:#?}\nmissing: {missing:#?}");
    }
}
