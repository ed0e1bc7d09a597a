use std::collections::BTreeSet;

use proptest::prelude::*;
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::PacketDetails;

use super::*;
use crate::model::GAPS;

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
    Merge::new(Position { epoch: epoch.to_owned(), sequence, ahead: Vec::new() })
}

fn sequences(taken: &[NewPacket]) -> Vec<u64> {
    taken.iter().map(|taken| taken.packet.sequence).collect()
}

fn announced(merge: &mut Merge, epoch: &str, sequence: u64) -> bool {
    merge.announced(packet(epoch, sequence), true).is_some()
}

#[test]
fn takes_what_is_announced_at_once_and_what_was_missed_behind_it() {
    let mut merge = merge("a", 3);
    assert_eq!(merge.ask(), ("a", 3));
    assert!(announced(&mut merge, "a", 6));
    assert!(announced(&mut merge, "a", 7));
    assert!(merge.has_gaps());
    assert_eq!(sequences(&merge.replayed(page("a", false, &[4, 5, 6]), ROOM)), [4, 5]);
    assert!(!merge.has_gaps());
    assert!(!announced(&mut merge, "a", 7), "nothing twice");
    assert!(announced(&mut merge, "a", 8));
    assert_eq!(merge.lost(), 0);
}

#[test]
fn takes_page_after_page() {
    let mut merge = merge("a", 0);
    merge.ask();
    assert!(announced(&mut merge, "a", 9));
    assert_eq!(sequences(&merge.replayed(page("a", true, &[2, 3]), ROOM)), [2, 3]);
    assert_eq!(merge.lost(), 1, "1 was forgotten");
    assert_eq!(merge.ask(), ("a", 3));
    assert_eq!(sequences(&merge.replayed(page("a", true, &[5, 8]), ROOM)), [5, 8]);
    assert_eq!(merge.ask(), ("a", 9));
    assert_eq!(merge.replayed(page("a", false, &[]), ROOM), []);
    assert_eq!((merge.has_gaps(), merge.lost()), (false, 3));
}

#[test]
fn leaves_what_there_is_no_room_for_to_a_replay() {
    let mut merge = merge("a", 3);
    assert_eq!(merge.announced(packet("a", 4), false), None);
    assert!(merge.has_gaps());
    assert!(announced(&mut merge, "a", 5));
    assert_eq!(merge.ask(), ("a", 3));
    // While the answer is under way another one finds no room.
    assert_eq!(merge.announced(packet("a", 6), false), None);
    assert!(announced(&mut merge, "a", 7));
    assert_eq!(sequences(&merge.replayed(page("a", false, &[4, 5]), ROOM)), [4]);
    assert!(merge.has_gaps(), "6 is still to come");
    assert_eq!(merge.ask(), ("a", 5));
    // More than there is room for.
    assert_eq!(sequences(&merge.replayed(page("a", false, &[6, 7, 8, 9]), 2)), [6, 8]);
    assert_eq!(merge.ask(), ("a", 8));
    assert_eq!(sequences(&merge.replayed(page("a", false, &[9]), 2)), [9]);
    assert_eq!((merge.has_gaps(), merge.lost()), (false, 0));
}

#[test]
fn another_epoch_begins_anew() {
    let mut merge = merge("a", 30);
    merge.ask();
    assert_eq!(sequences(&merge.replayed(page("b", false, &[1, 2]), ROOM)), [1, 2]);
    assert!(announced(&mut merge, "b", 3));
    assert!(announced(&mut merge, "c", 2));
    assert!(merge.has_gaps(), "1 came before it was heard");
}

#[test]
fn goes_on_where_nobody_tells() {
    let mut merge = merge("a", 3);
    merge.ask();
    assert!(announced(&mut merge, "a", 7));
    merge.refused();
    assert_eq!((merge.has_gaps(), merge.lost()), (false, 3));
    assert!(announced(&mut merge, "a", 8));
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut merge = merge("a", 0);
    // Every other packet is missing.
    for sequence in 1..10_000 {
        assert!(announced(&mut merge, "a", 2 * sequence));
    }
    assert_eq!(merge.position.ahead.len(), GAPS);
    assert_eq!(merge.lost(), 9_999 - u64::try_from(GAPS).unwrap());
    assert!(!announced(&mut merge, "a", 9_998), "it is known");
}

#[test]
fn runs_that_make_no_sense_are_not_taken() {
    let at = |ahead: &[(u64, u64)]| {
        let position = Position { epoch: "a".to_owned(), sequence: 4, ahead: ahead.to_vec() };
        Merge::new(position).position.ahead
    };
    assert_eq!(at(&[(6, 7), (9, u64::MAX)]), [(6, 7), (9, u64::MAX)]);
    let many: Vec<_> = (0..100).map(|number| (6 + 2 * number, 6 + 2 * number)).collect();
    for bad in [&[(0, u64::MAX)][..], &[(5, 5)], &[(7, 6)], &[(6, 7), (8, 9)], &[(9, 9), (6, 7)], &many] {
        assert_eq!(at(bad), [], "{bad:?}");
    }
}

#[test]
fn begins_now_where_nobody_knows_what_was_done_before() {
    let seen = |sequence, boottime| {
        let mut packet = packet("a", sequence);
        packet.details.boottime = Some(boottime);
        packet
    };
    let mut merge = Merge::starting_at(100);
    merge.ask();
    let packets = vec![seen(1, 98), seen(2, 99), seen(3, 100)];
    let page = Page { epoch: "a".to_owned(), packets, ..Page::default() };
    assert_eq!(sequences(&merge.replayed(page, ROOM)), [3]);
    assert!(merge.announced(seen(4, 101), true).is_some());
}

proptest! {
    /// An announcer announces; some of it is not heard, and some finds no room. Replays come a page at a
    /// time, and what is announced meanwhile is taken. In the end each packet was taken once.
    #[test]
    fn each_packet_once(
        after in 0_u64..20,
        heard in proptest::collection::vec((any::<bool>(), any::<bool>()), 0..60),
        page_length in 1_usize..5,
        late in 0_usize..60,
    ) {
        let mut merge = merge("a", after);
        let mut taken = Vec::new();
        let mut announce = |merge: &mut Merge, number: usize, (is_heard, has_room): (bool, bool)| {
            let sequence = after + 1 + u64::try_from(number).unwrap();
            if is_heard {
                taken.extend(merge.announced(packet("a", sequence), has_room).map(|taken| taken.packet.sequence));
            }
        };
        let mut announced = heard.iter().copied().enumerate();
        for (number, fate) in announced.by_ref().take(late) {
            announce(&mut merge, number, fate);
        }
        let mut count = late.min(heard.len());
        let mut replayed = Vec::new();
        loop {
            let (_, from) = merge.ask();
            // The reply is made, and then something more is announced before it comes.
            let remembered: Vec<u64> = (from + 1..=after + u64::try_from(count).unwrap()).collect();
            let (first, rest) = remembered.split_at(page_length.min(remembered.len()));
            if let Some((number, fate)) = announced.next() {
                announce(&mut merge, number, fate);
                count += 1;
            }
            replayed.extend(sequences(&merge.replayed(page("a", !rest.is_empty(), first), ROOM)));
            if rest.is_empty() && !merge.has_gaps() && announced.len() == 0 {
                break;
            }
        }
        prop_assert_eq!(merge.lost(), 0);
        taken.extend(replayed);
        let all: BTreeSet<u64> = taken.iter().copied().collect();
        prop_assert_eq!(all.len(), taken.len(), "none twice");
        // The last ones may not have been heard at all: nothing tells of them.
        let end = all.last().copied().unwrap_or(after);
        prop_assert_eq!(all, (after + 1..=end).collect::<BTreeSet<u64>>());
    }
}
