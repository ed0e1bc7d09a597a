//! `wakevirtctl read`: finds the magic packets in a savefile in pcap or pcapng format.
//!
//! The output has one line for each magic packet, including copies: a JSON object with `frame` (counted from 1), `mac`
//! and the details of the `MagicPacket` signal. With `--all`, it also has a line with `frame` and `rejected` for each
//! rejected frame. A pcapng file can contain frames from several interfaces with different link types.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use pcap_parser::traits::PcapReaderIterator;
use pcap_parser::{Block, InterfaceDescriptionBlock, PcapBlockOwned, PcapError, create_reader};
use serde::ser::{Serialize, SerializeMap, Serializer};
use wakevirt_protocol::details::Detail;
use wakevirt_protocol::frame::{Ports, Rejection, parse_frame};
use wakevirt_protocol::link::LinkType;
use wakevirt_protocol::{ParsedPacket, Stamp};

use crate::exit::Exit;
use crate::output::Output;

/// The initial size of the read buffer, in bytes.
const BUFFER: usize = 1 << 20;
/// The maximum length of a block, in bytes: the limit of libpcap.
const MAX_BLOCK: usize = 16 << 20;
/// The bits of the link type in a pcap header; the others describe a checksum (`LT_LINKTYPE` in libpcap).
const LINK_TYPE_BITS: i32 = 0x03ff_ffff;
/// The type of a packet block that programs have not written since 2009 (pcapng, section 4.4).
const OBSOLETE_PACKET_BLOCK: u32 = 2;

/// The options.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Also print a line with the reason for each frame without a valid magic packet
    #[arg(long)]
    all: bool,

    /// Search the whole payload of datagrams to this UDP port; can be repeated [default: 0, 7, 9]
    ///
    /// In datagrams to other ports, a magic packet is accepted only at the start of the payload. The default is the same
    /// as in wakevirt-capture.toml(5).
    #[arg(long = "port", value_name = "PORT")]
    ports: Vec<u16>,

    /// The file to read
    #[arg(value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,
}

/// Reads the savefile.
///
/// # Errors
/// If it cannot be read completely.
pub fn run(arguments: &Arguments, output: &mut Output) -> Result<Exit, crate::error::Error> {
    let ports = match arguments.ports.as_slice() {
        [] => Ports::default(),
        ports => Ports::new(ports.to_vec()),
    };
    read(&arguments.file, &ports, arguments.all, output)?;
    Ok(Exit::Success)
}

/// A savefile cannot be read completely, or the output cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or read.
    #[error("cannot read {}: {error}", .path.display())]
    Open {
        /// The savefile.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// The file has a different format.
    #[error("{} is not a savefile in pcap or pcapng format; if it is compressed, decompress it first", .path.display())]
    NotASavefile {
        /// The file.
        path: PathBuf,
    },
    /// The file is truncated or damaged. The frames before the damage were parsed.
    #[error("{} is damaged after frame {frames}: {problem}", .path.display())]
    Damaged {
        /// The savefile.
        path: PathBuf,
        /// The number of frames that were read.
        frames: u64,
        /// The damage.
        problem: &'static str,
    },
    /// Some frames have unsupported link types. All others were parsed.
    #[error("{} contains frames with unsupported link types, which were skipped: {}; the supported link types are Ethernet (1), Linux SLL (113) and SLL2 (276), NULL (0), LOOP (108) \
             and raw IP (101, 228, 229)", .path.display(), format_counts(.skipped))]
    LinkTypes {
        /// The savefile.
        path: PathBuf,
        /// The number of frames of each unsupported link type (<https://www.tcpdump.org/linktypes.html>).
        skipped: BTreeMap<i32, u64>,
    },
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Write(#[from] io::Error),
}

fn format_counts(skipped: &BTreeMap<i32, u64>) -> String {
    let each: Vec<_> =
        skipped.iter().map(|(number, count)| format!("{count} of link type {number}")).collect();
    each.join(", ")
}

/// Parses every frame of the savefile, and writes a line for each magic packet. With `all`, it also writes a line for
/// each rejected frame.
///
/// # Errors
/// [`Error`] names the savefile and what is wrong.
pub fn read(path: &Path, ports: &Ports, all: bool, output: &mut Output) -> Result<(), Error> {
    let open = |error| Error::Open { path: path.to_owned(), error };
    let file = File::open(path).map_err(open)?;
    // A directory can be opened, but not read.
    if file.metadata().map_err(open)?.is_dir() {
        return Err(open(io::ErrorKind::IsADirectory.into()));
    }
    let mut reader = create_reader(BUFFER, FullReads(file)).map_err(|error| match error {
        PcapError::ReadError => open(io::Error::other("read failed")),
        _ => Error::NotASavefile { path: path.to_owned() },
    })?;
    let mut savefile =
        Savefile { path, ports, all, output, interfaces: Vec::new(), frames: 0, skipped: BTreeMap::new() };
    savefile.read(reader.as_mut())?;
    savefile.finish()
}

/// A savefile that is being read.
struct Savefile<'a> {
    path: &'a Path,
    ports: &'a Ports,
    all: bool,
    output: &'a mut Output,
    /// The interfaces that this section of the file describes.
    interfaces: Vec<Interface>,
    frames: u64,
    skipped: BTreeMap<i32, u64>,
}

impl Savefile<'_> {
    fn read(&mut self, reader: &mut (dyn PcapReaderIterator + Send)) -> Result<(), Error> {
        let mut capacity = BUFFER;
        loop {
            let problem = match reader.next() {
                Ok((length, block)) => {
                    self.block(&block)?;
                    reader.consume(length);
                    continue;
                }
                Err(PcapError::Eof) => return Ok(()),
                Err(PcapError::Incomplete(_)) => {
                    reader.refill().map_err(|_| self.damaged("read failed"))?;
                    continue;
                }
                Err(PcapError::BufferTooSmall) if capacity < MAX_BLOCK => {
                    capacity *= 2;
                    reader.grow(capacity);
                    reader.refill().map_err(|_| self.damaged("read failed"))?;
                    continue;
                }
                Err(PcapError::BufferTooSmall) => "a frame or block is longer than 16 MiB",
                Err(PcapError::UnexpectedEof) => "unexpected end of file",
                Err(_) => "a block is inconsistent",
            };
            return Err(self.damaged(problem));
        }
    }

    fn block(&mut self, block: &PcapBlockOwned<'_>) -> Result<(), Error> {
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                let resolution = if header.is_nanosecond_precision() { 1_000_000_000 } else { 1_000_000 };
                let link = header.network.0 & LINK_TYPE_BITS;
                self.interfaces = vec![Interface { link, snap: 0, resolution, offset: 0 }];
                Ok(())
            }
            PcapBlockOwned::Legacy(frame) => {
                let interface = self.interface(0)?;
                let part = u128::from(frame.ts_usec) * 1_000_000 / u128::from(interface.resolution);
                let time = u128::from(frame.ts_sec) * 1_000_000 + part;
                self.frame(interface, u64::try_from(time).unwrap_or(u64::MAX), frame.data)
            }
            PcapBlockOwned::NG(Block::SectionHeader(_)) => {
                self.interfaces.clear();
                Ok(())
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(description)) => {
                self.interfaces.push(Interface::from(description));
                Ok(())
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                let interface = self.interface(packet.if_id)?;
                let ticks = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                self.frame(interface, interface.microseconds(ticks), first(packet.data, packet.caplen))
            }
            PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
                let interface = self.interface(0)?;
                let length =
                    if interface.snap == 0 { packet.origlen } else { packet.origlen.min(interface.snap) };
                // The block has no timestamp.
                self.frame(interface, 0, first(packet.data, length))
            }
            PcapBlockOwned::NG(Block::Unknown(block)) if block.block_type == OBSOLETE_PACKET_BLOCK => {
                Err(self.damaged("obsolete packet blocks are not supported; convert the file with editcap"))
            }
            PcapBlockOwned::NG(_) => Ok(()),
        }
    }

    fn interface(&self, number: u32) -> Result<Interface, Error> {
        let found = usize::try_from(number).ok().and_then(|number| self.interfaces.get(number));
        found.copied().ok_or_else(|| self.damaged("a frame refers to an interface without a description"))
    }

    /// Parses one frame, captured `timestamp` microseconds after 1970.
    fn frame(&mut self, interface: Interface, timestamp: u64, bytes: &[u8]) -> Result<(), Error> {
        self.frames += 1;
        let Some(link) = LinkType::from_number(interface.link) else {
            *self.skipped.entry(interface.link).or_default() += 1;
            return self.rejected(&format_args!("link type {} is not supported", interface.link));
        };
        let Some(frame) = link.strip(bytes) else {
            return self.rejected(&Rejection::BadHeader);
        };
        match parse_frame(&frame, self.ports) {
            Ok(packets) => packets.into_iter().try_for_each(|packet| {
                let stamp = Stamp { timestamp, boottime: None };
                self.write(&Line { frame: self.frames, packet, stamp })
            }),
            Err(rejection) => self.rejected(&rejection),
        }
    }

    /// Writes the reason why the current frame is rejected, if `all` is set.
    fn rejected(&mut self, reason: &dyn fmt::Display) -> Result<(), Error> {
        if !self.all {
            return Ok(());
        }
        self.write(&Rejected { frame: self.frames, rejected: reason.to_string() })
    }

    fn write(&mut self, line: &impl Serialize) -> Result<(), Error> {
        Ok(self.output.json(line)?)
    }

    fn damaged(&self, problem: &'static str) -> Error {
        Error::Damaged { path: self.path.to_owned(), frames: self.frames, problem }
    }

    fn finish(self) -> Result<(), Error> {
        self.output.flush()?;
        if self.skipped.is_empty() {
            return Ok(());
        }
        Err(Error::LinkTypes { path: self.path.to_owned(), skipped: self.skipped })
    }
}

/// The description of an interface on which frames were captured.
#[derive(Debug, Clone, Copy)]
struct Interface {
    /// The link type's number.
    link: i32,
    /// The maximum number of captured bytes of each frame; 0 means all.
    snap: u32,
    /// The number of clock ticks per second.
    resolution: u64,
    /// The seconds to add to its timestamps.
    offset: i64,
}

impl From<&InterfaceDescriptionBlock<'_>> for Interface {
    fn from(description: &InterfaceDescriptionBlock<'_>) -> Self {
        // The highest bit selects a power of 2 instead of 10.
        let exponent = u32::from(description.if_tsresol & 0x7f);
        let base: u64 = if description.if_tsresol & 0x80 == 0 { 10 } else { 2 };
        Self {
            link: description.linktype.0,
            snap: description.snaplen,
            resolution: base.checked_pow(exponent).unwrap_or(u64::MAX),
            offset: description.if_tsoffset,
        }
    }
}

impl Interface {
    /// The time in microseconds since 1970; 0 for earlier times.
    fn microseconds(self, ticks: u64) -> u64 {
        let time = i128::from(ticks) * 1_000_000 / i128::from(self.resolution);
        let time = time + i128::from(self.offset) * 1_000_000;
        u64::try_from(time.max(0)).unwrap_or(u64::MAX)
    }
}

/// The first `length` bytes, without the padding to a multiple of four.
fn first(bytes: &[u8], length: u32) -> &[u8] {
    usize::try_from(length).ok().and_then(|length| bytes.get(..length)).unwrap_or(bytes)
}

/// Fills each buffer completely, except at the end of the file. pcap-parser requires the whole header of a savefile in
/// the first read.
struct FullReads(File);

impl Read for FullReads {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.0.read(rest) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

/// The line of a rejected frame.
#[derive(serde::Serialize)]
struct Rejected {
    frame: u64,
    rejected: String,
}

/// The line of a magic packet.
struct Line {
    frame: u64,
    packet: ParsedPacket,
    stamp: Stamp,
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("frame", &self.frame)?;
        map.serialize_entry("mac", &Detail::Text(self.packet.magic.target().to_string()))?;
        for (key, value) in self.packet.details(self.stamp) {
            map.serialize_entry(key, &value)?;
        }
        map.end()
    }
}
