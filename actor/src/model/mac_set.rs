//! The MAC addresses of a domain.

use core::ops::Deref;

use wakevirt_protocol::MacAddr;

/// MAC addresses in ascending order, each once.
///
/// There can be ten thousand domains, and nearly all have one address, which takes no allocation. A `BTreeSet` allocates
/// room for eleven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacSet(Macs);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Macs {
    One(MacAddr),
    /// Any other number.
    Several(Box<[MacAddr]>),
}

impl Default for MacSet {
    fn default() -> Self {
        Self(Macs::Several(Box::default()))
    }
}

impl Deref for MacSet {
    type Target = [MacAddr];

    fn deref(&self) -> &[MacAddr] {
        match &self.0 {
            Macs::One(mac) => core::slice::from_ref(mac),
            Macs::Several(macs) => macs,
        }
    }
}

impl FromIterator<MacAddr> for MacSet {
    fn from_iter<I: IntoIterator<Item = MacAddr>>(macs: I) -> Self {
        let mut macs: Vec<MacAddr> = macs.into_iter().collect();
        macs.sort_unstable();
        macs.dedup();
        Self(match macs.as_slice() {
            [mac] => Macs::One(*mac),
            _ => Macs::Several(macs.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contains_each_address_once_in_ascending_order() {
        let mac = |last| MacAddr::new([0x52, 0x54, 0, 0, 0, last]);
        let set = |macs: &[u8]| macs.iter().copied().map(mac).collect::<MacSet>();
        for (macs, expected) in [(&[3, 1, 2, 1, 3][..], &[1, 2, 3][..]), (&[2, 2], &[2]), (&[], &[])] {
            assert_eq!(*set(macs), *expected.iter().copied().map(mac).collect::<Vec<_>>(), "{macs:?}");
            assert_eq!(set(macs), set(expected));
        }
        assert_ne!(set(&[1]), set(&[2]));
        assert_eq!(set(&[]), MacSet::default());
    }

    #[test]
    fn one_address_takes_no_more_than_a_pointer_to_several() {
        assert_eq!(size_of::<MacSet>(), size_of::<Box<[MacAddr]>>());
    }
}
