//! `wakevirt-capture --read`: the acceptance function over a savefile.
//!
//! It needs no privilege and no bus. Each magic packet gives one line, a JSON object with `frame`
//! (counted from 1), `mac` and the keys of the signal's details, before deduplication.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use pcap::Capture;
use serde::ser::{Serialize, SerializeMap, Serializer};
use wakevirt_protocol::details::Detail;
use wakevirt_protocol::frame::{Ports, judge};
use wakevirt_protocol::link::LinkType;
use wakevirt_protocol::{Heard, Stamp};

/// Why a savefile cannot be judged to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be opened, or is no savefile.
    #[error("cannot read {}: {error}", .path.display())]
    Open {
        /// The savefile.
        path: PathBuf,
        /// Why.
        error: pcap::Error,
    },
    /// It breaks off, or is damaged; what came before was judged.
    #[error("{} is damaged behind frame {frames}: {error}", .path.display())]
    Damaged {
        /// The savefile.
        path: PathBuf,
        /// How many frames were read.
        frames: u64,
        /// What is wrong.
        error: pcap::Error,
    },
    /// It is of links that are not like Ethernet and not IP.
    #[error("{} has link type {number} ({name}); Ethernet, Linux SLL and SLL2, NULL, LOOP and raw IP can be read", .path.display())]
    LinkType {
        /// The savefile.
        path: PathBuf,
        /// The link type's number, as libpcap has it.
        number: i32,
        /// The link type's name.
        name: String,
    },
    /// The output cannot be written.
    #[error("cannot write what was found: {0}")]
    Write(#[from] io::Error),
}

/// Judges every frame of the savefile, and writes a line for each magic packet.
///
/// # Errors
/// [`Error`] names the savefile and what is wrong.
pub fn read(path: &Path, ports: &Ports, mut output: impl Write) -> Result<(), Error> {
    let mut savefile =
        Capture::from_file(path).map_err(|error| Error::Open { path: path.to_owned(), error })?;
    let datalink = savefile.get_datalink();
    let link = LinkType::from_number(datalink.0).ok_or_else(|| Error::LinkType {
        path: path.to_owned(),
        number: datalink.0,
        name: datalink.get_name().unwrap_or_else(|_| "unknown".to_owned()),
    })?;
    let mut frame = 0;
    loop {
        let packet = match savefile.next_packet() {
            Ok(packet) => packet,
            Err(pcap::Error::NoMorePackets) => return Ok(output.flush()?),
            Err(error) => return Err(Error::Damaged { path: path.to_owned(), frames: frame, error }),
        };
        frame += 1;
        let judged = link.strip(packet.data).and_then(|frame| judge(&frame, ports).ok());
        for heard in judged.into_iter().flatten() {
            let stamp = Stamp { timestamp: microseconds(packet.header.ts), boottime: None };
            serde_json::to_writer(&mut output, &Line { frame, heard, stamp }).map_err(io::Error::from)?;
            output.write_all(b"\n")?;
        }
    }
}

fn microseconds(time: libc::timeval) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(u64::try_from(time.tv_usec).unwrap_or(0))
}

/// One line of output.
struct Line {
    frame: u64,
    heard: Heard,
    stamp: Stamp,
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("frame", &self.frame)?;
        map.serialize_entry("mac", &Detail::Text(self.heard.magic.target().to_string()))?;
        for (key, value) in self.heard.details(self.stamp) {
            map.serialize_entry(key, &value)?;
        }
        map.end()
    }
}
