//! The `wakevirt-test-flood` program: sends one message to the system bus repeatedly, as fast as the bus accepts it,
//! and discards all replies.
//!
//! `wakevirt-test-flood KIND CONNECTIONS COUNT [DESTINATION]`: COUNT is the number of messages on each connection. The
//! program prints `flooding` when each connection has sent its first messages, and `flooded` at the end.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Barrier};

use wakevirt_protocol::bus::{
    ACTOR_INTERFACE, ACTOR_NAME, ACTOR_PATH, CAPTURE_INTERFACE, CAPTURE_NAME, CAPTURE_PATH, MAGIC_PACKET,
};
use zbus::Message;
use zbus::message::Flags;

use crate::host::{Host, PROGRAMS, User};
use crate::process::Process;

const SOCKET: &str = "/run/dbus/system_bus_socket";
/// The number of bytes in one write. A longer message is written on its own.
const BATCH: usize = 64 * 1024;
/// The maximum number of new connections that each thread leaves open. The bus allows 256 connections for each user.
const MAX_OPEN: usize = 10;
/// The number of bytes before the header fields of a message. The last four contain the length of the fields.
const FIXED_HEADER: usize = 16;
/// The length of a string in a message that is nearly as long as the system bus allows, 32 MiB.
const LONG: usize = 30 * 1024 * 1024;
/// An address without a domain.
const MAC: &str = "52:54:00:ff:ff:01";

/// The message of a flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloodKind {
    /// `Wake` for an address without a domain. No reply is expected.
    Wake,
    /// `Wake` for an address without a domain. The actor replies.
    WakeReply,
    /// `Wake` with a string of 30 MiB instead of an address.
    Long,
    /// `ListDomains`. No reply is expected.
    ListDomains,
    /// `ExplainRules` for an address without a domain. No reply is expected.
    ExplainRules,
    /// `GetAll` of the actor's properties.
    ActorProperties,
    /// `GetAll` of the announcer's properties.
    CaptureProperties,
    /// `Replay` of all packets.
    Replay,
    /// `SetInterest` in 100 addresses.
    SetInterest,
    /// `Ping` to the actor.
    Ping,
    /// `Introspect` to the announcer.
    Introspect,
    /// `Ping` to the actor, with a header field that is not in the specification.
    UnknownField,
    /// `Ping` to the actor, each from a new connection. The last connections remain open.
    FreshConnections,
    /// A forged `MagicPacket`, sent only to the destination.
    Signal,
}

impl FloodKind {
    const ALL: [(&str, Self); 14] = [
        ("wake", Self::Wake),
        ("wake-reply", Self::WakeReply),
        ("long", Self::Long),
        ("list-domains", Self::ListDomains),
        ("explain-rules", Self::ExplainRules),
        ("actor-properties", Self::ActorProperties),
        ("capture-properties", Self::CaptureProperties),
        ("replay", Self::Replay),
        ("set-interest", Self::SetInterest),
        ("ping", Self::Ping),
        ("introspect", Self::Introspect),
        ("unknown-field", Self::UnknownField),
        ("fresh-connections", Self::FreshConnections),
        ("signal", Self::Signal),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    /// The message. Its serial is set later.
    fn message(self, destination: Option<&str>) -> zbus::Result<Message> {
        const PEER: &str = "org.freedesktop.DBus.Peer";
        const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
        const INTROSPECTABLE: &str = "org.freedesktop.DBus.Introspectable";
        let actor = |interface: &'static str, member: &'static str| {
            Message::method_call(ACTOR_PATH, member).destination(ACTOR_NAME).interface(interface)
        };
        let capture = |interface: &'static str, member: &'static str| {
            Message::method_call(CAPTURE_PATH, member).destination(CAPTURE_NAME).interface(interface)
        };
        let no_reply = Flags::NO_REPLY_EXPECTED;
        match self {
            Self::Wake => actor(ACTOR_INTERFACE, "Wake").with_flags(no_reply).build(&MAC),
            Self::WakeReply => actor(ACTOR_INTERFACE, "Wake").build(&MAC),
            Self::Long => actor(ACTOR_INTERFACE, "Wake").build(&"x".repeat(LONG)),
            Self::ListDomains => actor(ACTOR_INTERFACE, "ListDomains").with_flags(no_reply).build(&()),
            Self::ExplainRules => {
                let details = HashMap::<&str, zbus::Variant<'_>>::new();
                actor(ACTOR_INTERFACE, "ExplainRules").with_flags(no_reply).build(&(MAC, details))
            }
            Self::ActorProperties => actor(PROPERTIES, "GetAll").build(&ACTOR_INTERFACE),
            Self::CaptureProperties => capture(PROPERTIES, "GetAll").build(&CAPTURE_INTERFACE),
            Self::Replay => capture(CAPTURE_INTERFACE, "Replay").build(&("", 0_u64)),
            Self::SetInterest => {
                let macs: Vec<[u8; 6]> = (0..100).map(|number| [2, 0, 0, 0, 0, number]).collect();
                let macs: Vec<&[u8]> = macs.iter().map(<[u8; 6]>::as_slice).collect();
                capture(CAPTURE_INTERFACE, "SetInterest").build(&macs)
            }
            Self::Ping | Self::UnknownField | Self::FreshConnections => actor(PEER, "Ping").build(&()),
            Self::Introspect => capture(INTROSPECTABLE, "Introspect").build(&()),
            Self::Signal => Message::signal(CAPTURE_PATH, CAPTURE_INTERFACE, MAGIC_PACKET)
                .destination(destination.unwrap_or(ACTOR_NAME))
                .build(&(1_u64, MAC, HashMap::<&str, zbus::Variant<'_>>::new())),
        }
    }
}

/// Runs the program.
///
/// # Errors
/// If the arguments are invalid, or the bus closes a connection.
pub fn run(arguments: &[String]) -> io::Result<()> {
    let usage = || io::Error::other("usage: KIND CONNECTIONS COUNT [DESTINATION]");
    let [kind, connections, count, destination @ ..] = arguments else { return Err(usage()) };
    let (_, kind) = FloodKind::ALL.into_iter().find(|(name, _)| name == kind).ok_or_else(usage)?;
    let connections: usize = connections.parse().map_err(|_| usage())?;
    let count: u32 = count.parse().map_err(|_| usage())?;
    let message = kind.message(destination.first().map(String::as_str)).map_err(io::Error::other)?;
    let mut message: Vec<u8> = message.data().to_vec();
    if kind == FloodKind::UnknownField {
        add_unknown_field(&mut message).ok_or_else(usage)?;
    }
    let message = message.as_slice();
    let started = Arc::new(Barrier::new(connections + 1));
    std::thread::scope(|scope| {
        let flood = || {
            let started = Arc::clone(&started);
            let flood = if kind == FloodKind::FreshConnections { flood_with_new_connections } else { flood };
            scope.spawn(move || flood(message, count, &started))
        };
        let floods: Vec<_> = std::iter::repeat_with(flood).take(connections).collect();
        started.wait();
        print("flooding")?;
        floods.into_iter().try_for_each(|flood| {
            flood.join().unwrap_or_else(|_| Err(io::Error::other("a flooding thread panicked")))
        })?;
        print("flooded")
    })
}

/// Adds the header field (200, "x") to a message that has no body.
fn add_unknown_field(message: &mut Vec<u8>) -> Option<()> {
    message.extend([200, 1, b's', 0]);
    message.extend(1_u32.to_ne_bytes());
    message.extend(*b"x\0");
    let fields = u32::try_from(message.len().checked_sub(FIXED_HEADER)?).ok()?;
    message.get_mut(FIXED_HEADER - 4..FIXED_HEADER)?.copy_from_slice(&fields.to_ne_bytes());
    message.resize(message.len().next_multiple_of(8), 0);
    Some(())
}

fn print(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

/// Sends the message `count` times on one connection.
fn flood(message: &[u8], count: u32, started: &Barrier) -> io::Result<()> {
    let connected = connect();
    if connected.is_err() {
        started.wait();
    }
    let mut bus = connected?;
    let mut replies = bus.try_clone()?;
    // The thread exits when the connection is closed.
    std::thread::spawn(move || {
        let mut buffer = vec![0; BATCH];
        while replies.read(&mut buffer).is_ok_and(|read| read > 0) {}
    });
    let messages_per_batch = u32::try_from((BATCH / message.len()).max(1)).unwrap_or(1);
    let mut serial = 1_u32;
    let mut is_first = true;
    let mut sent = Ok(());
    while serial <= count && sent.is_ok() {
        let last = count.min(serial + messages_per_batch - 1);
        let mut batch = Vec::with_capacity(BATCH);
        for serial in serial..=last {
            let begin = batch.len();
            batch.extend_from_slice(message);
            // The serial starts at byte 8 of the header, in native byte order.
            if let Some(field) = batch.get_mut(begin + 8..begin + 12) {
                field.copy_from_slice(&(serial + 1).to_ne_bytes());
            }
        }
        sent = bus.write_all(&batch);
        serial = last + 1;
        if std::mem::take(&mut is_first) {
            started.wait();
        }
    }
    sent
}

/// Sends the message `count` times, each on a new connection.
fn flood_with_new_connections(message: &[u8], count: u32, started: &Barrier) -> io::Result<()> {
    let mut open = VecDeque::with_capacity(MAX_OPEN);
    let mut sent = Ok(());
    for number in 0..count {
        sent = connect().and_then(|mut bus| {
            // The serial must differ from that of `Hello`.
            let mut message = message.to_vec();
            if let Some(field) = message.get_mut(8..12) {
                field.copy_from_slice(&u32::MAX.to_ne_bytes());
            }
            bus.write_all(&message)?;
            open.push_back(bus);
            Ok(())
        });
        if open.len() >= MAX_OPEN {
            open.pop_front();
        }
        if number == 0 {
            started.wait();
        }
        if sent.is_err() {
            break;
        }
    }
    sent
}

/// Connects to the bus and calls Hello: "Authentication Protocol" in the D-Bus specification.
fn connect() -> io::Result<UnixStream> {
    let mut bus = UnixStream::connect(SOCKET)?;
    let user = nix::unistd::geteuid().to_string();
    let user: String = user.bytes().map(|byte| format!("{byte:02x}")).collect();
    write!(bus, "\0AUTH EXTERNAL {user}\r\n")?;
    let mut byte = [0];
    while byte != *b"\n" {
        bus.read_exact(&mut byte)?;
    }
    let hello = Message::method_call("/org/freedesktop/DBus", "Hello")
        .destination("org.freedesktop.DBus")
        .interface("org.freedesktop.DBus")
        .build(&())
        .map_err(io::Error::other)?;
    bus.write_all(b"BEGIN\r\n")?;
    bus.write_all(hello.data())?;
    Ok(bus)
}

impl Host {
    /// Floods the bus as this user, with `count` messages on each of `connections` connections, until all messages are
    /// sent or the value is dropped. Returns when each connection has sent its first messages. `to` is the destination
    /// of [`FloodKind::Signal`].
    ///
    /// # Panics
    /// If the flood does not start.
    #[must_use]
    pub fn flood(
        &self,
        user: User,
        kind: FloodKind,
        connections: usize,
        count: u32,
        to: Option<&str>,
    ) -> Process {
        let mut command = self.command_as(user, &format!("{PROGRAMS}/wakevirt-test-flood"));
        command.args([kind.name(), &connections.to_string(), &count.to_string()]).args(to);
        let flood = Process::start("wakevirt-test-flood", &mut command);
        let _ = flood.log().wait_for("flooding");
        flood
    }
}
