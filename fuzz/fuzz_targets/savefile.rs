//! A savefile in pcap or pcapng format: `wakevirtctl read` prints the same packets with and without `--all`, and only
//! packets that the file contains.

#![no_main]

mod memory;

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use memory::MemoryFile;
use wakevirt_ctl::output::Output;
use wakevirt_ctl::verbs::read::read;
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::frame::Ports;

/// The length of the shortest block of a frame, in bytes: a simple packet block of pcapng.
const SHORTEST: usize = 16;

static FILE: LazyLock<MemoryFile> = LazyLock::new(MemoryFile::new);

fuzz_target!(|file: &[u8]| {
    FILE.set(file);
    let (lines, result) = print(true);
    let (packets, same_result) = print(false);
    assert_eq!(result, same_result);
    let mut latest = 1;
    let mut accepted = Vec::new();
    for line in lines.lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect("each line is JSON");
        let frame = value["frame"].as_u64().expect("each line has a number");
        assert!((latest..=file.len() as u64 / SHORTEST as u64).contains(&frame), "{line}");
        latest = frame;
        if value["rejected"].is_string() {
            continue;
        }
        let mac: MacAddr =
            value["mac"].as_str().and_then(|mac| mac.parse().ok()).expect("a packet has an address");
        let copies = mac.octets().repeat(16);
        assert!(mac.is_unicast() && file.windows(copies.len()).any(|window| window == copies), "{line}");
        accepted.push(line);
    }
    assert_eq!(packets.lines().collect::<Vec<_>>(), accepted);
});

/// Returns the output, and the error.
fn print(all: bool) -> (String, Result<(), String>) {
    let written = Written::default();
    let mut output = Output::to_writer(Box::new(written.clone()), None);
    let result = read(&FILE.path(), &Ports::default(), all, &mut output).map_err(|error| error.to_string());
    let text = String::from_utf8(written.0.take()).expect("the output is text");
    (text, result)
}

#[derive(Default, Clone)]
struct Written(Rc<RefCell<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
