//! Sets of CPUs.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};
use wakevirt_service::logs::quoted;

/// The highest CPU number. Linux supports at most 8192 CPUs (`CONFIG_NR_CPUS`).
pub const MAX_CPU: u32 = 8191;
/// The number of CPUs in a word.
const BITS: u32 = u64::BITS;

/// CPUs by number.
///
/// A bit map, so that a long list in a domain's XML needs little time and memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuSet(Vec<u64>);

/// A string that is not a list of CPUs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not a list of CPUs such as \"0-3,8\"", quoted(_0))]
pub struct BadCpuSet(String);

impl CpuSet {
    /// Whether it contains no CPU.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of CPUs.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether it contains the CPU.
    #[must_use]
    pub fn contains(&self, cpu: u32) -> bool {
        let mut words = self.0.iter().zip((0..).step_by(64));
        words.any(|(word, first)| word & bits(cpu, cpu, first) != 0)
    }

    /// Whether it contains all CPUs of the other set.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        other.difference(self).is_empty()
    }

    /// The CPUs in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.combine(other, |own, other| own | other)
    }

    /// The CPUs in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |own, other| own & other)
    }

    /// The CPUs that are not in the other set.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.combine(other, |own, other| own & !other)
    }

    /// The CPUs in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let words = self.0.iter().zip((0..).step_by(64));
        words.flat_map(|(word, first)| {
            (0..BITS).filter(move |bit| word >> bit & 1 == 1).map(move |bit| first + bit)
        })
    }

    /// The bit mask for systemd's `AllowedCPUs` D-Bus property: CPU n is bit n % 8 of byte n / 8
    /// (org.freedesktop.systemd1(5)).
    #[must_use]
    pub fn to_mask(&self) -> Vec<u8> {
        let mut mask: Vec<u8> = self.0.iter().flat_map(|word| word.to_le_bytes()).collect();
        mask.truncate(mask.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        mask
    }

    fn combine(&self, other: &Self, operation: fn(u64, u64) -> u64) -> Self {
        let word = |index: usize| {
            let of = |set: &Self| set.0.get(index).copied().unwrap_or_default();
            operation(of(self), of(other))
        };
        Self::new((0..self.0.len().max(other.0.len())).map(word).collect())
    }

    /// The set with these words. Equal sets have equal words, because the last word is not 0.
    fn new(mut words: Vec<u64>) -> Self {
        words.truncate(words.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1));
        words.shrink_to_fit();
        Self(words)
    }
}

/// The bits of the CPUs from `first` to `last` in the word that begins with the CPU `start`.
fn bits(first: u32, last: u32, start: u32) -> u64 {
    let (low, high) = (first.max(start), last.min(start + BITS - 1));
    if low > high { 0 } else { u64::MAX >> (BITS - 1 - (high - low)) << (low - start) }
}

/// Words for all CPUs.
fn words() -> Vec<u64> {
    vec![0; (MAX_CPU / BITS + 1) as usize]
}

/// Changes the words at the bits of the CPUs from `first` to `last`.
fn change(words: &mut [u64], first: u32, last: u32, operation: fn(&mut u64, u64)) {
    for (word, start) in words.iter_mut().zip((0..).step_by(64)) {
        operation(word, bits(first, last, start));
    }
}

impl FromIterator<u32> for CpuSet {
    /// Ignores numbers above [`MAX_CPU`].
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        let mut words = words();
        cpus.into_iter().for_each(|cpu| change(&mut words, cpu, cpu, |word, bits| *word |= bits));
        Self::new(words)
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
        let mut cpus = words();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            if let Some(excluded) = part.strip_prefix('^') {
                let cpu = number(excluded)?;
                change(&mut cpus, cpu, cpu, |word, bits| *word &= !bits);
                continue;
            }
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u32, u32) = (number(first)?, number(last)?);
            if first > last {
                return Err(bad());
            }
            change(&mut cpus, first, last, |word, bits| *word |= bits);
        }
        Ok(Self::new(cpus))
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
    use std::collections::BTreeSet;

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
        /// The operations give the same result as those of a set of numbers.
        #[test]
        fn operations_are_those_of_sets(a: BTreeSet<u8>, b: BTreeSet<u8>) {
            let set = |cpus: &BTreeSet<u8>| cpus.iter().map(|cpu| u32::from(*cpu)).collect::<CpuSet>();
            let (one, other) = (set(&a), set(&b));
            prop_assert_eq!(one.union(&other), set(&(&a | &b)));
            prop_assert_eq!(one.intersection(&other), set(&(&a & &b)));
            prop_assert_eq!(one.difference(&other), set(&(&a - &b)));
            prop_assert_eq!(one.includes(&other), a.is_superset(&b));
            prop_assert_eq!(one.len() as usize, a.len());
            prop_assert!(one.iter().eq(a.iter().map(|cpu| u32::from(*cpu))));
            prop_assert!((0..300).all(|cpu| one.contains(cpu) == a.iter().any(|it| u32::from(*it) == cpu)));
            let mask = one.to_mask();
            let bit = |cpu: u8| mask.get(usize::from(cpu / 8)).is_some_and(|byte| byte >> (cpu % 8) & 1 == 1);
            prop_assert!((0..=u8::MAX).all(|cpu| bit(cpu) == a.contains(&cpu)));
        }

        #[test]
        fn a_printed_set_parses_to_itself(cpus: BTreeSet<u16>) {
            let set: CpuSet = cpus.into_iter().map(|cpu| u32::from(cpu) % (MAX_CPU + 1)).collect();
            prop_assert_eq!(set.to_string().parse::<CpuSet>().unwrap(), set);
        }
    }
}
