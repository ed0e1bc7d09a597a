//! Merging what is announced with what is replayed: each packet once, in the order of its sequence.

use serde::{Deserialize, Serialize};

use crate::listen::Packet;

/// How far the packets are known: all of this epoch up to this sequence.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The run of the announcer that numbered them; empty before the first packet.
    pub epoch: String,
    /// The number of the last one.
    pub sequence: u64,
}

impl Position {
    /// Where this packet is.
    #[must_use]
    pub fn of(packet: &Packet) -> Self {
        Self { epoch: epoch(packet).to_owned(), sequence: packet.sequence }
    }

    fn is_past(&self, packet: &Packet) -> bool {
        epoch(packet) == self.epoch && packet.sequence <= self.sequence
    }
}

fn epoch(packet: &Packet) -> &str {
    packet.details.epoch.as_deref().unwrap_or_default()
}

/// What is known of the packets, from one connection to the next.
#[derive(Debug, Default)]
pub struct Merge {
    position: Position,
    /// Packets from before this are past: CLOCK_BOOTTIME, in microseconds.
    not_before: u64,
    /// Packets that were announced since a replay was asked for; `None` if none was.
    announced: Option<Vec<Packet>>,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Take this packet.
    Take(Packet),
    /// Ask for a replay.
    Replay,
    /// Nothing yet, or at all.
    Nothing,
}

impl Merge {
    /// Goes on from there.
    #[must_use]
    pub const fn new(position: Position) -> Self {
        Self { position, not_before: 0, announced: None }
    }

    /// Begins now (CLOCK_BOOTTIME, in microseconds): nobody knows what was done about earlier packets,
    /// and to do it twice is worse than to leave it.
    #[must_use]
    pub fn from_now_on(now: u64) -> Self {
        Self { not_before: now, ..Self::default() }
    }

    /// After what a replay is to be asked for: it is asked for now.
    pub fn ask(&mut self) -> &Position {
        self.announced.get_or_insert_default();
        &self.position
    }

    /// A packet was announced.
    pub fn announced(&mut self, packet: Packet) -> Step {
        if let Some(announced) = &mut self.announced {
            announced.push(packet);
            return Step::Nothing;
        }
        let here = &self.position;
        if here.epoch == epoch(&packet) && packet.sequence > here.sequence.saturating_add(1) {
            // One before it was not announced in time.
            self.announced = Some(vec![packet]);
            return Step::Replay;
        }
        self.take(packet).map_or(Step::Nothing, Step::Take)
    }

    /// These packets are all that is remembered after the position; none if nobody could tell. What was
    /// announced meanwhile is among them, or comes after them.
    pub fn replayed(&mut self, mut packets: Vec<Packet>) -> Vec<Packet> {
        packets.append(&mut self.announced.take().unwrap_or_default());
        packets.sort_by_key(|packet| packet.sequence);
        packets.into_iter().filter_map(|packet| self.take(packet)).collect()
    }

    fn take(&mut self, packet: Packet) -> Option<Packet> {
        if self.position.is_past(&packet) {
            return None;
        }
        self.position = Position::of(&packet);
        let seen = packet.details.boottime.unwrap_or(u64::MAX);
        (seen >= self.not_before).then_some(packet)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wakevirt_protocol::MacAddr;
    use wakevirt_protocol::bus::PacketDetails;

    use super::*;

    fn packet(epoch: &str, sequence: u64) -> Packet {
        let details = PacketDetails { epoch: Some(epoch.to_owned()), ..PacketDetails::default() };
        Packet { mac: MacAddr::new([2, 0, 0, 0, 0, 1]), sequence, details }
    }

    fn packets(epoch: &str, sequences: &[u64]) -> Vec<Packet> {
        sequences.iter().map(|sequence| packet(epoch, *sequence)).collect()
    }

    fn merge(epoch: &str, sequence: u64) -> Merge {
        Merge::new(Position { epoch: epoch.to_owned(), sequence })
    }

    #[test]
    fn takes_what_was_missed_and_nothing_twice() {
        let mut merge = merge("a", 3);
        assert_eq!(merge.ask().sequence, 3);
        assert_eq!(merge.announced(packet("a", 6)), Step::Nothing);
        assert_eq!(merge.announced(packet("a", 7)), Step::Nothing);
        assert_eq!(merge.replayed(packets("a", &[4, 5, 6])), packets("a", &[4, 5, 6, 7]));
        assert_eq!(merge.announced(packet("a", 7)), Step::Nothing);
        assert_eq!(merge.announced(packet("a", 8)), Step::Take(packet("a", 8)));
    }

    #[test]
    fn another_epoch_begins_anew() {
        let mut merge = merge("a", 30);
        merge.ask();
        assert_eq!(merge.replayed(packets("b", &[1, 2])), packets("b", &[1, 2]));
        assert_eq!(merge.announced(packet("b", 3)), Step::Take(packet("b", 3)));
    }

    #[test]
    fn asks_for_what_was_not_announced() {
        let mut merge = merge("a", 3);
        assert_eq!(merge.announced(packet("a", 5)), Step::Replay);
        assert_eq!(merge.replayed(packets("a", &[4, 5])), packets("a", &[4, 5]));
        assert_eq!(merge.announced(packet("a", 7)), Step::Replay);
        // Nobody tells: what was announced counts nevertheless.
        assert_eq!(merge.replayed(Vec::new()), packets("a", &[7]));
        assert_eq!(merge.announced(packet("a", 8)), Step::Take(packet("a", 8)));
    }

    proptest! {
        /// However packets are announced before, during and after a replay: each is taken once, in order.
        #[test]
        fn each_packet_once(after in 0_u64..20, asked in 0_u64..20, replied in 0_u64..20, end in 0_u64..20) {
            let mut bounds = [after, asked, replied, end];
            bounds.sort_unstable();
            let [after, asked, replied, end] = bounds;
            let mut merge = merge("a", after);
            let mut taken = Vec::new();
            merge.ask();
            for sequence in asked..replied {
                prop_assert_eq!(merge.announced(packet("a", sequence + 1)), Step::Nothing);
            }
            let remembered: Vec<u64> = (after + 1..=replied).collect();
            taken.extend(merge.replayed(packets("a", &remembered)));
            for sequence in asked..end {
                if let Step::Take(packet) = merge.announced(packet("a", sequence + 1)) {
                    taken.push(packet);
                }
            }
            let all: Vec<u64> = (after + 1..=end).collect();
            prop_assert_eq!(taken, packets("a", &all));
        }
    }

    #[test]
    fn begins_now_where_nobody_knows_what_was_done_before() {
        let seen = |sequence, boottime| {
            let mut packet = packet("a", sequence);
            packet.details.boottime = Some(boottime);
            packet
        };
        let mut merge = Merge::from_now_on(100);
        merge.ask();
        let taken = merge.replayed(vec![seen(1, 98), seen(2, 99), seen(3, 100)]);
        assert_eq!(taken, [seen(3, 100)]);
        assert_eq!(merge.announced(seen(4, 101)), Step::Take(seen(4, 101)));
    }
}
