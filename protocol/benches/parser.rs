//! Measures how fast `MagicPacket::find` searches payloads without a magic packet, in GB/s.
//!
//! Three functions search each kind of payload in turn, so that the ratios are valid even on a busy machine: `find`, a
//! byte-wise search, and memchr's search for the synchronisation stream, followed by a comparison of the bytes after
//! it. With `WAKEVIRT_BENCH_JSON=FILE`, the benchmark writes the figures to that file as a JSON object.

#![expect(clippy::print_stdout, reason = "the benchmark prints its results")]
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a benchmark may panic")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use memchr::memmem::Finder;
use serde_json::{Map, Value, json};
use wakevirt_protocol::MagicPacket;

/// The maximum UDP payload in an Ethernet frame.
const PAYLOAD: usize = 1472;
/// The number of payloads of each kind: too many for the branch predictor to learn, and few enough to fit in the
/// caches.
const PAYLOADS: usize = 256;
/// The number of runs. Each figure is their median.
const RUNS: usize = 15;
/// The minimum duration of a run.
const RUN: Duration = Duration::from_millis(10);

const SYNC: [u8; 6] = [0xff; 6];

fn main() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let inputs = [
        ("random", payloads(|| random.bytes(PAYLOAD))),
        ("ff-runs", payloads(|| vec![0xff; PAYLOAD])),
        ("zeros", payloads(|| vec![0; PAYLOAD])),
        ("near-misses", payloads(|| repeat(|| near_miss(&mut random)))),
        ("dense-sync", payloads(|| repeat(|| [&SYNC[..], &[random.byte() & 0xfe]].concat()))),
        (
            "every-sixth",
            payloads(|| [&[random.byte() & 0xfe; 5][..], &[0xff]].concat().repeat(PAYLOAD / 6 + 1)),
        ),
        ("broken-copies", payloads(|| repeat(|| broken_copies(&mut random)))),
    ];
    let finder = Finder::new(&SYNC);
    let mut figures = Map::new();
    println!("{:14} {:>9} {:>17} {:>17}", "GB/s", "find", "byte-wise", "memmem");
    for (name, payloads) in inputs {
        let mut runs: [Vec<f64>; 3] = Default::default();
        for _ in 0..RUNS {
            let [find, bytes, memmem] = &mut runs;
            find.push(gigabytes_per_second(&payloads, |payload| !MagicPacket::find(payload).is_empty()));
            bytes.push(gigabytes_per_second(&payloads, bytewise));
            memmem.push(gigabytes_per_second(&payloads, |payload| by_memmem(&finder, payload)));
        }
        let [find, bytes, memmem] = runs.map(median);
        println!(
            "{name:14} {find:9.2} {bytes:9.2} {:6.1}x {memmem:9.2} {:6.1}x",
            find / bytes,
            find / memmem
        );
        figures.insert(
            name.to_owned(),
            json!({
                "find": find, "bytewise": bytes, "memmem": memmem,
                "find/bytewise": find / bytes, "find/memmem": find / memmem,
            }),
        );
    }
    if let Some(path) = std::env::var_os("WAKEVIRT_BENCH_JSON") {
        let text = json!({ "parser-gigabytes-per-second": Value::Object(figures) }).to_string();
        std::fs::write(&path, text).expect("the file in WAKEVIRT_BENCH_JSON must be writable");
    }
}

/// Returns the speed of a search of these payloads, which contain no magic packet, in GB/s.
fn gigabytes_per_second(payloads: &[Vec<u8>], search: impl Fn(&[u8]) -> bool) -> f64 {
    let begin = Instant::now();
    let mut bytes = 0.0;
    loop {
        for payload in payloads {
            assert!(!search(black_box(payload)));
        }
        bytes += (PAYLOAD * PAYLOADS) as f64;
        let elapsed = begin.elapsed();
        if elapsed >= RUN {
            return bytes / elapsed.as_secs_f64() / 1e9;
        }
    }
}

fn bytewise(payload: &[u8]) -> bool {
    payload.windows(6 + 16 * 6).any(|window| window.starts_with(&SYNC) && followed_by_copies(&window[6..]))
}

fn by_memmem(finder: &Finder<'_>, payload: &[u8]) -> bool {
    let mut rest = payload;
    while let Some(at) = finder.find(rest) {
        if followed_by_copies(&rest[at + 6..]) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

fn followed_by_copies(bytes: &[u8]) -> bool {
    let first = bytes.first().copied();
    let unicast = first.is_some_and(|first| first & 1 == 0) && !bytes.starts_with(&[0; 6]);
    unicast && bytes.len() >= 96 && bytes[6..96] == bytes[..90]
}

fn payloads(make: impl FnMut() -> Vec<u8>) -> Vec<Vec<u8>> {
    let mut payloads: Vec<_> = std::iter::repeat_with(make).take(PAYLOADS).collect();
    payloads.iter_mut().for_each(|payload| payload.truncate(PAYLOAD));
    payloads
}

/// Concatenates parts until they have the length of a payload.
fn repeat(part: impl FnMut() -> Vec<u8>) -> Vec<u8> {
    std::iter::repeat_with(part).flatten().take(PAYLOAD).collect()
}

/// A magic packet whose last copy is wrong.
fn near_miss(random: &mut Random) -> Vec<u8> {
    let mut mac = random.bytes(6);
    mac[0] &= 0xfe;
    [&SYNC[..], &mac.repeat(15), &[mac[0] ^ 2]].concat()
}

/// Up to eight 0xFF bytes followed by four to eleven copies of an address: repetitive, but not a magic packet.
fn broken_copies(random: &mut Random) -> Vec<u8> {
    let mac = random.bytes(6);
    let (sync, copies) = (usize::from(random.byte() % 9), usize::from(4 + random.byte() % 8));
    [&[0xff; 8][..sync], &mac.repeat(copies), &random.bytes(1)].concat()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Marsaglia's xorshift generator. It yields the same payloads in every run.
struct Random(u64);

impl Random {
    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.to_be_bytes()[0]
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.byte()).take(length).collect()
    }
}
