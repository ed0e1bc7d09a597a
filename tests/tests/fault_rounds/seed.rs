//! Random numbers that can be repeated.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A generator of random numbers: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators").
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A generator with the seed in `WAKEVIRT_SEED`, or another one in each run. Prints the seed.
    pub fn new() -> Self {
        let chosen = std::env::var("WAKEVIRT_SEED").ok().map(|seed| seed.parse().expect("a number"));
        let seed = chosen.unwrap_or_else(|| {
            let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::from(time.subsec_nanos())
        });
        println!("WAKEVIRT_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("64 bits");
        usize::try_from(self.next() % end).expect("below `end`")
    }

    /// One of the items.
    pub fn choose<T: Copy>(&mut self, items: &[T]) -> T {
        *items.get(self.below(items.len())).expect("an index below the length")
    }

    /// A time of less than `end`.
    pub fn time_below(&mut self, end: Duration) -> Duration {
        let microseconds = usize::try_from(end.as_micros()).expect("less than an hour");
        Duration::from_micros(u64::try_from(self.below(microseconds)).expect("64 bits"))
    }
}

/// This number of rounds, multiplied by `WAKEVIRT_ROUNDS`.
pub fn rounds(number: usize) -> usize {
    number * std::env::var("WAKEVIRT_ROUNDS").map_or(1, |rounds| rounds.parse().expect("a number"))
}

/// Defines two tests for each function: `short` for `make check`, and `long` for `make soak`. The numbers are their
/// rounds.
macro_rules! in_rounds {
    ($($(#[$attribute:meta])* fn $name:ident($short:literal, $long:literal) { $function:expr })*) => { $(
        $(#[$attribute])*
        mod $name {
            use super::*;

            #[test]
            fn short() {
                wakevirt_tests::privileged!();
                $function($crate::seed::rounds($short));
            }

            #[test]
            #[ignore = "make soak"]
            fn long() {
                wakevirt_tests::privileged!();
                $function($crate::seed::rounds($long));
            }
        }
    )* };
}

pub(crate) use in_rounds;
