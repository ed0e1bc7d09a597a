//! Hearing the announcer: which messages on the bus are believed to be its packets.
//!
//! The bus lets anybody send a signal of any name. A packet counts only if its sender is the
//! connection that owns `org.wakevirt.Capture1` at that moment, and only the announcer's user may own
//! that name. Signals, changes of the owner and the answer to the question who owns it now are read
//! from one stream, in the order in which the bus sent them: there is no moment at which an old owner
//! is believed, or a new one is not. A new owner is asked for what it remembers; its answer comes
//! through the same stream, so that it is known what was announced before it and what after.

use core::cell::RefCell;
use core::future::poll_fn;
use core::num::NonZeroU32;
use core::pin::Pin;
use std::time::{Duration, Instant};

use futures_core::Stream as _;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::{
    CAPTURE_INTERFACE, CAPTURE_NAME, CAPTURE_PATH, Dict, MAGIC_PACKET, PacketDetails,
};
use wakevirt_service::bus::Error;
use wakevirt_service::logs::{Quota, quoted};
use zbus::fdo::NameOwnerChanged;
use zbus::message::{Header, Type};
use zbus::names::OwnedUniqueName;
use zbus::{Connection, MatchRule, Message, MessageStream};

use crate::merge::{Merge, Position, Step};
use crate::refusal::reason;

/// The name of the bus itself, and of its interface.
const BUS: &str = "org.freedesktop.DBus";

/// How long there may be no announcer before that is worth a warning: where both services start, or the
/// announcer restarts, it is there in a moment.
const ALONE: Duration = Duration::from_secs(5);

/// A magic packet that the announcer has announced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// The MAC address that it asks to wake.
    pub mac: MacAddr,
    /// Its number within the announcer's epoch.
    pub sequence: u64,
    /// What else is known of it.
    pub details: PacketDetails,
}

/// Lines that somebody on the bus or the network can cause: a few a minute.
const fn quota() -> Quota {
    Quota::new(3, Duration::from_secs(60))
}

/// Hears until the connection is lost: `packets` gets every packet that `merge` does not know yet,
/// `owner` the announcer's name. `caught_up` becomes true when what the announcer remembers has been
/// heard, or when there is no announcer.
///
/// It never waits for either, because what is not read from the bus holds up the whole connection.
///
/// # Errors
/// When the connection is lost, or the bus refuses to tell.
pub async fn listen(
    connection: &Connection,
    packets: &mpsc::Sender<Packet>,
    owner: &watch::Sender<Option<OwnedUniqueName>>,
    caught_up: &watch::Sender<bool>,
    merge: &RefCell<Merge>,
) -> Result<(), Error> {
    // The stream takes everything that comes from now on.
    let mut stream = MessageStream::from(connection);
    let mut ear = Ear::subscribe(connection).await?;
    let (mut forged, mut overflown) = (quota(), quota());
    let mut warn_at = None;
    loop {
        let next = poll_fn(|context| Pin::new(&mut stream).poll_next(context));
        let next = tokio::select! {
            next = next => next,
            () = until(warn_at) => {
                warn_at = None;
                tracing::warn!(
                    "nobody announces magic packets: {CAPTURE_NAME} is not on the bus; start wakevirt-capture.service"
                );
                continue;
            }
        };
        let message = next.ok_or(Error::Closed)??;
        let (taken, replay) = match ear.hear(&message)? {
            Heard::Packet(packet) => match merge.borrow_mut().announced(packet) {
                Step::Take(packet) => (vec![packet], false),
                Step::Replay => (Vec::new(), true),
                Step::Nothing => (Vec::new(), false),
            },
            Heard::Replayed(replayed) => (merge.borrow_mut().replayed(replayed), false),
            Heard::Owner(name) => {
                warn_at = name.is_none().then(|| tokio::time::Instant::now() + ALONE);
                if let Some(name) = &name {
                    tracing::info!("hearing the announcer, {CAPTURE_NAME} ({name})");
                }
                let replay = name.is_some();
                owner.send_replace(name);
                // The old one does not answer any more.
                (merge.borrow_mut().replayed(Vec::new()), replay)
            }
            Heard::Forged(sender) => {
                if let Some(more) = forged.take(Instant::now()) {
                    tracing::warn!(
                        sender = %quoted(&sender), held_back = more,
                        "ignored a magic packet that does not come from the owner of {CAPTURE_NAME}"
                    );
                }
                continue;
            }
            Heard::Nothing => continue,
        };
        for packet in taken {
            match packets.try_send(packet) {
                Ok(()) => {}
                Err(TrySendError::Full(packet)) => {
                    if let Some(more) = overflown.take(Instant::now()) {
                        let mac = packet.mac;
                        tracing::warn!(%mac, held_back = more, "too many magic packets at once: one is lost");
                    }
                }
                Err(TrySendError::Closed(_)) => return Ok(()),
            }
        }
        if replay {
            let after = merge.borrow_mut().ask().clone();
            ear.ask_for_replay(connection, &after).await?;
        } else if ear.replay.is_none() {
            caught_up.send_replace(true);
        }
    }
}

/// Waits until then, or for ever.
async fn until(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => core::future::pending().await,
    }
}

/// What is believed: who the announcer is.
struct Ear {
    /// `None` until the bus has answered.
    owner: Option<Option<OwnedUniqueName>>,
    question: NonZeroU32,
    subscriptions: [NonZeroU32; 2],
    /// The call for a replay that was not answered yet.
    replay: Option<NonZeroU32>,
}

/// What a message is.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// A packet from the announcer.
    Packet(Packet),
    /// The announcer is this connection from now on.
    Owner(Option<OwnedUniqueName>),
    /// What the announcer remembers; nothing if it does not tell.
    Replayed(Vec<Packet>),
    /// A packet from somebody else, of this name.
    Forged(String),
    /// Nothing that is of interest here.
    Nothing,
}

impl Ear {
    /// Asks the bus for the packets, then for changes of the owner, then for the owner. The answers
    /// come through the stream, as everything does.
    async fn subscribe(connection: &Connection) -> Result<Self, Error> {
        let packets = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(CAPTURE_NAME)
            .path(CAPTURE_PATH)
            .interface(CAPTURE_INTERFACE)
            .member(MAGIC_PACKET)
            .build()?;
        let owners = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(BUS)
            .interface(BUS)
            .member("NameOwnerChanged")
            .arg(0, CAPTURE_NAME)
            .build()?;
        let calls = [
            call("AddMatch", &packets.to_string())?,
            call("AddMatch", &owners.to_string())?,
            call("GetNameOwner", CAPTURE_NAME)?,
        ];
        let [packets, owners, question] = calls.each_ref().map(|call| call.primary_header().serial_num());
        connection.send_all(&calls).await?;
        Ok(Self { owner: None, question, subscriptions: [packets, owners], replay: None })
    }

    /// Asks the announcer for what it remembers after this. The answer comes through the stream.
    async fn ask_for_replay(&mut self, connection: &Connection, after: &Position) -> Result<(), Error> {
        let Some(Some(owner)) = &self.owner else { return Ok(()) };
        let call = Message::method_call(CAPTURE_PATH, "Replay")
            .destination(owner)
            .interface(CAPTURE_INTERFACE)
            .build(&(&after.epoch, after.sequence))?;
        self.replay = Some(call.primary_header().serial_num());
        Ok(connection.send(&call).await?)
    }

    fn hear(&mut self, message: &Message) -> Result<Heard, Error> {
        let header = message.header();
        match message.message_type() {
            Type::Signal if is_packet(&header) => Ok(self.packet(message, &header)),
            Type::Signal => Ok(self.owner_changed(message)),
            Type::MethodReturn if header.reply_serial() == Some(self.question) => {
                Ok(self.owner_is(Some(message.body().deserialize()?)))
            }
            // Nobody owns it: the only reason for which the bus does not answer.
            Type::Error if header.reply_serial() == Some(self.question) => Ok(self.owner_is(None)),
            Type::MethodReturn | Type::Error
                if self.replay.is_some() && header.reply_serial() == self.replay =>
            {
                self.replay = None;
                Ok(Heard::Replayed(replayed(message)))
            }
            Type::Error if header.reply_serial().is_some_and(|it| self.subscriptions.contains(&it)) => {
                Err(zbus::Error::from(message.clone()).into())
            }
            _ => Ok(Heard::Nothing),
        }
    }

    fn packet(&self, message: &Message, header: &Header<'_>) -> Heard {
        let Some(sender) = header.sender() else { return Heard::Nothing };
        match &self.owner {
            // Before the bus has answered: nobody is believed yet.
            None => Heard::Nothing,
            Some(Some(owner)) if owner == sender => packet(message).map_or(Heard::Nothing, Heard::Packet),
            Some(_) => Heard::Forged(sender.to_string()),
        }
    }

    fn owner_changed(&mut self, message: &Message) -> Heard {
        // Nobody but the bus can send under its name.
        let from_bus = message.header().sender().is_some_and(|sender| sender == BUS);
        let Some(signal) = from_bus.then(|| NameOwnerChanged::from_message(message.clone())).flatten() else {
            return Heard::Nothing;
        };
        match signal.args() {
            Ok(change) if change.name() == CAPTURE_NAME => {
                let owner = change.new_owner().as_ref().map(|name| name.to_owned().into());
                self.owner_is(owner)
            }
            _ => Heard::Nothing,
        }
    }

    fn owner_is(&mut self, owner: Option<OwnedUniqueName>) -> Heard {
        self.owner = Some(owner.clone());
        self.replay = None;
        Heard::Owner(owner)
    }
}

/// A call to the bus itself.
fn call(member: &str, argument: &str) -> Result<Message, zbus::Error> {
    Message::method_call("/org/freedesktop/DBus", member).destination(BUS).interface(BUS).build(&argument)
}

fn is_packet(header: &Header<'_>) -> bool {
    header.interface().is_some_and(|interface| interface == CAPTURE_INTERFACE)
        && header.member().is_some_and(|member| member == MAGIC_PACKET)
        && header.path().is_some_and(|path| path == CAPTURE_PATH)
}

/// The packet in the announcer's signal. One that cannot be read is from another version of it.
fn packet(message: &Message) -> Option<Packet> {
    let body = message.body();
    let read = body.deserialize::<(u64, String, Dict)>();
    let read = read.inspect_err(|error| tracing::debug!("a signal of the announcer cannot be read: {error}"));
    Packet::new(read.ok()?)
}

/// The packets that the announcer remembers, in its answer.
fn replayed(message: &Message) -> Vec<Packet> {
    let body = message.body();
    let answer = match message.message_type() {
        Type::Error => Err(zbus::Error::from(message.clone())),
        _ => body.deserialize::<(String, bool, Vec<(u64, String, Dict)>)>(),
    };
    match answer {
        Ok((_, lost, packets)) => {
            if lost {
                tracing::warn!("the announcer has forgotten magic packets that were not heard here");
            }
            packets.into_iter().filter_map(Packet::new).collect()
        }
        Err(error) => {
            tracing::warn!(
                "magic packets that came while nobody listened here wake nothing: {}",
                reason("Replay", &error.into())
            );
            Vec::new()
        }
    }
}

impl Packet {
    fn new((sequence, mac, details): (u64, String, Dict)) -> Option<Self> {
        Some(Self { mac: mac.parse().ok()?, sequence, details: PacketDetails::from(&details) })
    }
}

#[cfg(test)]
mod tests;
