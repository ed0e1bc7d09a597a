//! What `wakevirt-test-flood` does: it sends one message again and again to the system bus, as fast as the
//! bus takes it, and throws away what comes back.
//!
//! `wakevirt-test-flood KIND CONNECTIONS COUNT [DESTINATION]`: so many messages on each connection. It says
//! `flooding` when each connection has sent its first messages, and `flooded` at the end.

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
/// How many bytes are written at once; one message if it is longer.
const BATCH: usize = 64 * 1024;
/// Fresh connections that each thread keeps open. The bus allows a user 256.
const OPEN: usize = 10;
/// The bytes of a message before its header fields, whose length is the last number of these.
const HEAD: usize = 16;
/// A text of nearly the length that the bus takes at most (32 MiB on the system's).
const LONG: usize = 30 * 1024 * 1024;
/// An address that no domain has.
const MAC: &str = "52:54:00:ff:ff:01";

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloodKind {
    /// `Wake`, for an address that no domain has, without a reply.
    Wake,
    /// The same, with a reply.
    WakeReply,
    /// `Wake`, with a text of 30 MiB for an address.
    Long,
    /// `ListDomains`, without a reply.
    ListDomains,
    /// `GetAll` of the actor's properties.
    ActorProperties,
    /// `GetAll` of the announcer's properties.
    CaptureProperties,
    /// `Replay` of all that is remembered.
    Replay,
    /// `Ping` to the actor.
    Ping,
    /// `Introspect` to the announcer.
    Introspect,
    /// `Ping` to the actor, with a header field that the specification does not know.
    UnknownField,
    /// `Ping` to the actor, each from a new connection. Some of the last connections stay open.
    FreshConnections,
    /// A forged `MagicPacket` to this connection alone.
    Signal,
}

impl FloodKind {
    const ALL: [(&str, Self); 12] = [
        ("wake", Self::Wake),
        ("wake-reply", Self::WakeReply),
        ("long", Self::Long),
        ("list-domains", Self::ListDomains),
        ("actor-properties", Self::ActorProperties),
        ("capture-properties", Self::CaptureProperties),
        ("replay", Self::Replay),
        ("ping", Self::Ping),
        ("introspect", Self::Introspect),
        ("unknown-field", Self::UnknownField),
        ("fresh-connections", Self::FreshConnections),
        ("signal", Self::Signal),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    /// The message, whose serial is still to be set.
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
        let silent = Flags::NO_REPLY_EXPECTED;
        match self {
            Self::Wake => actor(ACTOR_INTERFACE, "Wake").with_flags(silent).build(&MAC),
            Self::WakeReply => actor(ACTOR_INTERFACE, "Wake").build(&MAC),
            Self::Long => actor(ACTOR_INTERFACE, "Wake").build(&"x".repeat(LONG)),
            Self::ListDomains => actor(ACTOR_INTERFACE, "ListDomains").with_flags(silent).build(&()),
            Self::ActorProperties => actor(PROPERTIES, "GetAll").build(&ACTOR_INTERFACE),
            Self::CaptureProperties => capture(PROPERTIES, "GetAll").build(&CAPTURE_INTERFACE),
            Self::Replay => capture(CAPTURE_INTERFACE, "Replay").build(&("", 0_u64)),
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
/// If the arguments are not what they should be, or the bus closes a connection.
pub fn run(arguments: &[String]) -> io::Result<()> {
    let bad = || io::Error::other("usage: KIND CONNECTIONS COUNT [DESTINATION]");
    let [kind, connections, count, destination @ ..] = arguments else { return Err(bad()) };
    let (_, kind) = FloodKind::ALL.into_iter().find(|(name, _)| name == kind).ok_or_else(bad)?;
    let connections: usize = connections.parse().map_err(|_| bad())?;
    let count: u32 = count.parse().map_err(|_| bad())?;
    let message = kind.message(destination.first().map(String::as_str)).map_err(io::Error::other)?;
    let mut message: Vec<u8> = message.data().to_vec();
    if kind == FloodKind::UnknownField {
        add_unknown_field(&mut message).ok_or_else(bad)?;
    }
    let message = message.as_slice();
    let begun = Arc::new(Barrier::new(connections + 1));
    std::thread::scope(|scope| {
        let flood = || {
            let begun = Arc::clone(&begun);
            let flood = if kind == FloodKind::FreshConnections { flood_afresh } else { flood };
            scope.spawn(move || flood(message, count, &begun))
        };
        let floods: Vec<_> = std::iter::repeat_with(flood).take(connections).collect();
        begun.wait();
        say("flooding")?;
        floods.into_iter().try_for_each(|flood| flood.join().unwrap_or_else(|_| Err(bad())))?;
        say("flooded")
    })
}

/// Adds the header field (200, "x") to a message that has no body.
fn add_unknown_field(message: &mut Vec<u8>) -> Option<()> {
    message.extend([200, 1, b's', 0]);
    message.extend(1_u32.to_ne_bytes());
    message.extend(*b"x\0");
    let fields = u32::try_from(message.len().checked_sub(HEAD)?).ok()?;
    message.get_mut(HEAD - 4..HEAD)?.copy_from_slice(&fields.to_ne_bytes());
    message.resize(message.len().next_multiple_of(8), 0);
    Some(())
}

fn say(what: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{what}")
}

/// Sends so many of the message on a connection of its own.
fn flood(message: &[u8], count: u32, begun: &Barrier) -> io::Result<()> {
    let connected = connect();
    if connected.is_err() {
        begun.wait();
    }
    let mut bus = connected?;
    let mut replies = bus.try_clone()?;
    // It ends with the connection.
    std::thread::spawn(move || {
        let mut buffer = vec![0; BATCH];
        while replies.read(&mut buffer).is_ok_and(|read| read > 0) {}
    });
    let at_once = u32::try_from((BATCH / message.len()).max(1)).unwrap_or(1);
    let mut serial = 1_u32;
    let mut waits = true;
    let mut sent = Ok(());
    while serial <= count && sent.is_ok() {
        let last = count.min(serial + at_once - 1);
        let mut batch = Vec::with_capacity(BATCH);
        for serial in serial..=last {
            let begin = batch.len();
            batch.extend_from_slice(message);
            // The serial is the third number of the header, in the byte order of this machine.
            if let Some(place) = batch.get_mut(begin + 8..begin + 12) {
                place.copy_from_slice(&(serial + 1).to_ne_bytes());
            }
        }
        sent = bus.write_all(&batch);
        serial = last + 1;
        if std::mem::take(&mut waits) {
            begun.wait();
        }
    }
    sent
}

/// Sends so many of the message, each on a connection of its own.
fn flood_afresh(message: &[u8], count: u32, begun: &Barrier) -> io::Result<()> {
    let mut open = VecDeque::with_capacity(OPEN);
    let mut sent = Ok(());
    for number in 0..count {
        sent = connect().and_then(|mut bus| {
            // `Hello` has a serial, too.
            let mut message = message.to_vec();
            if let Some(place) = message.get_mut(8..12) {
                place.copy_from_slice(&u32::MAX.to_ne_bytes());
            }
            bus.write_all(&message)?;
            open.push_back(bus);
            Ok(())
        });
        if open.len() >= OPEN {
            open.pop_front();
        }
        if number == 0 {
            begun.wait();
        }
        if sent.is_err() {
            break;
        }
    }
    sent
}

/// Connects and says Hello: "Authentication Protocol" in the D-Bus Specification.
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
    /// Floods the bus as this user, with so many messages on each of so many connections, until all are
    /// sent or the value is dropped. Returns when it has begun.
    ///
    /// # Panics
    /// If it does not begin.
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
