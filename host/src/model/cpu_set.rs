//! Sets of CPUs.

use core::fmt;
use core::str::FromStr;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use wakevirt_service::logs::quoted;

/// The highest CPU number. Linux supports at most 8192 CPUs (`CONFIG_NR_CPUS`).
pub const MAX_CPU: u32 = 8191;

/// CPUs by number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuSet(BTreeSet<u32>);

/// A string that is not a list of CPUs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not a list of CPUs such as \"0-3,8\"", quoted(_0))]
pub struct BadCpuSet(String);

impl CpuSet {
    /// Whether it contains no CPU.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of CPUs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it contains the CPU.
    #[must_use]
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// Whether it contains all CPUs of the other set.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        self.0.is_superset(&other.0)
    }

    /// The CPUs in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self(&self.0 | &other.0)
    }

    /// The CPUs in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self(&self.0 & &other.0)
    }

    /// The CPUs that are not in the other set.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        Self(&self.0 - &other.0)
    }

    /// The CPUs in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().copied()
    }

    /// The bit mask for systemd's `AllowedCPUs` D-Bus property: CPU n is bit n % 8 of byte n / 8
    /// (org.freedesktop.systemd1(5)).
    #[must_use]
    pub fn to_mask(&self) -> Vec<u8> {
        let byte = |index: u32| {
            (0..8).filter(|bit| self.contains(index * 8 + bit)).fold(0, |mask, bit| mask | 1 << bit)
        };
        self.0.last().map_or_else(Vec::new, |last| (0..=last / 8).map(byte).collect())
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl fmt::Display for CpuSet {
    /// Writes the list format of cpuset(7): `0-3,8`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if_eq(&(last + 1)) {
                last = next;
            }
            write!(f, "{separator}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl FromStr for CpuSet {
    type Err = BadCpuSet;

    /// Parses the list format of cpuset(7). `^2` excludes a CPU, as in libvirt's `cpuset` attributes
    /// (<https://libvirt.org/formatdomain.html#cpu-allocation>).
    fn from_str(text: &str) -> Result<Self, BadCpuSet> {
        let bad = || BadCpuSet(text.to_owned());
        let number = |text: &str| text.parse().ok().filter(|cpu| *cpu <= MAX_CPU).ok_or_else(bad);
        let mut cpus = BTreeSet::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            if let Some(excluded) = part.strip_prefix('^') {
                cpus.remove(&number(excluded)?);
                continue;
            }
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u32, u32) = (number(first)?, number(last)?);
            if first > last {
                return Err(bad());
            }
            cpus.extend(first..=last);
        }
        Ok(Self(cpus))
    }
}

impl TryFrom<String> for CpuSet {
    type Error = BadCpuSet;

    fn try_from(text: String) -> Result<Self, BadCpuSet> {
        text.parse()
    }
}

impl From<CpuSet> for String {
    fn from(cpus: CpuSet) -> Self {
        cpus.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parses_and_prints_lists() {
        for (text, printed, count) in [
            ("", "", 0),
            ("0", "0", 1),
            ("0-3,8", "0-3,8", 5),
            ("3,1,2\n", "1-3", 3),
            ("0-7,^2", "0-1,3-7", 7),
        ] {
            let set: CpuSet = text.parse().unwrap();
            assert_eq!((set.to_string().as_str(), set.len()), (printed, count), "{text:?}");
        }
        for text in ["3-1", "x", "1-", "-1", "8192", "1;2", "0-99999999"] {
            assert!(text.parse::<CpuSet>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn mask_has_one_bit_for_each_cpu() {
        let mask = |text: &str| text.parse::<CpuSet>().unwrap().to_mask();
        assert_eq!(mask(""), [0u8; 0]);
        assert_eq!(mask("0-1"), [3]);
        assert_eq!(mask("7,8"), [0x80, 1]);
    }

    proptest! {
        #[test]
        fn a_printed_set_parses_to_itself(cpus: BTreeSet<u16>) {
            let set: CpuSet = cpus.into_iter().map(|cpu| u32::from(cpu) % (MAX_CPU + 1)).collect();
            prop_assert_eq!(set.to_string().parse::<CpuSet>().unwrap(), set);
        }
    }
}
