//! Determines what the sniffer captures and drops.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::time::Instant;

use wakevirt_protocol::sniffer::{Change, MAX_EXCLUDED, Mode, Source, Start};
use wakevirt_service::logs::{kind, quoted};

use crate::config::interfaces::InterfaceList;
use crate::error::Error;
use crate::network::links::{Interface, Links};
use crate::network::removed::Removed;
use crate::packets::difference::Difference;
use crate::shared::Shared;
use crate::sniffer::child::Channel;

/// The index of the loopback interface: `LOOPBACK_IFINDEX` in the kernel's include/net/flow.h.
const LOOPBACK: NonZeroU32 = NonZeroU32::MIN;

/// What the sniffer was sent, and what it must be sent.
#[derive(Debug)]
pub struct Control {
    /// The source of each socket for incoming frames; `None` if it is not bound to an existing interface.
    incoming: Vec<Option<Source>>,
    /// The interface to which each socket for outgoing frames is bound.
    outgoing: HashMap<u8, u32>,
    /// What the sniffer does not know yet of the excluded interfaces.
    excluded: Difference<u32>,
    /// A limit that the sniffer does not know yet.
    limit: Option<u32>,
    /// The change that the sniffer has not acknowledged yet, and whether it was sent.
    change: Option<(Change, bool)>,
}

impl Control {
    /// The state of a sniffer that has just started in this mode.
    #[must_use]
    pub fn new(start: &Start, mode: Mode) -> Self {
        let incoming = match mode {
            Mode::Udp => Vec::new(),
            Mode::Raw if start.bound == 0 => vec![Some(Source::All)],
            Mode::Raw => vec![None; start.bound.into()],
        };
        Self {
            incoming,
            outgoing: HashMap::new(),
            excluded: Difference::default(),
            limit: None,
            change: None,
        }
    }

    /// Makes the sniffer capture incoming frames on the interfaces in the list.
    ///
    /// If the list includes no more interfaces than there are sockets, and each by its name, each socket is bound to
    /// one of them. Otherwise, one socket captures on all interfaces, and the sniffer drops the frames of others.
    ///
    /// The kernel has unbound the sockets on the `removed` interfaces, so they are bound again to those that have
    /// returned.
    ///
    /// # Errors
    /// [`Error::Channel`].
    pub fn capture_incoming(
        &mut self,
        channel: &Channel,
        list: &InterfaceList,
        links: &Links,
        removed: &Removed,
    ) -> Result<(), Error> {
        let mut wanted = sources(list, links, self.incoming.len()).into_iter();
        for (slot, current) in (0_u8..).zip(&mut self.incoming) {
            let source = match (wanted.next().flatten(), *current) {
                (Some(source), _) => Some(source),
                // The kernel has unbound the socket. The interface can reappear with the same index, from another network
                // namespace.
                (None, Some(Source::Interface(gone))) if !links.contains_key(&gone.get()) => None,
                // A bound socket cannot be unbound.
                (None, Some(_)) => Some(Source::None(LOOPBACK)),
                (None, None) => None,
            };
            let unbound = matches!(source, Some(Source::Interface(index)) if removed.contains(index.get()));
            if unbound || source != *current {
                if let Some(source) = source {
                    channel.capture_incoming(slot, source)?;
                }
                *current = source;
            }
        }
        Ok(())
    }

    /// Makes the sniffer capture outgoing frames on the interfaces with these names, as soon as they exist, and again
    /// after they were removed and have returned.
    ///
    /// # Errors
    /// [`Error::Channel`].
    pub fn capture_outgoing(
        &mut self,
        channel: &Channel,
        names: &[String],
        links: &Links,
        removed: &Removed,
    ) -> Result<(), Error> {
        for (slot, wanted) in (0_u8..).zip(names) {
            let Some(index) = index_of(wanted, links) else {
                // The interface can reappear with the same index, from another network namespace.
                self.outgoing.remove(&slot);
                continue;
            };
            let bound = self.outgoing.insert(slot, index) == Some(index);
            if !bound || removed.contains(index) {
                channel.capture_outgoing(slot, index)?;
            }
            if !bound {
                tracing::info!(
                    MESSAGE_ID = kind::OUTGOING_CAPTURED,
                    WAKEVIRT_INTERFACE = wanted,
                    "also capturing outgoing packets on {}",
                    quoted(wanted)
                );
            }
        }
        Ok(())
    }

    /// Makes the sniffer drop the packets of interfaces that the list does not include.
    pub fn exclude(&mut self, list: &InterfaceList, links: &Links) {
        let excluded = links.iter().filter(|(_, interface)| !list.includes(interface));
        // The announcer drops the packets of further interfaces.
        self.excluded.replace(&excluded.map(|(index, _)| *index).take(MAX_EXCLUDED).collect::<BTreeSet<_>>());
    }

    /// Makes the sniffer use this limit for addresses that are not of interest, in packets per second and interface.
    pub const fn limit(&mut self, limit: u32) {
        self.limit = Some(limit);
    }

    /// Sends the next change, unless the sniffer has not acknowledged the previous one. If the socketpair is full, the
    /// change is sent at the next call.
    ///
    /// # Errors
    /// [`Error::Channel`].
    pub fn send_change(&mut self, channel: &Channel, shared: &Shared) -> Result<(), Error> {
        if self.change.is_none() {
            let interest = || shared.ledger().next_change(Instant::now());
            self.change = self.next_change(interest).map(|change| (change, false));
        }
        if let Some((change, sent @ false)) = &mut self.change {
            *sent = channel.change(change)?;
        }
        Ok(())
    }

    /// Exclusions first: until then, the sniffer drops the packets of interfaces that are now selected.
    fn next_change(&mut self, interest: impl FnOnce() -> Option<Change>) -> Option<Change> {
        let excluded = self.excluded.next_batch();
        let excluded = excluded.map(|(added, interfaces)| Change::Excluded { added, interfaces });
        excluded.or_else(|| self.limit.take().map(Change::Limit)).or_else(interest)
    }

    /// Records that the sniffer has made the last change.
    ///
    /// # Errors
    /// [`Error::UnexpectedMessage`] if there is none.
    pub fn applied(&mut self) -> Result<(), Error> {
        match self.change.take() {
            Some((_, true)) => Ok(()),
            _ => Err(Error::UnexpectedMessage("an acknowledgement without a change")),
        }
    }
}

/// The sources of at most `sockets` sockets for incoming frames.
fn sources(list: &InterfaceList, links: &Links, sockets: usize) -> Vec<Option<Source>> {
    let Some(names) = list.few_names().filter(|names| names.len() <= sockets) else {
        return vec![Some(Source::All)];
    };
    let mut used = BTreeSet::new();
    let source = |name: &&str| {
        let index = index_of(name, links)?;
        let included = links.get(&index).is_some_and(|interface| list.includes(interface));
        // Two names can belong to the same interface.
        let first = included && used.insert(index);
        NonZeroU32::new(index).filter(|_| first).map(Source::Interface)
    };
    names.iter().map(source).collect()
}

/// The index of the interface with this name, which can be an alternative name.
#[must_use]
pub fn index_of(name: &str, links: &Links) -> Option<u32> {
    let has_name = |interface: &Interface| interface.names().any(|other| other == name);
    links.iter().find(|(_, interface)| has_name(interface)).map(|(index, _)| *index)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustix::net::{RecvFlags, recv};
    use wakevirt_protocol::sniffer::{MAX_MESSAGE, Request, ToSniffer};

    use super::*;

    fn links(all: &[(u32, &[&str])]) -> Links {
        let interface = |names: &[&str]| {
            let mut names = names.iter().map(|name| (*name).to_owned());
            Arc::new(Interface { name: names.next().unwrap(), alternatives: names.collect() })
        };
        all.iter().map(|(index, names)| (*index, interface(names))).collect()
    }

    fn list(texts: &[&str]) -> InterfaceList {
        InterfaceList::new(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn interface(index: u32) -> Option<Source> {
        NonZeroU32::new(index).map(Source::Interface)
    }

    /// The state with two sockets for incoming frames, and one for outgoing frames.
    fn control() -> Control {
        let start = Start {
            request: Request::Raw,
            ports: Vec::new(),
            bound: 2,
            outgoing: 1,
            limit: 0,
            require_landlock: false,
        };
        Control::new(&start, Mode::Raw)
    }

    #[test]
    fn sends_exclusions_before_the_limit_and_the_interest() {
        let mut control = control();
        control.limit(5);
        control.exclude(&list(&["eth0"]), &links(&[(1, &["lo"]), (2, &["eth0"])]));
        let interest = || Some(Change::Limit(0));
        let first = control.next_change(interest);
        assert!(matches!(first, Some(Change::Excluded { added: true, interfaces: [1, ..] })), "{first:?}");
        assert_eq!(control.next_change(interest), Some(Change::Limit(5)));
        assert_eq!(control.next_change(interest), interest());
    }

    #[tokio::test]
    async fn binds_a_socket_again_only_if_its_interface_was_removed() {
        let (channel, sniffer) = Channel::pair();
        let sent = || {
            let mut buffer = [0; MAX_MESSAGE];
            let (length, _) = recv(&sniffer, &mut buffer, RecvFlags::DONTWAIT).ok()?;
            Some(ToSniffer::decode(&buffer[..length]).unwrap())
        };
        let mut control = control();
        let links = links(&[(1, &["lo"]), (2, &["eth0"]), (3, &["br0"])]);
        let mut update = |removed: &[u32]| {
            let mut all = Removed::default();
            removed.iter().for_each(|index| all.add(*index));
            control.capture_incoming(&channel, &list(&["eth0", "br0"]), &links, &all).unwrap();
            control.capture_outgoing(&channel, &["br0".to_owned()], &links, &all).unwrap();
            std::iter::from_fn(sent).collect::<Vec<_>>()
        };
        let incoming = |slot, index| ToSniffer::Incoming { slot, source: interface(index).unwrap() };
        let outgoing = ToSniffer::Outgoing { slot: 0, interface: 3 };
        assert_eq!(update(&[]), [incoming(0, 2), incoming(1, 3), outgoing.clone()]);
        assert_eq!(update(&[]), []);
        assert_eq!(update(&[7]), []);
        assert_eq!(update(&[2]), [incoming(0, 2)]);
        assert_eq!(update(&[3, 7]), [incoming(1, 3), outgoing]);
        assert_eq!(update(&[]), []);
    }

    #[test]
    fn binds_a_socket_to_each_interface_that_is_included_by_name() {
        let links = links(&[(1, &["lo"]), (2, &["eth0", "lan"]), (3, &["br0"]), (4, &["br1"])]);
        let all = vec![Some(Source::All)];
        assert_eq!(sources(&list(&["eth0", "br0"]), &links, 2), [interface(2), interface(3)]);
        assert_eq!(
            sources(&list(&["br1", "missing", "lan", "eth0"]), &links, 4),
            [interface(4), None, interface(2), None]
        );
        assert_eq!(sources(&list(&["eth0", "br0", "!br0"]), &links, 2), [interface(2), None]);
        assert_eq!(sources(&list(&["eth0", "br0"]), &links, 1), all);
        for texts in [&["br*"][..], &["eth0", "br*"], &["!br0"], &[]] {
            assert_eq!(sources(&list(texts), &links, 8), all, "{texts:?}");
        }
    }
}
