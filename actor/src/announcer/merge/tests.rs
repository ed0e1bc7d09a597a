use std::collections::BTreeSet;

use proptest::prelude::*;
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::PacketDetails;

use super::*;
use crate::model::MAX_GAPS;

const ROOM: usize = 100;

fn packet(epoch: &str, sequence: u64) -> Packet {
    let details = PacketDetails { epoch: Some(epoch.to_owned()), ..PacketDetails::default() };
    Packet { mac: MacAddr::new([2, 0, 0, 0, 0, 1]), sequence, details }
}

fn page(epoch: &str, more: bool, sequences: &[u64]) -> Page {
    let packets = sequences.iter().map(|sequence| packet(epoch, *sequence)).collect();
    Page { epoch: epoch.to_owned(), more, packets }
}

fn merge(epoch: &str, sequence: u64) -> Merge {
    Merge::new(Position { epoch: epoch.to_owned(), sequence, runs: Vec::new() }, 0)
}

fn sequences(new: &[NewPacket]) -> Vec<u64> {
    new.iter().map(|new| new.packet.sequence).collect()
}

fn accepts_announced(merge: &mut Merge, epoch: &str, sequence: u64) -> bool {
    merge.add_announced(packet(epoch, sequence), true).is_some()
}

#[test]
fn accepts_announced_packets_at_once_and_missed_ones_from_a_replay() {
    let mut merge = merge("a", 3);
    assert_eq!(merge.start_replay(), ("a", 3));
    assert!(accepts_announced(&mut merge, "a", 6));
    assert!(accepts_announced(&mut merge, "a", 7));
    assert!(merge.has_gaps());
    assert_eq!(sequences(&merge.add_page(page("a", false, &[4, 5, 6]), ROOM)), [4, 5]);
    assert!(!merge.has_gaps());
    assert!(!accepts_announced(&mut merge, "a", 7), "not twice");
    assert!(accepts_announced(&mut merge, "a", 8));
    assert_eq!(merge.take_lost(), 0);
}

#[test]
fn accepts_a_replay_in_pages() {
    let mut merge = merge("a", 0);
    merge.start_replay();
    assert!(accepts_announced(&mut merge, "a", 9));
    assert_eq!(sequences(&merge.add_page(page("a", true, &[2, 3]), ROOM)), [2, 3]);
    assert_eq!(merge.take_lost(), 1, "the announcer no longer stores 1");
    assert_eq!(merge.start_replay(), ("a", 3));
    assert_eq!(sequences(&merge.add_page(page("a", true, &[5, 8]), ROOM)), [5, 8]);
    assert_eq!(merge.start_replay(), ("a", 9));
    assert_eq!(merge.add_page(page("a", false, &[]), ROOM), []);
    assert_eq!((merge.has_gaps(), merge.take_lost()), (false, 3));
}

#[test]
fn defers_packets_to_a_replay_if_the_queue_is_full() {
    let mut merge = merge("a", 3);
    assert_eq!(merge.add_announced(packet("a", 4), false), None);
    assert!(merge.has_gaps());
    assert!(accepts_announced(&mut merge, "a", 5));
    assert_eq!(merge.start_replay(), ("a", 3));
    // There is no room for another packet before the reply arrives.
    assert_eq!(merge.add_announced(packet("a", 6), false), None);
    assert!(accepts_announced(&mut merge, "a", 7));
    assert_eq!(sequences(&merge.add_page(page("a", false, &[4, 5]), ROOM)), [4]);
    assert!(merge.has_gaps(), "6 is missing");
    assert_eq!(merge.start_replay(), ("a", 5));
    // A page with more packets than there is room for.
    assert_eq!(sequences(&merge.add_page(page("a", false, &[6, 7, 8, 9]), 2)), [6, 8]);
    assert_eq!(merge.start_replay(), ("a", 8));
    assert_eq!(sequences(&merge.add_page(page("a", false, &[9]), 2)), [9]);
    assert_eq!((merge.has_gaps(), merge.take_lost()), (false, 0));
}

#[test]
fn starts_over_in_a_new_epoch() {
    let mut merge = merge("a", 30);
    merge.start_replay();
    assert_eq!(sequences(&merge.add_page(page("b", false, &[1, 2]), ROOM)), [1, 2]);
    assert!(accepts_announced(&mut merge, "b", 3));
    assert!(accepts_announced(&mut merge, "c", 2));
    assert!(merge.has_gaps(), "1 is missing");
}

#[test]
fn skips_gaps_that_cannot_be_replayed() {
    let mut merge = merge("a", 3);
    merge.start_replay();
    assert!(accepts_announced(&mut merge, "a", 7));
    merge.skip_gaps();
    assert_eq!((merge.has_gaps(), merge.take_lost()), (false, 3));
    assert!(accepts_announced(&mut merge, "a", 8));
}

#[test]
fn bounds_the_gaps() {
    let mut merge = merge("a", 0);
    // Every other packet is missing.
    for sequence in 1..10_000 {
        assert!(accepts_announced(&mut merge, "a", 2 * sequence));
    }
    assert_eq!(merge.position.runs.len(), MAX_GAPS);
    assert_eq!(merge.take_lost(), 9_999 - u64::try_from(MAX_GAPS).unwrap());
    assert!(!accepts_announced(&mut merge, "a", 9_998), "it counts as known");
}

#[test]
fn ignores_invalid_runs() {
    let at = |runs: &[(u64, u64)]| {
        let position = Position { epoch: "a".to_owned(), sequence: 4, runs: runs.to_vec() };
        Merge::new(position, 0).position.runs
    };
    assert_eq!(at(&[(6, 7), (9, u64::MAX)]), [(6, 7), (9, u64::MAX)]);
    let many: Vec<_> = (0..100).map(|number| (6 + 2 * number, 6 + 2 * number)).collect();
    for bad in [&[(0, u64::MAX)][..], &[(5, 5)], &[(7, 6)], &[(6, 7), (8, 9)], &[(9, 9), (6, 7)], &many] {
        assert_eq!(at(bad), [], "{bad:?}");
    }
}

#[test]
fn ignores_older_packets_without_a_saved_position() {
    let captured = |sequence, boottime| {
        let mut packet = packet("a", sequence);
        packet.details.boottime = Some(boottime);
        packet
    };
    let mut merge = Merge::new(Position::default(), 100);
    merge.start_replay();
    let packets = vec![captured(1, 98), captured(2, 99), captured(3, 100)];
    let page = Page { epoch: "a".to_owned(), packets, ..Page::default() };
    assert_eq!(sequences(&merge.add_page(page, ROOM)), [3]);
    assert!(merge.add_announced(captured(4, 101), true).is_some());
}

proptest! {
    /// Some announced packets are not received, and for some there is no room. Replays arrive page by page, while
    /// further packets are announced. In the end, each packet has been accepted once.
    #[test]
    fn accepts_each_packet_once(
        after in 0_u64..20,
        packets in proptest::collection::vec((any::<bool>(), any::<bool>()), 0..60),
        page_length in 1_usize..5,
        late in 0_usize..60,
    ) {
        let mut merge = merge("a", after);
        let mut accepted = Vec::new();
        let mut announce = |merge: &mut Merge, number: usize, (is_received, has_room): (bool, bool)| {
            let sequence = after + 1 + u64::try_from(number).unwrap();
            if is_received {
                accepted.extend(merge.add_announced(packet("a", sequence), has_room).map(|new| new.packet.sequence));
            }
        };
        let mut announced = packets.iter().copied().enumerate();
        for (number, packet) in announced.by_ref().take(late) {
            announce(&mut merge, number, packet);
        }
        let mut count = late.min(packets.len());
        let mut replayed = Vec::new();
        loop {
            let (_, from) = merge.start_replay();
            // Another packet is announced after the reply was sent, and before it arrives.
            let remembered: Vec<u64> = (from + 1..=after + u64::try_from(count).unwrap()).collect();
            let (first, rest) = remembered.split_at(page_length.min(remembered.len()));
            if let Some((number, packet)) = announced.next() {
                announce(&mut merge, number, packet);
                count += 1;
            }
            replayed.extend(sequences(&merge.add_page(page("a", !rest.is_empty(), first), ROOM)));
            if rest.is_empty() && !merge.has_gaps() && announced.len() == 0 {
                break;
            }
        }
        prop_assert_eq!(merge.take_lost(), 0);
        accepted.extend(replayed);
        let all: BTreeSet<u64> = accepted.iter().copied().collect();
        prop_assert_eq!(all.len(), accepted.len(), "no packet is accepted twice");
        // If the last packets were not received, nothing shows that they exist.
        let end = all.last().copied().unwrap_or(after);
        prop_assert_eq!(all, (after + 1..=end).collect::<BTreeSet<u64>>());
    }
}
