//! The counter behind the `LostPackets` property.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts packets that were announced but never led to a decision. Clones share one counter.
#[derive(Debug, Clone, Default)]
pub struct LostPackets(Arc<AtomicU64>);

impl LostPackets {
    /// Adds this many packets.
    pub fn add(&self, packets: u64) {
        self.0.fetch_add(packets, Ordering::Relaxed);
    }

    /// The total since the process started.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
