//! Which messages on the bus are believed, and what they say.

use core::num::NonZeroU32;

use wakevirt_protocol::bus::{CAPTURE_INTERFACE, CAPTURE_NAME, CAPTURE_PATH, Dict, MAGIC_PACKET};
use wakevirt_service::bus::Error;
use zbus::fdo::NameOwnerChanged;
use zbus::message::{Header, Type};
use zbus::names::OwnedUniqueName;
use zbus::{Connection, MatchRule, Message};

use crate::announcer::call_error::reason;
use crate::announcer::merge::Page;
use crate::model::Packet;

/// The name of the bus itself, and of its interface.
const BUS: &str = "org.freedesktop.DBus";

/// What is believed: who the announcer is.
pub(super) struct Subscription {
    /// `None` until the bus has answered.
    owner: Option<Option<OwnedUniqueName>>,
    question: NonZeroU32,
    subscriptions: [NonZeroU32; 2],
    /// The call for a replay that was not answered yet.
    replay: Option<NonZeroU32>,
}

/// What a message is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// A packet from the announcer.
    Packet(Packet),
    /// The announcer is this connection from now on.
    Owner(Option<OwnedUniqueName>),
    /// The answer to the question what the announcer remembers.
    Replay(ReplayReply),
    /// A packet from somebody else, of this name.
    Forged(String),
    /// Nothing that is of interest here.
    Other,
}

/// What the announcer remembers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReplayReply {
    /// This, or a part of it.
    Page(Page),
    /// It is to be asked again.
    Busy,
    /// It does not tell.
    Refused,
}

impl Subscription {
    /// Asks the bus for the packets, then for changes of the owner, then for the owner. The answers
    /// come through the stream, as everything does.
    pub(super) async fn subscribe(connection: &Connection) -> Result<Self, Error> {
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

    /// Asks the announcer for what it remembers after this. The answer comes through the stream. Returns
    /// whether there is an announcer.
    pub(super) async fn ask_for_replay(
        &mut self,
        connection: &Connection,
        (epoch, after): (&str, u64),
    ) -> Result<bool, Error> {
        let Some(Some(owner)) = &self.owner else { return Ok(false) };
        let call = Message::method_call(CAPTURE_PATH, "Replay")
            .destination(owner)
            .interface(CAPTURE_INTERFACE)
            .build(&(epoch, after))?;
        self.replay = Some(call.primary_header().serial_num());
        connection.send(&call).await?;
        Ok(true)
    }

    /// Has asked by this call.
    #[cfg(test)]
    pub(super) const fn expect_replay(&mut self, call: NonZeroU32) {
        self.replay = Some(call);
    }

    /// Does not wait for the answer any more.
    pub(super) const fn abandon_replay(&mut self) {
        self.replay = None;
    }

    pub(super) fn handle(&mut self, message: &Message) -> Result<Incoming, Error> {
        let header = message.header();
        match message.message_type() {
            Type::Signal if is_packet(&header) => Ok(self.packet(message, &header)),
            Type::Signal => Ok(self.owner_changed(message)),
            Type::MethodReturn if header.reply_serial() == Some(self.question) => {
                Ok(self.set_owner(Some(message.body().deserialize()?)))
            }
            // Nobody owns it: the only reason for which the bus does not answer.
            Type::Error if header.reply_serial() == Some(self.question) => Ok(self.set_owner(None)),
            Type::MethodReturn | Type::Error
                if self.replay.is_some() && header.reply_serial() == self.replay =>
            {
                self.replay = None;
                Ok(Incoming::Replay(replayed(message)))
            }
            Type::Error if header.reply_serial().is_some_and(|it| self.subscriptions.contains(&it)) => {
                Err(zbus::Error::from(message.clone()).into())
            }
            _ => Ok(Incoming::Other),
        }
    }

    fn packet(&self, message: &Message, header: &Header<'_>) -> Incoming {
        let Some(sender) = header.sender() else { return Incoming::Other };
        match &self.owner {
            // Before the bus has answered: nobody is believed yet.
            None => Incoming::Other,
            Some(Some(owner)) if owner == sender => packet(message).map_or(Incoming::Other, Incoming::Packet),
            Some(_) => Incoming::Forged(sender.to_string()),
        }
    }

    fn owner_changed(&mut self, message: &Message) -> Incoming {
        // Nobody but the bus can send under its name.
        let from_bus = message.header().sender().is_some_and(|sender| sender == BUS);
        let Some(signal) = from_bus.then(|| NameOwnerChanged::from_message(message.clone())).flatten() else {
            return Incoming::Other;
        };
        match signal.args() {
            Ok(change) if change.name() == CAPTURE_NAME => {
                let owner = change.new_owner().as_ref().map(|name| name.to_owned().into());
                self.set_owner(owner)
            }
            _ => Incoming::Other,
        }
    }

    fn set_owner(&mut self, owner: Option<OwnedUniqueName>) -> Incoming {
        self.owner = Some(owner.clone());
        self.replay = None;
        Incoming::Owner(owner)
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
fn replayed(message: &Message) -> ReplayReply {
    let body = message.body();
    let answer = match message.message_type() {
        Type::Error => Err(zbus::Error::from(message.clone())),
        _ => body.deserialize::<(String, bool, bool, Vec<(u64, String, Dict)>)>(),
    };
    match answer {
        Ok((epoch, _, more, packets)) => {
            let packets = packets.into_iter().filter_map(Packet::new).collect();
            ReplayReply::Page(Page { epoch, more, packets })
        }
        Err(zbus::Error::FDO(error)) if matches!(*error, zbus::fdo::Error::LimitsExceeded(_)) => {
            ReplayReply::Busy
        }
        Err(error) => {
            tracing::warn!(
                "magic packets that came while nobody listened here wake nothing: {}",
                reason("Replay", &error.into())
            );
            ReplayReply::Refused
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
