//! The MAC addresses of a domain.

use core::ops::Deref;
use std::sync::Arc;

use wakevirt_protocol::MacAddr;

/// MAC addresses in ascending order, each once.
///
/// They are in one allocation of exact size, which clones share, because there can be ten thousand domains: a `BTreeSet`
/// has room for eleven addresses, and nearly all domains have one or two.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MacSet(Arc<[MacAddr]>);

impl Deref for MacSet {
    type Target = [MacAddr];

    fn deref(&self) -> &[MacAddr] {
        &self.0
    }
}

impl FromIterator<MacAddr> for MacSet {
    fn from_iter<I: IntoIterator<Item = MacAddr>>(macs: I) -> Self {
        let mut macs: Vec<MacAddr> = macs.into_iter().collect();
        macs.sort_unstable();
        macs.dedup();
        Self(macs.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contains_each_address_once_in_ascending_order() {
        let mac = |last| MacAddr::new([0x52, 0x54, 0, 0, 0, last]);
        let macs: MacSet = [3, 1, 2, 1, 3].map(mac).into_iter().collect();
        assert_eq!(*macs, [1, 2, 3].map(mac));
        assert_eq!(macs, [1, 2, 3].map(mac).into_iter().collect());
        assert!(macs.contains(&mac(2)) && !macs.contains(&mac(4)));
        assert!(MacSet::default().is_empty());
    }
}
