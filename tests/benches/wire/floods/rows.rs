//! The floods that are measured.

use wakevirt_protocol::MacAddr;
use wakevirt_tests::network::flood::PacketKind;

/// The MAC address of the domain that no rule allows.
pub const DENIED: MacAddr = MacAddr::new([0x52, 0x54, 0, 1, 0, 1]);
/// The MAC address of the domain whose rule requires a password.
pub const SECRET: MacAddr = MacAddr::new([0x52, 0x54, 0, 1, 0, 2]);
/// The port on which capture receives in UDP mode.
pub const UDP_PORT: u16 = 4009;

/// The configuration of capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture {
    /// All interfaces.
    All,
    /// Interfaces by their names: capture's sockets receive nothing from others.
    Names,
    /// Interfaces by a glob.
    Glob,
    /// UDP mode, without CAP_NET_RAW.
    Udp,
}

impl Capture {
    pub const ALL: [Self; 4] = [Self::All, Self::Names, Self::Glob, Self::Udp];

    /// The content of capture.toml.
    pub fn config(self) -> String {
        match self {
            Self::All => String::new(),
            Self::Names => "interfaces = [\"lan0\", \"lan1\"]\n".to_owned(),
            Self::Glob => "interfaces = [\"lan*\"]\n".to_owned(),
            Self::Udp => format!("listen = [\"0.0.0.0:{UDP_PORT}\"]\n"),
        }
    }
}

/// The domains for which packets are sent during the flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Domains whose addresses are not in the flood.
    Others,
    /// The domain with the address in the flood, [`SECRET`]. The packets have the right password.
    Same,
}

/// What the report compares with the aims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aims {
    /// Nothing.
    None,
    /// All wakes are done.
    Done,
    /// All wakes are done, at most 20 ms later than without a flood, and the announcer uses less than 5% of a core.
    All,
    /// All wakes are done, and the sniffer uses no CPU time for the flood.
    Bound,
}

/// A flood, and the packets that are sent during it. No rule allows packets from the interface `guest0`.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub name: &'static str,
    pub capture: Capture,
    pub kind: PacketKind,
    /// The number of frames per second. `None` means as many as possible.
    pub rate: Option<u32>,
    /// The interface that receives the flood.
    pub flooded: &'static str,
    /// The interface that receives the other packets.
    pub through: &'static str,
    pub target: Target,
    /// Whether two processes compete for the CPUs.
    pub hogs: bool,
    pub aims: Aims,
}

/// All rows.
pub fn all() -> Vec<Row> {
    let base = Row {
        name: "",
        capture: Capture::All,
        kind: PacketKind::Strangers,
        rate: Some(500_000),
        flooded: "lan0",
        through: "lan0",
        target: Target::Others,
        hogs: false,
        aims: Aims::Done,
    };
    let rates = [
        ("packets for unknown addresses, 100,000/s", Some(100_000)),
        ("packets for unknown addresses, 500,000/s", Some(500_000)),
        ("packets for unknown addresses, unlimited", None),
    ];
    let mut rows = vec![];
    for hogs in [false, true] {
        rows.extend(rates.map(|(name, rate)| Row { name, rate, hogs, aims: Aims::All, ..base }));
    }
    rows.push(Row {
        name: "junk to UDP port 9 and with EtherType 0x0842, 500,000/s",
        kind: PacketKind::Junk,
        ..base
    });
    rows.extend(of_one_address(base));
    // Packets that would be announced and denied if the interface were not excluded.
    let excluded = Row { kind: PacketKind::Passwords(SECRET), rate: None, flooded: "guest0", ..base };
    let name = "unlimited, on an interface that `interfaces` does not name";
    rows.push(Row { name, capture: Capture::Names, aims: Aims::Bound, ..excluded });
    rows.push(Row {
        name: "unlimited, on an interface that the glob in `interfaces` does not match",
        capture: Capture::Glob,
        ..excluded
    });
    let udp = Row { capture: Capture::Udp, kind: PacketKind::Udp(UDP_PORT), aims: Aims::None, ..base };
    let names = ["UDP mode, 100,000/s", "UDP mode, 500,000/s", "UDP mode, unlimited"];
    rows.extend(names.into_iter().zip(rates).map(|(name, (_, rate))| Row { name, rate, ..udp }));
    rows
}

/// The floods with the address of one domain.
fn of_one_address(base: Row) -> Vec<Row> {
    let denied = Row { kind: PacketKind::Address(DENIED), ..base };
    let passwords = Row { kind: PacketKind::Passwords(SECRET), ..base };
    let very = Row { target: Target::Same, ..passwords };
    vec![
        Row {
            name: "packets for a denied domain, 500,000/s; wakes through another interface",
            through: "lan1",
            ..denied
        },
        Row { name: "packets for a denied domain, 500,000/s; wakes through the same interface", ..denied },
        Row {
            name: "packets for a denied domain, 500,000/s, from a denied interface",
            flooded: "guest0",
            ..denied
        },
        Row {
            name: "wrong passwords, 500,000/s; wakes through another interface",
            through: "lan1",
            ..passwords
        },
        Row { name: "wrong passwords, 500,000/s; wakes through the same interface", ..passwords },
        Row { name: "wrong passwords, 500,000/s, from a denied interface", flooded: "guest0", ..passwords },
        Row {
            name: "wrong passwords, 500,000/s; wakes of this domain through another interface",
            through: "lan1",
            ..very
        },
        Row {
            name: "wrong passwords, 500,000/s, from a denied interface; wakes of this domain",
            flooded: "guest0",
            ..very
        },
        Row { name: "wrong passwords, 500,000/s; wakes of this domain", aims: Aims::None, ..very },
    ]
}
