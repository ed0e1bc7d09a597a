use super::*;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

fn packet(sync: usize, mac: [u8; 6], copies: usize, tail: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; sync];
    bytes.extend(mac.repeat(copies));
    bytes.extend_from_slice(tail);
    bytes
}

fn first(payload: &[u8]) -> Option<MagicPacket> {
    MagicPacket::find(payload).next()
}

fn plain() -> MagicPacket {
    MagicPacket::new(MacAddr::new(MAC), None).unwrap()
}

#[test]
fn parses_its_own_payload() {
    for password in [None, Some(Password::Four([1, 2, 3, 4])), Some(Password::Six([1, 2, 3, 4, 5, 6]))] {
        let magic = MagicPacket::new(MacAddr::new(MAC), password).unwrap();
        assert_eq!(first(&magic.payload()), Some(magic));
    }
}

#[test]
fn finds_a_packet_at_any_offset() {
    for before in 0..3 * STEP {
        for sync in [6, 7, 8, 13, 200] {
            let mut bytes = vec![0x11; before];
            bytes.extend(packet(sync, MAC, 16, &[]));
            assert_eq!(first(&bytes), Some(plain()), "{before} before, {sync} FF");
            assert_eq!(!MagicPacket::at_start(&bytes).is_empty(), before == 0, "{before} before, {sync} FF");
        }
    }
}

#[test]
fn finds_a_packet_for_any_address() {
    for mac in [
        [2, 0xff, 0xff, 0xff, 0xff, 0xff],
        [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff],
        [2, 0xff, 0xff, 0xff, 0xff, 0],
        [2, 0, 0xff, 0, 0, 0xff],
        [2; 6],
        [0, 0, 0, 0, 0, 1],
        [2, 0, 0, 2, 0, 0],
    ] {
        for before in 0..3 * STEP {
            // The bytes before the packet also repeat the address.
            let mut bytes = mac.repeat(before / 6 + 1)[..before].to_vec();
            bytes.extend(packet(6, mac, 16, &[0x11; 9]));
            let found = first(&bytes).map(|magic| magic.target());
            assert_eq!(found, Some(MacAddr::new(mac)), "{before} before");
        }
    }
}

#[test]
fn finds_a_packet_after_an_incomplete_one() {
    for incomplete in
        [packet(6, MAC, 15, &[]), packet(6, [1; 6], 16, &[]), vec![0xff; 5], packet(6, MAC, 1, &[0xff; 5])]
    {
        let mut bytes = incomplete;
        bytes.push(0);
        bytes.extend(packet(6, MAC, 16, &[]));
        assert_eq!(first(&bytes), Some(plain()));
    }
}

#[test]
fn rejects_incomplete_packets() {
    assert_eq!(first(&packet(5, MAC, 16, &[])), None);
    assert_eq!(first(&packet(6, MAC, 15, &MAC[..5])), None);
    for wrong in 6..SHORTEST {
        let mut bytes = packet(6, MAC, 16, &[]);
        bytes[wrong] ^= 0x40;
        assert_eq!(first(&bytes), None, "byte {wrong}");
    }
}

#[test]
fn rejects_group_targets() {
    for mac in [[0xff; 6], [0; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
        assert_eq!(first(&packet(6, mac, 16, &[])), None, "{mac:?}");
    }
}

#[test]
fn reads_passwords_of_four_or_six_bytes() {
    let four = Some(Password::Four([1, 2, 3, 4]));
    let six = Some(Password::Six([1, 2, 3, 4, 5, 6]));
    for (length, password) in [(0, None), (3, None), (4, four.clone()), (5, four), (6, six.clone()), (7, six)]
    {
        let bytes = packet(6, MAC, 16, &[1, 2, 3, 4, 5, 6, 7][..length]);
        assert_eq!(first(&bytes).unwrap().password(), password.as_ref(), "{length} bytes left");
    }
}

#[test]
fn does_not_read_a_copy_of_the_address_as_a_password() {
    for copies in [17, 20, 40] {
        for part in 0..6 {
            let magic = first(&packet(6, MAC, copies, &MAC[..part])).unwrap();
            assert_eq!(magic.password(), None, "{copies} copies and {part} bytes");
        }
    }
    let magic = first(&packet(6, MAC, 20, b"secret")).unwrap();
    assert_eq!(magic.password(), Some(&Password::Six(*b"secret")));
}

const OTHER: [u8; 6] = [0x52, 0x54, 0, 0xab, 0xcd, 0xef];

/// The target of each packet, and whether it has a password.
fn found(packets: MagicPackets<'_>) -> Vec<([u8; 6], bool)> {
    packets.map(|magic| (magic.target().octets(), magic.password().is_some())).collect()
}

#[test]
fn finds_several_packets_without_passwords() {
    let both = [(MAC, false), (OTHER, false)];
    for sync in [6, 7] {
        for (first_tail, last_tail) in
            [("", ""), ("secret", ""), ("secret", "secret"), ("pass", "pass"), ("", "secret")]
        {
            let bytes =
                [packet(6, MAC, 16, first_tail.as_bytes()), packet(sync, OTHER, 16, last_tail.as_bytes())]
                    .concat();
            assert_eq!(found(MagicPacket::find(&bytes)), both, "{first_tail:?}, {sync} FF, {last_tail:?}");
            assert_eq!(
                found(MagicPacket::at_start(&bytes)),
                both,
                "{first_tail:?}, {sync} FF, {last_tail:?}"
            );
        }
    }
    let three = [packet(6, MAC, 20, &[]), packet(6, OTHER, 16, &[]), packet(6, MAC, 16, &[1; 50])].concat();
    assert_eq!(found(MagicPacket::find(&three)), [(MAC, false), (OTHER, false), (MAC, false)]);
    let late = [&[0][..], &three].concat();
    assert_eq!(found(MagicPacket::find(&late)).len(), 3);
    assert!(MagicPacket::at_start(&late).is_empty(), "the payload does not begin with a packet");
}

#[test]
fn reads_a_password_of_ff_unless_another_packet_may_follow() {
    let six = Some(Password::Six([0xff; 6]));
    assert_eq!(first(&packet(6, MAC, 16, &[0xff; 6])).unwrap().password(), six.as_ref());
    // The following bytes are as long as a packet but invalid: a packet for a group address, or an incomplete packet.
    for next in [packet(6, [0xff; 6], 16, &[]), packet(6, [0x33; 6], 16, &[]), packet(6, OTHER, 15, &[0; 6])]
    {
        assert_eq!(found(MagicPacket::find(&[packet(6, MAC, 16, &[]), next].concat())), [(MAC, false)]);
    }
}

#[test]
fn deserialization_rejects_group_targets() {
    let good = postcard::to_allocvec(&plain()).unwrap();
    assert_eq!(postcard::from_bytes::<MagicPacket>(&good), Ok(plain()));
    let mut bad = good;
    bad[0] |= 1;
    assert!(postcard::from_bytes::<MagicPacket>(&bad).is_err());
}
