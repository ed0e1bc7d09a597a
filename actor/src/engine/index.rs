//! The index of domains by MAC address. It is in memory: a packet takes one lookup, no matter how many domains there
//! are.

use core::ops::Bound;
use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;
use wakevirt_protocol::MacAddr;

use crate::model::{Domain, Id, MacSet, State};
use crate::policy::alias::Alias;
use crate::policy::decision::Found;

/// The known domains, by ID and by MAC address.
#[derive(Debug, Default)]
pub struct Index {
    entries: BTreeMap<Id, IndexedDomain>,
    /// The domains with each MAC address. Nearly all addresses have one, so a set for each would mostly be empty space.
    owners: BTreeSet<(MacAddr, Id)>,
    aliases: Vec<Alias>,
}

/// A known domain.
#[derive(Debug, PartialEq, Eq)]
pub struct IndexedDomain {
    /// The domain.
    pub domain: Domain,
    /// Its MAC addresses, including aliases.
    pub macs: MacSet,
    /// Whether the domain has changed since it was read.
    changed: bool,
}

impl Index {
    /// An index without domains.
    #[must_use]
    pub fn new(aliases: Vec<Alias>) -> Self {
        Self { aliases, ..Self::default() }
    }

    /// Replaces all domains of this connection.
    pub fn replace(&mut self, connection: &str, domains: Vec<Domain>) {
        self.entries.retain(|id, _| &*id.connection != connection);
        self.owners.retain(|(_, id)| &*id.connection != connection);
        if domains.iter().filter(|domain| self.note_name(domain)).count() > 0 {
            self.assign_aliases();
        }
        // Maps that are built at once have full nodes; inserting one domain after the other leaves a third of them empty.
        let domains = domains.into_iter().map(|domain| (domain.id.clone(), self.entry(domain)));
        let mut entries: BTreeMap<_, _> = domains.collect();
        let owners = entries.iter().flat_map(|(id, entry)| entry.macs.iter().map(|mac| (*mac, id.clone())));
        self.owners.append(&mut owners.collect());
        self.entries.append(&mut entries);
    }

    /// Replaces the aliases.
    pub fn set_aliases(&mut self, aliases: Vec<Alias>) {
        self.aliases = aliases;
        for entry in self.entries.values() {
            note_name(&mut self.aliases, &entry.domain);
        }
        self.assign_aliases();
    }

    fn assign_aliases(&mut self) {
        self.owners.clear();
        for (id, entry) in std::mem::take(&mut self.entries) {
            self.insert(entry.domain);
            if entry.changed {
                self.mark_changed(&id);
            }
        }
    }

    /// Compares the aliases with a domain's name: see `DomainPattern`. Returns whether an alias matches fewer names than
    /// before.
    fn note_name(&mut self, domain: &Domain) -> bool {
        note_name(&mut self.aliases, domain)
    }

    /// Adds or replaces a domain. Returns whether MAC addresses have changed: the domain is new, has different
    /// addresses than before, or takes over the address of an alias.
    pub fn put(&mut self, domain: Domain) -> bool {
        let narrowed = self.note_name(&domain);
        if narrowed {
            self.assign_aliases();
        }
        self.insert(domain) || narrowed
    }

    fn insert(&mut self, domain: Domain) -> bool {
        let entry = self.entry(domain);
        let id = &entry.domain.id;
        let changed = self.entries.get(id).map(|before| &before.macs) != Some(&entry.macs);
        if changed {
            self.remove(&entry.domain.id);
            self.owners.extend(entry.macs.iter().map(|mac| (*mac, id.clone())));
        }
        self.entries.insert(id.clone(), entry);
        changed
    }

    /// The domain with its addresses, including those of aliases.
    fn entry(&self, domain: Domain) -> IndexedDomain {
        let mut aliases = self.aliases.iter().filter(|alias| domain.matches(&alias.domain)).peekable();
        let macs = match aliases.peek() {
            Some(_) => domain.macs.iter().copied().chain(aliases.map(|it| it.mac)).collect(),
            None => domain.macs.clone(),
        };
        IndexedDomain { domain, macs, changed: false }
    }

    /// Removes a domain. Returns whether it was known.
    pub fn remove(&mut self, id: &Id) -> bool {
        let Some(entry) = self.entries.remove(id) else { return false };
        for mac in entry.macs.iter() {
            self.owners.remove(&(*mac, id.clone()));
        }
        true
    }

    /// The domains with this MAC address.
    #[must_use]
    pub fn find(&self, mac: MacAddr) -> Found<'_> {
        let owners = self.owners.range((mac, Id::default())..).take_while(|(it, _)| *it == mac);
        found(owners.filter_map(|(_, id)| self.get(id)).collect())
    }

    /// The domains with this UUID; if there are none, those with this name.
    #[must_use]
    pub fn find_domain(&self, name_or_uuid: &str) -> Found<'_> {
        let uuid = Uuid::parse_str(name_or_uuid).ok();
        let by_uuid: Vec<&Domain> = self.domains().filter(|it| Some(it.id.uuid) == uuid).collect();
        if by_uuid.is_empty() {
            return found(self.domains().filter(|it| it.name == name_or_uuid).collect());
        }
        found(by_uuid)
    }

    /// The domain with this ID.
    #[must_use]
    pub fn get(&self, id: &Id) -> Option<&Domain> {
        self.entries.get(id).map(|entry| &entry.domain)
    }

    /// Marks the domain as changed since it was read.
    pub fn mark_changed(&mut self, id: &Id) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.changed = true;
        }
    }

    /// The state of the domain, unless the domain has changed since it was read.
    #[must_use]
    pub fn state(&self, id: &Id) -> Option<State> {
        self.entries.get(id).filter(|entry| !entry.changed).map(|entry| entry.domain.state)
    }

    /// The domains after this one, with their addresses, ordered by ID.
    pub fn after(&self, id: Option<&Id>) -> impl Iterator<Item = &IndexedDomain> {
        let begin = id.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range((begin, Bound::Unbounded)).map(|(_, entry)| entry)
    }

    /// All domains, ordered by ID.
    pub fn domains(&self) -> impl ExactSizeIterator<Item = &Domain> {
        self.entries.values().map(|entry| &entry.domain)
    }

    /// All MAC addresses.
    #[must_use]
    pub fn macs(&self) -> BTreeSet<MacAddr> {
        self.owners.iter().map(|(mac, _)| *mac).collect()
    }
}

fn note_name(aliases: &mut [Alias], domain: &Domain) -> bool {
    // Not `any`, which would stop at the first match.
    aliases.iter_mut().filter_map(|alias| alias.domain.note_name(&domain.name).then_some(())).count() > 0
}

fn found(mut domains: Vec<&Domain>) -> Found<'_> {
    match domains.as_slice() {
        [] => Found::Nothing,
        [domain] => Found::One(domain),
        _ => {
            domains.sort_by(|one, other| one.name.cmp(&other.name));
            Found::Several(domains)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Stop;

    fn mac(last: u8) -> MacAddr {
        MacAddr::new([0x52, 0x54, 0, 0, 0, last])
    }

    fn id(number: u8) -> Id {
        Id { connection: "test:///".into(), uuid: Uuid::from_u128(number.into()) }
    }

    fn domain(number: u8, macs: &[u8]) -> Domain {
        Domain {
            id: id(number),
            name: format!("domain {number}"),
            macs: macs.iter().copied().map(mac).collect(),
            opt_in: false,
            labels: crate::model::Labels::default(),
            state: State::ShutOff,
            stop: Stop::Unknown,
        }
    }

    fn index(domains: &[Domain]) -> Index {
        let mut index = Index::default();
        index.replace("test:///", domains.to_vec());
        index
    }

    fn macs(index: &Index) -> Vec<MacAddr> {
        index.macs().into_iter().collect()
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
    fn updates_addresses_when_a_domain_changes() {
        let mut index = index(&[domain(1, &[1, 2])]);
        assert!(!index.put(domain(1, &[1, 2])), "unchanged");
        assert!(index.put(domain(1, &[2, 3])));
        assert_eq!(index.find(mac(1)), Found::Nothing);
        assert_eq!(index.find(mac(2)), Found::One(&domain(1, &[2, 3])));
        assert_eq!(macs(&index), [mac(2), mac(3)]);
        assert!(index.remove(&id(1)));
        assert_eq!(macs(&index), []);
        assert_eq!(index.domains().len(), 0);
        assert!(!index.remove(&id(1)));
        assert!(index.put(domain(1, &[])));
    }

    #[test]
    fn finds_all_domains_with_one_address() {
        let mut index = index(&[domain(2, &[1]), domain(1, &[1])]);
        assert_eq!(index.find(mac(1)), Found::Several(vec![&domain(1, &[1]), &domain(2, &[1])]));
        assert_eq!(macs(&index), [mac(1)]);
        index.put(domain(2, &[2]));
        assert_eq!(index.find(mac(1)), Found::One(&domain(1, &[1])));
        index.put(domain(2, &[1]));
        index.remove(&id(1));
        assert_eq!(index.find(mac(1)), Found::One(&domain(2, &[1])));
    }

    #[test]
    fn returns_the_state_until_the_domain_is_marked_as_changed() {
        let mut index = index(&[domain(1, &[1])]);
        assert_eq!(index.state(&id(1)), Some(State::ShutOff));
        assert_eq!(index.state(&id(2)), None);
        index.mark_changed(&id(1));
        assert_eq!(index.state(&id(1)), None);
        index.set_aliases(Vec::new());
        assert_eq!(index.state(&id(1)), None);
        index.put(Domain { state: State::Running, ..domain(1, &[1]) });
        assert_eq!(index.state(&id(1)), Some(State::Running));
    }

    #[test]
    fn a_new_list_replaces_the_old_one() {
        let mut index = index(&[domain(1, &[1]), domain(2, &[2])]);
        index.replace("test:///", vec![domain(2, &[3])]);
        assert_eq!(macs(&index), [mac(3)]);
        assert_eq!(index.domains().len(), 1);
    }

    #[test]
    fn connections_are_independent() {
        let mut index = index(&[domain(1, &[1])]);
        let mut other = domain(1, &[2]);
        other.id.connection = "lxc:///".into();
        index.put(other.clone());
        assert_eq!(index.find(mac(2)), Found::One(&other));
        assert!(matches!(index.find_domain("domain 1"), Found::Several(_)));
        index.replace("lxc:///", Vec::new());
        assert_eq!(macs(&index), [mac(1)]);
    }

    #[test]
    fn finds_a_domain_by_name_or_uuid() {
        let index = index(&[domain(1, &[1])]);
        for text in ["domain 1", "00000000-0000-0000-0000-000000000001"] {
            assert_eq!(index.find_domain(text), Found::One(&domain(1, &[1])), "{text}");
        }
        assert_eq!(index.find_domain("domain"), Found::Nothing);
    }

    #[test]
    fn an_alias_with_brackets_matches_a_domain_of_exactly_that_name() {
        let alias: Alias = toml::from_str("mac = \"d8:5e:d3:00:00:01\"\ndomain = \"vm[1]\"").unwrap();
        let named = |number, name: &str| Domain { name: name.to_owned(), ..domain(number, &[number]) };
        let (vm1, literal) = (named(1, "vm1"), named(2, "vm[1]"));
        let mut index = index(std::slice::from_ref(&vm1));
        index.set_aliases(vec![alias.clone()]);
        index.mark_changed(&id(1));
        assert_eq!(index.find(alias.mac), Found::One(&vm1), "it is a glob while no domain has this name");
        assert!(index.put(literal.clone()));
        assert_eq!(index.find(alias.mac), Found::One(&literal));
        assert_eq!(index.state(&id(1)), None, "the domain is still marked as changed");
        index.remove(&id(2));
        assert_eq!(index.find(alias.mac), Found::Nothing, "the alias does not become a glob again");
        index.set_aliases(vec![alias.clone()]);
        assert_eq!(index.find(alias.mac), Found::One(&vm1), "after a reload it is a glob again");
        for domains in [vec![vm1.clone(), literal.clone()], vec![literal.clone(), vm1.clone()]] {
            index.set_aliases(vec![alias.clone()]);
            index.replace("test:///", domains);
            assert_eq!(index.find(alias.mac), Found::One(&literal));
        }
    }

    #[test]
    fn an_alias_is_an_address_of_the_domain() {
        let alias: Alias = toml::from_str("mac = \"d8:5e:d3:00:00:01\"\ndomain = \"domain 1\"").unwrap();
        let mut index = index(&[domain(1, &[1]), domain(2, &[2])]);
        index.set_aliases(vec![alias.clone()]);
        assert_eq!(index.find(alias.mac), Found::One(&domain(1, &[1])));
        assert!(!index.put(domain(1, &[1])), "unchanged");
        assert_eq!(index.macs().len(), 3);
        index.set_aliases(Vec::new());
        assert_eq!(macs(&index), [mac(1), mac(2)]);
    }
}
