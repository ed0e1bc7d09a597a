//! Which domain has which MAC address: in memory, so that a packet costs one look-up, however many
//! domains there are.

use std::collections::HashMap;

use uuid::Uuid;
use wakevirt_protocol::MacAddr;

use crate::hypervisor::Domain;

/// The known domains, by UUID and by MAC address.
#[derive(Debug, Default)]
pub struct Index {
    domains: HashMap<Uuid, Domain>,
    owners: HashMap<MacAddr, Vec<Uuid>>,
}

/// Which domains have a MAC address.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// None.
    Nothing,
    /// This one.
    One(&'a Domain),
    /// More than one: by name.
    Several(Vec<&'a Domain>),
}

impl Index {
    /// Forgets all and takes these domains.
    pub fn replace(&mut self, domains: Vec<Domain>) {
        *self = Self::default();
        for domain in domains {
            self.put(domain);
        }
    }

    /// Takes a domain that is new or has changed. Returns whether it is new, or has other MAC
    /// addresses than before.
    pub fn put(&mut self, domain: Domain) -> bool {
        let before = self.domains.get(&domain.uuid).map(|before| &before.macs);
        let changed = before != Some(&domain.macs);
        self.remove(domain.uuid);
        for mac in &domain.macs {
            self.owners.entry(*mac).or_default().push(domain.uuid);
        }
        self.domains.insert(domain.uuid, domain);
        changed
    }

    /// Forgets a domain. Returns whether it was known.
    pub fn remove(&mut self, uuid: Uuid) -> bool {
        let Some(domain) = self.domains.remove(&uuid) else { return false };
        for mac in domain.macs {
            if let Some(owners) = self.owners.get_mut(&mac) {
                owners.retain(|owner| *owner != uuid);
                if owners.is_empty() {
                    self.owners.remove(&mac);
                }
            }
        }
        true
    }

    /// The domains with this MAC address.
    #[must_use]
    pub fn find(&self, mac: MacAddr) -> Found<'_> {
        let owners = self.owners.get(&mac).map(Vec::as_slice).unwrap_or_default();
        let mut found: Vec<&Domain> = owners.iter().filter_map(|uuid| self.domains.get(uuid)).collect();
        match found.as_slice() {
            [] => Found::Nothing,
            [domain] => Found::One(domain),
            _ => {
                found.sort_by(|one, other| one.name.cmp(&other.name));
                Found::Several(found)
            }
        }
    }

    /// All domains, in no order.
    pub fn domains(&self) -> impl ExactSizeIterator<Item = &Domain> {
        self.domains.values()
    }

    /// All MAC addresses, in no order.
    pub fn macs(&self) -> impl ExactSizeIterator<Item = MacAddr> {
        self.owners.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::State;

    fn mac(last: u8) -> MacAddr {
        MacAddr::new([0x52, 0x54, 0, 0, 0, last])
    }

    fn domain(number: u8, macs: &[u8]) -> Domain {
        Domain {
            uuid: Uuid::from_u128(number.into()),
            name: format!("domain {number}"),
            macs: macs.iter().copied().map(mac).collect(),
            state: State::ShutOff,
        }
    }

    fn index(domains: &[Domain]) -> Index {
        let mut index = Index::default();
        index.replace(domains.to_vec());
        index
    }

    fn macs(index: &Index) -> Vec<MacAddr> {
        let mut macs: Vec<_> = index.macs().collect();
        macs.sort();
        macs
    }

    #[test]
    fn finds_a_domain_by_each_of_its_addresses() {
        let index = index(&[domain(1, &[1, 2]), domain(2, &[3])]);
        assert_eq!(index.find(mac(1)), Found::One(&domain(1, &[1, 2])));
        assert_eq!(index.find(mac(2)), Found::One(&domain(1, &[1, 2])));
        assert_eq!(index.find(mac(3)), Found::One(&domain(2, &[3])));
        assert_eq!(index.find(mac(4)), Found::Nothing);
        assert_eq!(index.domains().len(), 2);
        assert_eq!(macs(&index), [mac(1), mac(2), mac(3)]);
    }

    #[test]
    fn follows_a_domain_that_changes() {
        let mut index = index(&[domain(1, &[1, 2])]);
        assert!(!index.put(domain(1, &[1, 2])), "as before");
        assert!(index.put(domain(1, &[2, 3])));
        assert_eq!(index.find(mac(1)), Found::Nothing);
        assert_eq!(index.find(mac(2)), Found::One(&domain(1, &[2, 3])));
        assert_eq!(macs(&index), [mac(2), mac(3)]);
        assert!(index.remove(Uuid::from_u128(1)));
        assert_eq!(macs(&index), []);
        assert_eq!(index.domains().len(), 0);
        assert!(!index.remove(Uuid::from_u128(1)));
        assert!(index.put(domain(1, &[])));
    }

    #[test]
    fn one_address_in_two_domains_is_told_until_one_gives_it_up() {
        let mut index = index(&[domain(2, &[1]), domain(1, &[1])]);
        assert_eq!(index.find(mac(1)), Found::Several(vec![&domain(1, &[1]), &domain(2, &[1])]));
        assert_eq!(macs(&index), [mac(1)]);
        index.put(domain(2, &[2]));
        assert_eq!(index.find(mac(1)), Found::One(&domain(1, &[1])));
        index.put(domain(2, &[1]));
        index.remove(Uuid::from_u128(1));
        assert_eq!(index.find(mac(1)), Found::One(&domain(2, &[1])));
    }

    #[test]
    fn a_new_list_replaces_the_old_one() {
        let mut index = index(&[domain(1, &[1]), domain(2, &[2])]);
        index.replace(vec![domain(2, &[3])]);
        assert_eq!(macs(&index), [mac(3)]);
        assert_eq!(index.domains().len(), 1);
    }
}
