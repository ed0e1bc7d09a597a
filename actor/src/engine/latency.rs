//! How long wakes triggered by packets took.

/// The upper bounds of the buckets, in microseconds.
const BOUNDS: [u64; 15] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000, 60_000_000,
];

/// A histogram of durations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latency {
    /// The number of wakes in each bucket, without those in lower buckets.
    buckets: [u64; BOUNDS.len()],
    /// The sum of all durations, in microseconds.
    sum: u64,
    /// The number of wakes, including those above the highest bound.
    count: u64,
}

impl Latency {
    /// Adds a wake that took this time, in microseconds.
    pub(super) fn add(&mut self, time: u64) {
        let bucket = BOUNDS.partition_point(|bound| *bound < time);
        if let Some(wakes) = self.buckets.get_mut(bucket) {
            *wakes += 1;
        }
        self.sum = self.sum.saturating_add(time);
        self.count += 1;
    }

    /// The upper bound of each bucket with the number of wakes up to it; the sum of all durations; the number of all
    /// wakes.
    #[must_use]
    pub fn cumulative(&self) -> (Vec<(u64, u64)>, u64, u64) {
        let counts = self.buckets.iter().scan(0, |total, wakes| {
            *total += wakes;
            Some(*total)
        });
        (BOUNDS.into_iter().zip(counts).collect(), self.sum, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_duration_in_all_higher_buckets() {
        let mut latency = Latency::default();
        [0, 1_000, 1_001, 60_000_000, 60_000_001].into_iter().for_each(|time| latency.add(time));
        let (buckets, sum, count) = latency.cumulative();
        assert_eq!((sum, count), (120_002_002, 5));
        assert_eq!(buckets[..2], [(1_000, 2), (2_500, 3)]);
        assert_eq!(buckets.last(), Some(&(60_000_000, 4)));
        assert!(buckets.is_sorted(), "bounds and counts increase");
        latency.add(u64::MAX);
        assert_eq!(latency.cumulative().1, u64::MAX);
    }
}
