//! `wakevirt-capture --read`: the acceptance function over savefiles of each link type.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may stop where it stands")]

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Command, Output};

use pcap::{Capture, Linktype, Packet, PacketHeader};
use serde_json::{Value, json};
use wakevirt_tests::frames::{BROADCAST, WAKE_ON_LAN, ethernet, magic, tagged, udp4, udp6};

const MAC: &str = "52:54:00:01:02:03";
const SOURCE: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Writes a savefile with these frames, a second and a bit between them.
fn savefile(path: &Path, link: i32, frames: &[Vec<u8>]) {
    let mut savefile = Capture::dead(Linktype(link)).unwrap().savefile(path).unwrap();
    for (seconds, frame) in (1_700_000_000..).zip(frames) {
        let length = u32::try_from(frame.len()).unwrap();
        let ts = libc::timeval { tv_sec: seconds, tv_usec: 250_000 };
        savefile.write(&Packet::new(&PacketHeader { ts, caplen: length, len: length }, frame));
    }
}

fn read(path: &Path) -> Output {
    // A configuration of the machine's own must not matter.
    let config = path.with_extension("toml");
    fs::write(&config, "").unwrap();
    Command::new(env!("CARGO_BIN_EXE_wakevirt-capture"))
        .args(["--config".as_ref(), config.as_os_str(), "--read".as_ref(), path.as_os_str()])
        .output()
        .unwrap()
}

/// The lines of output for a savefile with these frames.
fn found(link: i32, frames: &[Vec<u8>]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frames.pcap");
    savefile(&path, link, frames);
    let output = read(&path);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn datagram() -> Vec<u8> {
    udp4(Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::BROADCAST, 9, &magic(MAC, b"secret"))
}

fn datagram_details() -> Value {
    json!({
        "mac": MAC, "transport": "udp4", "source": "192.0.2.2", "source-port": 40_000,
        "destination": "255.255.255.255", "destination-port": 9, "secureon": true,
    })
}

/// The line without what every line has, and with what this one has beside the given details.
fn expected(mut details: Value, frame: u64, more: &[(&str, Value)]) -> Value {
    details["frame"] = frame.into();
    details["timestamp"] = ((1_700_000_000 + frame - 1) * 1_000_000 + 250_000).into();
    for (key, value) in more {
        details[*key] = value.clone();
    }
    details
}

#[test]
fn of_ethernet_gives_a_line_for_each_magic_packet() {
    let frame = ethernet(BROADCAST, SOURCE, 0x0800, &datagram());
    let raw = ethernet(BROADCAST, SOURCE, WAKE_ON_LAN, &magic(MAC, &[]));
    let junk = ethernet(BROADCAST, SOURCE, 0x0806, &[0; 46]);
    let frames = [frame.clone(), junk, tagged(&frame, 0x8100, 10), raw.clone(), raw];
    let source = ("source-mac", json!("02:00:00:00:00:01"));
    let untagged = [source.clone(), ("vlan", json!(0))];
    let plain = json!({ "mac": MAC, "transport": "ethernet", "ethertype": 0x0842, "secureon": false });
    // Before deduplication: the last two are copies.
    assert_eq!(
        found(1, &frames),
        [
            expected(datagram_details(), 1, &untagged),
            expected(datagram_details(), 3, &[source, ("vlan", json!(10))]),
            expected(plain.clone(), 4, &untagged),
            expected(plain, 5, &untagged),
        ]
    );
}

#[test]
fn of_other_links_gives_the_same() {
    let v6 = udp6(Ipv6Addr::LOCALHOST, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 7, &magic(MAC, &[]));
    let v6_details = json!({
        "mac": MAC, "transport": "udp6", "source": "::1", "source-port": 40_000,
        "destination": "ff02::1", "destination-port": 7, "secureon": false,
    });
    // RAW, NULL in either byte order, LOOP.
    for (link, headers) in
        [(12, [&[][..], &[]]), (0, [&[2, 0, 0, 0], &[0, 0, 0, 30]]), (108, [&[0, 0, 0, 2], &[0, 0, 0, 24]])]
    {
        let frames = [[headers[0], &datagram()].concat(), [headers[1], &v6].concat()];
        let lines = [expected(datagram_details(), 1, &[]), expected(v6_details.clone(), 2, &[])];
        assert_eq!(found(link, &frames), lines, "link type {link}");
    }
    // SLL and SLL2: packet type, ARPHRD_ETHER, address length, address, protocol; and the other way round.
    let sll = [&[0, 1, 0, 1, 0, 6][..], &SOURCE, &[0, 0, 8, 0], &datagram()].concat();
    let sll2 = [&[8, 0, 0, 0, 0, 0, 0, 3, 0, 1, 1, 6][..], &SOURCE, &[0, 0], &datagram()].concat();
    for (link, frame) in [(113, sll), (276, sll2)] {
        let more = [("source-mac", json!("02:00:00:00:00:01")), ("vlan", json!(0))];
        let line = expected(datagram_details(), 1, &more);
        assert_eq!(found(link, &[frame]), [line], "link type {link}");
    }
}

#[test]
fn that_cannot_be_read_is_named_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frames.pcap");
    let complaint = || {
        let output = read(&path);
        assert!(!output.status.success());
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (_, error) = complaint();
    assert!(error.contains("frames.pcap") && error.contains("No such file"), "{error}");
    fs::write(&path, "hello").unwrap();
    let (_, error) = complaint();
    assert!(error.contains("frames.pcap"), "{error}");
    // IEEE 802.11.
    savefile(&path, 105, &[vec![0; 100]]);
    let (_, error) = complaint();
    assert!(error.contains("link type 105 (IEEE802_11)"), "{error}");
    // Cut off in its second frame: what came before is judged.
    let frame = ethernet(BROADCAST, SOURCE, WAKE_ON_LAN, &magic(MAC, &[]));
    savefile(&path, 1, &[frame.clone(), frame]);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 10]).unwrap();
    let (lines, error) = complaint();
    assert_eq!(lines.lines().count(), 1);
    assert!(error.contains("damaged behind frame 1"), "{error}");
}
