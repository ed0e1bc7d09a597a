//! How many packets were lost, for the property `LostPackets`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Packets that were announced and never decided about. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct LostPackets(Arc<AtomicU64>);

impl LostPackets {
    /// So many more.
    pub fn add(&self, packets: u64) {
        self.0.fetch_add(packets, Ordering::Relaxed);
    }

    /// All until now.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
