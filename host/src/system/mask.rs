//! The kernel's hexadecimal CPU masks: words of 32 bits, separated by commas, the highest word first
//! (<https://docs.kernel.org/core-api/printk-formats.html#bitmap-and-its-derivatives-such-as-cpumask-and-nodemask>).

use crate::model::{CpuSet, MAX_CPU};

/// Parses a mask such as `00000001,ffffffff`. Returns `None` if it has another format or a CPU above [`MAX_CPU`].
pub(super) fn parse(text: &str) -> Option<CpuSet> {
    let mut cpus = Vec::new();
    for (index, word) in text.trim().rsplit(',').enumerate() {
        let bits = u32::from_str_radix(word, 16).ok()?;
        let first = u32::try_from(index).ok()?.checked_mul(32)?;
        cpus.extend((0..32).filter(|bit| bits >> bit & 1 == 1).map(|bit| first.saturating_add(bit)));
    }
    cpus.iter().all(|cpu| *cpu <= MAX_CPU).then(|| cpus.into_iter().collect())
}

/// Writes a mask.
pub(super) fn print(cpus: &CpuSet) -> String {
    let words = cpus.iter().last().unwrap_or_default() / 32 + 1;
    let word = |index: u32| {
        (0..32).filter(|bit| cpus.contains(index * 32 + bit)).fold(0_u32, |bits, bit| bits | 1 << bit)
    };
    (0..words).rev().map(|index| format!("{:08x}", word(index))).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parses_and_prints_masks() {
        for (text, list) in
            [("f", "0-3"), ("00000001,80000000\n", "31-32"), ("0", ""), ("ff,00000000", "32-39")]
        {
            let cpus = parse(text).unwrap();
            assert_eq!(cpus.to_string(), list);
            assert_eq!(parse(&print(&cpus)).unwrap(), cpus);
        }
        assert_eq!(print(&"0-3".parse().unwrap()), "0000000f");
        assert_eq!(print(&"33".parse().unwrap()), "00000002,00000000");
        for text in ["", "x", "1,", "1ffffffff", "-1"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        assert_eq!(parse(&format!("1{}", ",0".repeat(256))), None, "CPU 8192");
    }

    proptest! {
        #[test]
        fn a_printed_mask_parses_to_itself(cpus: std::collections::BTreeSet<u16>) {
            let set: CpuSet = cpus.into_iter().map(|cpu| u32::from(cpu) % (MAX_CPU + 1)).collect();
            prop_assert_eq!(parse(&print(&set)).unwrap(), set);
        }
    }
}
