//! `wakevirtctl read`: output, errors and exit statuses for savefiles of each format and link type.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use pcap::{Capture, Linktype, Packet, PacketHeader};
use serde_json::{Value, json};
use wakevirt_tests::network::frames::{BROADCAST, WAKE_ON_LAN, ethernet, magic, tagged, udp4, udp6};

const MAC: &str = "52:54:00:01:02:03";
const SOURCE: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Writes a pcap file with these frames, one per second.
fn savefile(path: &Path, link: i32, frames: &[Vec<u8>]) {
    let mut savefile = Capture::dead(Linktype(link)).unwrap().savefile(path).unwrap();
    for (seconds, frame) in (1_700_000_000..).zip(frames) {
        let length = u32::try_from(frame.len()).unwrap();
        let ts = libc::timeval { tv_sec: seconds, tv_usec: 250_000 };
        savefile.write(&Packet::new(&PacketHeader { ts, caplen: length, len: length }, frame));
    }
}

fn read(path: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wakevirtctl")).arg("read").arg(path).output().unwrap()
}

/// Returns the output lines for a pcap file with these frames.
fn lines_for(link: i32, frames: &[Vec<u8>]) -> Vec<Value> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("frames.pcap");
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

/// Returns the expected line: the details, the number and time of the frame, and additional details.
fn expected(mut details: Value, frame: u64, more: &[(&str, Value)]) -> Value {
    details["frame"] = frame.into();
    details["timestamp"] = ((1_700_000_000 + frame - 1) * 1_000_000 + 250_000).into();
    for (key, value) in more {
        details[*key] = value.clone();
    }
    details
}

#[test]
fn prints_a_line_for_each_magic_packet() {
    let frame = ethernet(BROADCAST, SOURCE, 0x0800, &datagram());
    let raw = ethernet(BROADCAST, SOURCE, WAKE_ON_LAN, &magic(MAC, &[]));
    let junk = ethernet(BROADCAST, SOURCE, 0x0806, &[0; 46]);
    let frames = [frame.clone(), junk, tagged(&frame, 0x8100, 10), raw.clone(), raw];
    let source = ("source-mac", json!("02:00:00:00:00:01"));
    let untagged = [source.clone(), ("vlan", json!(0))];
    let plain = json!({ "mac": MAC, "transport": "ethernet", "ethertype": 0x0842, "secureon": false });
    // The last two are copies.
    assert_eq!(
        lines_for(1, &frames),
        [
            expected(datagram_details(), 1, &untagged),
            expected(datagram_details(), 3, &[source, ("vlan", json!(10))]),
            expected(plain.clone(), 4, &untagged),
            expected(plain, 5, &untagged),
        ]
    );
}

#[test]
fn prints_the_same_lines_for_other_link_types() {
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
        assert_eq!(lines_for(link, &frames), lines, "link type {link}");
    }
    // SLL has packet type, ARPHRD_ETHER, address length, address and protocol; SLL2 has them in another order.
    let sll = [&[0, 1, 0, 1, 0, 6][..], &SOURCE, &[0, 0, 8, 0], &datagram()].concat();
    let sll2 = [&[8, 0, 0, 0, 0, 0, 0, 3, 0, 1, 1, 6][..], &SOURCE, &[0, 0], &datagram()].concat();
    for (link, frame) in [(113, sll), (276, sll2)] {
        let more = [("source-mac", json!("02:00:00:00:00:01")), ("vlan", json!(0))];
        let line = expected(datagram_details(), 1, &more);
        assert_eq!(lines_for(link, &[frame]), [line], "link type {link}");
    }
}

#[test]
fn reports_a_file_that_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("frames.pcap");
    let run = || {
        let output = read(&path);
        assert_eq!(output.status.code(), Some(1));
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (_, error) = run();
    assert!(error.contains("frames.pcap") && error.contains("No such file"), "{error}");
    for text in ["", "hello", &"hello".repeat(100)] {
        fs::write(&path, text).unwrap();
        let (_, error) = run();
        assert!(error.contains("frames.pcap is not a savefile in pcap or pcapng format"), "{error}");
    }
    // IEEE 802.11.
    savefile(&path, 105, &[vec![0; 100]]);
    let (_, error) = run();
    assert!(error.contains("skipped: 1 of link type 105;"), "{error}");
    // The file is truncated in the second frame: the first one is parsed.
    let frame = ethernet(BROADCAST, SOURCE, WAKE_ON_LAN, &magic(MAC, &[]));
    savefile(&path, 1, &[frame.clone(), frame]);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 10]).unwrap();
    let (lines, error) = run();
    assert_eq!(lines.lines().count(), 1);
    assert!(error.contains("damaged after frame 1: unexpected end of file"), "{error}");
    // A frame of an interface without a description, and a block with two different lengths.
    let frame = ethernet(BROADCAST, SOURCE, WAKE_ON_LAN, &magic(MAC, &[]));
    let mut inconsistent = [section(), interface(1, 0, &[]), packet(0, 0, &frame)].concat();
    *inconsistent.last_mut().unwrap() ^= 1;
    for (content, problem) in [
        (
            [section(), interface(1, 0, &[]), packet(0, 0, &frame), packet(1, 0, &frame)].concat(),
            "without a description",
        ),
        ([section(), simple(&frame)].concat(), "without a description"),
        (inconsistent, "inconsistent"),
        ([section(), interface(1, 0, &[]), block(2, &[0; 40])].concat(), "obsolete packet blocks"),
        (
            [section(), interface(1, 0, &[]), 6_u32.to_le_bytes().to_vec(), vec![0xff; 100]].concat(),
            "frame 0",
        ),
    ] {
        fs::write(&path, content).unwrap();
        let (_, error) = run();
        assert!(error.contains("damaged") && error.contains(problem), "{problem}: {error}");
    }
}

/// A block of a pcapng file (draft-ietf-opsawg-pcapng, section 3.1), little endian.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let padding = body.len().next_multiple_of(4) - body.len();
    let length = u32::try_from(body.len() + padding + 12).unwrap().to_le_bytes();
    [&kind.to_le_bytes()[..], &length, body, &vec![0; padding], &length].concat()
}

fn section() -> Vec<u8> {
    let magic = 0x1a2b_3c4d_u32.to_le_bytes();
    block(0x0a0d_0d0a, &[&magic[..], &[1, 0, 0, 0], &[0xff; 8]].concat())
}

/// An interface with this link type and snapshot length, and with options: each a code and a value.
fn interface(link: u16, snap: u32, options: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = [&link.to_le_bytes()[..], &[0; 2], &snap.to_le_bytes()].concat();
    for (code, value) in options {
        body.extend(code.to_le_bytes());
        body.extend(u16::try_from(value.len()).unwrap().to_le_bytes());
        body.extend_from_slice(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    block(1, &body)
}

/// A frame of this interface, with a timestamp in ticks since 1970.
fn packet(interface: u32, ticks: u64, frame: &[u8]) -> Vec<u8> {
    let [high, low] =
        [ticks >> 32, ticks & 0xffff_ffff].map(|half| u32::try_from(half).unwrap().to_le_bytes());
    let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
    block(6, &[&interface.to_le_bytes()[..], &high, &low, &length, &length, frame].concat())
}

fn simple(frame: &[u8]) -> Vec<u8> {
    block(3, &[&u32::try_from(frame.len()).unwrap().to_le_bytes(), frame].concat())
}

#[test]
fn reads_several_interfaces_and_link_types() {
    let raw = ethernet(BROADCAST, SOURCE, WAKE_ON_LAN, &magic(MAC, &[]));
    let sll2 = [&[8, 0, 0, 0, 0, 0, 0, 3, 0, 1, 1, 6][..], &SOURCE, &[0, 0], &datagram()].concat();
    let seconds: u64 = 1_700_000_000;
    // Different snapshot lengths and clocks: microseconds, nanoseconds, and 1/1024 of a second with an offset.
    let content = [
        section(),
        interface(1, 262_144, &[(2, b"eth0")]),
        interface(101, 2000, &[(2, b"tun0"), (9, &[9])]),
        packet(0, seconds * 1_000_000 + 250_000, &raw),
        packet(1, (seconds + 1) * 1_000_000_000 + 250_000_000, &datagram()),
        interface(276, 65_535, &[(9, &[0x8a]), (14, &1_000_000_000_u64.to_le_bytes())]),
        packet(2, (seconds - 1_000_000_000 + 2) * 1024 + 256, &sll2),
        // A block without a frame, and a frame that is too long for the initial buffer.
        block(5, &[0; 12]),
        packet(0, 0, &vec![0; 3 << 20]),
        packet(0, (seconds + 4) * 1_000_000 + 250_000, &raw),
        // A new section has its own interfaces.
        section(),
        interface(228, 0, &[]),
        packet(0, (seconds + 5) * 1_000_000 + 250_000, &datagram()),
    ]
    .concat();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("frames.pcapng");
    fs::write(&path, content).unwrap();
    let output = read(&path);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let source = ("source-mac", json!("02:00:00:00:00:01"));
    let plain =
        json!({ "mac": MAC, "transport": "ethernet", "ethertype": 0x0842, "secureon": false, "vlan": 0 });
    let untagged = ("vlan", json!(0));
    assert_eq!(
        lines,
        [
            expected(plain.clone(), 1, std::slice::from_ref(&source)),
            expected(datagram_details(), 2, &[]),
            expected(datagram_details(), 3, &[source.clone(), untagged]),
            expected(plain, 5, &[source]),
            expected(datagram_details(), 6, &[]),
        ]
    );
}

#[test]
fn skips_unsupported_link_types() {
    let raw = ethernet(BROADCAST, SOURCE, WAKE_ON_LAN, &magic(MAC, &[]));
    let content = [
        section(),
        interface(127, 0, &[]),
        interface(1, 0, &[]),
        packet(0, 0, &[0; 100]),
        packet(1, 0, &raw),
        simple(&[0; 60]),
        interface(195, 0, &[]),
        packet(2, 0, &[0; 100]),
    ]
    .concat();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("frames.pcapng");
    fs::write(&path, content).unwrap();
    let output = read(&path);
    assert!(!output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("skipped: 2 of link type 127, 1 of link type 195;"), "{error}");
}

#[test]
fn does_not_panic_on_corrupted_files() {
    let raw = ethernet(BROADCAST, SOURCE, WAKE_ON_LAN, &magic(MAC, &[]));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("frames");
    savefile(&path, 1, &[raw.clone(), raw.clone()]);
    let pcapng = [
        section(),
        interface(1, 100, &[(2, b"eth0"), (9, &[9]), (14, &[1; 8])]),
        packet(0, 0, &raw),
        simple(&raw),
        section(),
        interface(101, 0, &[]),
        packet(0, 7, &datagram()),
    ];
    let whole = [fs::read(&path).unwrap(), pcapng.concat()];
    let mut random = fastrand::Rng::with_seed(0x0842);
    let ports = wakevirt_protocol::frame::Ports::default();
    let (mut read, mut rejected) = (0, 0);
    for round in 0..600 {
        let mut bytes = whole[round % 2].clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            match random.u8(0..4) {
                0 => bytes[at] = random.u8(..),
                1 => bytes[at] = 0xff,
                2 => bytes.truncate(at + 1),
                _ => bytes[at] ^= 1 << random.u8(0..8),
            }
        }
        fs::write(&path, &bytes).unwrap();
        let mut output = wakevirt_ctl::output::Output::to_writer(Box::new(std::io::sink()), None);
        match wakevirt_ctl::verbs::read::read(&path, &ports, true, &mut output) {
            Ok(()) => read += 1,
            Err(_) => rejected += 1,
        }
    }
    assert!(read > 50 && rejected > 50, "{read} read, {rejected} rejected");
}

#[test]
fn prints_why_each_frame_is_rejected() {
    let raw = ethernet(BROADCAST, SOURCE, WAKE_ON_LAN, &magic(MAC, &[]));
    let udp = udp4(Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::BROADCAST, 9, b"x");
    let content = [
        section(),
        interface(1, 0, &[]),
        interface(127, 0, &[]),
        packet(0, 0, &ethernet(BROADCAST, SOURCE, 0x0806, &[0; 46])),
        packet(0, 0, &raw),
        packet(0, 0, &ethernet(BROADCAST, SOURCE, 0x0800, &udp)),
        packet(0, 0, &raw[..10]),
        packet(1, 0, &[0; 100]),
    ];
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("frames.pcapng");
    fs::write(&path, content.concat()).unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_wakevirtctl")).args(["read", "--all"]).arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[1]["mac"], MAC);
    for (line, reason) in [
        (0, "the payload does not start with a magic packet"),
        (2, "no magic packet in the payload"),
        (3, "a header is truncated or inconsistent"),
        (4, "link type 127 is not supported"),
    ] {
        assert_eq!(lines[line], json!({ "frame": line + 1, "rejected": reason }));
    }
}

#[test]
fn searches_datagrams_to_the_given_ports_in_full() {
    let payload = [b"x".to_vec(), magic(MAC, &[])].concat();
    let datagram = udp4(Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::BROADCAST, 4000, &payload);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("frames.pcap");
    savefile(&path, 12, &[datagram]);
    for (ports, expected) in [(&[][..], 0), (&["--port=4000"], 1), (&["--port=9", "--port=4000"], 1)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wakevirtctl"));
        let output = command.arg("read").args(ports).arg(&path).output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), expected, "{ports:?}");
    }
}

#[test]
fn exits_silently_when_the_reader_closes_the_output() {
    let frame = ethernet(BROADCAST, SOURCE, WAKE_ON_LAN, &magic(MAC, &[]));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("frames.pcap");
    // The output exceeds the buffers of the program and of the pipe.
    savefile(&path, 1, &vec![frame; 10_000]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_wakevirtctl"));
    let mut process =
        command.arg("read").arg(&path).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&first).unwrap()["frame"], 1);
    let output = process.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn reports_output_that_cannot_be_written() {
    let frame = ethernet(BROADCAST, SOURCE, WAKE_ON_LAN, &magic(MAC, &[]));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("frames.pcap");
    savefile(&path, 1, &[frame]);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_wakevirtctl"));
    let output = command.arg("read").arg(&path).stdout(full).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.starts_with("wakevirtctl: cannot write the output: No space left on device"), "{error}");
}

#[test]
fn exits_with_2_on_invalid_arguments() {
    for (arguments, error) in [
        (&["reed"][..], "unrecognized subcommand 'reed'"),
        (&["--bus", "nothing"], "\"nothing\" is not a bus address"),
        (&["--json=xml"], "possible values: short, pretty"),
        (&["read"], "<FILE>"),
        (&["read", "one.pcap", "two.pcap"], "unexpected argument 'two.pcap'"),
        (&["read", "--every", "one.pcap"], "unexpected argument '--every'"),
        (&["read", "--port", "65536", "one.pcap"], "65536 is not in 0..=65535"),
        (&["read", "--port", "wol", "one.pcap"], "invalid value 'wol' for '--port <PORT>'"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_wakevirtctl")).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(error) && output.stdout.is_empty(), "{arguments:?}: {text}");
    }
    for arguments in [&["--help"][..], &["--version"], &["read", "--help"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_wakevirtctl")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arguments:?}");
    }
}
