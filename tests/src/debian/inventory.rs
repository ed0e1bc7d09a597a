//! What is on a host that an installation could leave there.

use std::collections::BTreeSet;

/// Files and folders with their modes, owners and links; users and groups. What changes by itself, and what dpkg
/// and apt write for themselves, is left out.
const LASTING: &str = r"
    find / -xdev \( -path /dev -o -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /root -o -path /var/log \
        -o -path /var/cache -o -path /var/tmp -o -path /var/lib/apt -o -path /var/lib/dpkg \
        -o -path /var/lib/systemd/random-seed -o -path '/etc/*-' \) -prune -o -printf '%M %u:%g %p %l\n'
    cat /etc/passwd /etc/group /etc/shadow /etc/gshadow
";

/// Units, and what of wakevirt is in `/run` and on the bus.
const RUNNING: &str = r"
    systemctl list-unit-files --all --no-legend --plain
    find /run -xdev -name '*wakevirt*'
    systemctl list-units --all --plain --no-legend '*wakevirt*'
    busctl list --acquired --activatable --no-legend | grep -o '^org[^ ]*wakevirt[^ ]*' || true
";

/// What is there, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory(BTreeSet<String>);

impl Inventory {
    /// Of a system that does not run; `sh` runs shell in it as root, and returns what that wrote.
    #[must_use]
    pub fn of_files(sh: impl Fn(&str) -> String) -> Self {
        Self(sh(LASTING).lines().map(str::to_owned).collect())
    }

    /// Of a system that runs.
    #[must_use]
    pub fn of_system(sh: impl Fn(&str) -> String) -> Self {
        // libvirtd creates its own folders after it has reported that it is ready.
        sh("virsh --quiet --connect qemu:///system list");
        let Self(lasting) = Self::of_files(&sh);
        Self(lasting.into_iter().chain(sh(RUNNING).lines().map(str::to_owned)).collect())
    }

    /// Makes sure that all is as it was, but for what comes with these words.
    ///
    /// # Panics
    /// If there is more or less, and says what.
    pub fn assert_same_as(&self, before: &Self, but: &[&str]) {
        let is_other = |line: &&String| !but.iter().any(|word| line.contains(word));
        let left: Vec<_> = self.0.difference(&before.0).filter(is_other).collect();
        let gone: Vec<_> = before.0.difference(&self.0).filter(is_other).collect();
        assert!(left.is_empty() && gone.is_empty(), "left behind: {left:#?}\ngone: {gone:#?}");
    }
}
