//! A limit on the rate of packets.

use super::Micros;

/// One second.
const SECOND: Micros = 1_000_000;

/// A token bucket that holds one second's worth of packets.
///
/// Instead of a level, it stores the time at which the bucket will be full again (the generic cell rate algorithm,
/// ITU-T I.371).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bucket {
    full_at: Micros,
}

impl Bucket {
    /// The bucket after one more packet; `None` if the bucket is empty or `rate` is 0.
    ///
    /// `rate` is in packets per second.
    pub(super) fn after_one(self, rate: u32, now: Micros) -> Option<Self> {
        let refill = SECOND.checked_div(rate.into())?;
        let full_at = self.full_at.max(now).saturating_add(refill);
        (full_at <= now.saturating_add(SECOND)).then_some(Self { full_at })
    }

    /// Takes one packet out of the bucket; `false` if the bucket is empty.
    pub(super) fn take(&mut self, rate: u32, now: Micros) -> bool {
        let after = self.after_one(rate, now);
        *self = after.unwrap_or(*self);
        after.is_some()
    }

    /// Whether the bucket is full, as a new bucket is.
    pub(super) const fn is_full(self, now: Micros) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of packets that the bucket admits out of `tries`.
    fn burst(bucket: &mut Bucket, tries: u32, now: Micros) -> usize {
        (0..tries).filter(|_| bucket.take(10, now)).count()
    }

    #[test]
    fn holds_packets_for_a_second_and_refills_evenly() {
        let mut bucket = Bucket::default();
        let mut now = 5 * SECOND;
        assert_eq!(burst(&mut bucket, 50, now), 10);
        for _ in 0..30 {
            now += SECOND / 10;
            assert_eq!(burst(&mut bucket, 2, now), 1);
        }
        // A long pause adds no more than one second's worth of packets.
        assert_eq!(burst(&mut bucket, 50, now + 60 * SECOND), 10);
    }

    #[test]
    fn a_rate_of_zero_admits_nothing() {
        assert!(!Bucket::default().take(0, 7));
    }
}
