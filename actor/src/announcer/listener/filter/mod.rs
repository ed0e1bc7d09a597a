//! Selects the messages to handle: packets from the owner of the announcer's name, changes of ownership, and replies
//! to the actor's own calls.

use core::num::NonZeroU32;

use wakevirt_protocol::bus::{CAPTURE_INTERFACE, CAPTURE_NAME, CAPTURE_PATH, Dict, MAGIC_PACKET};
use wakevirt_service::bus::BusError;
use wakevirt_service::logs::kind;
use zbus::fdo::NameOwnerChanged;
use zbus::message::{Header, Type};
use zbus::names::OwnedUniqueName;
use zbus::{Connection, MatchRule, Message};

use crate::announcer::call_error::describe;
use crate::announcer::merge::Page;
use crate::model::Packet;

/// The name of the bus itself, and of its interface.
const BUS: &str = "org.freedesktop.DBus";

/// Classifies messages by their sender, and tracks the owner of the announcer's name.
pub(super) struct MessageFilter {
    /// The announcer's connection, if there is an announcer. The outer option is `None` until the bus has replied to
    /// `GetNameOwner`.
    owner: Option<Option<OwnedUniqueName>>,
    /// The serial of the call to `GetNameOwner`.
    owner_call: NonZeroU32,
    /// The serials of the calls to `AddMatch`.
    match_calls: [NonZeroU32; 2],
    /// The serial of the pending call to `Replay`.
    replay_call: Option<NonZeroU32>,
}

/// A classified message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// A packet from the announcer.
    Packet(Packet),
    /// The announcer's connection from now on.
    Owner(Option<OwnedUniqueName>),
    /// The reply to `Replay`.
    Replay(ReplayReply),
    /// A packet from this sender, which is not the announcer.
    Forged(String),
    /// A message to ignore.
    Other,
}

/// The reply to `Replay`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReplayReply {
    /// A page of stored packets.
    Page(Page),
    /// The announcer is busy; retry later.
    Busy,
    /// The call failed; do not retry.
    Failed,
}

impl MessageFilter {
    /// Subscribes to packets, then to changes of ownership, and then queries the owner. The replies arrive in the
    /// connection's message stream.
    pub(super) async fn subscribe(connection: &Connection) -> Result<Self, BusError> {
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
            bus_call("AddMatch", &packets.to_string())?,
            bus_call("AddMatch", &owners.to_string())?,
            bus_call("GetNameOwner", CAPTURE_NAME)?,
        ];
        let [packets, owners, owner_call] = calls.each_ref().map(|call| call.primary_header().serial_num());
        connection.send_all(&calls).await?;
        Ok(Self { owner: None, owner_call, match_calls: [packets, owners], replay_call: None })
    }

    /// Calls `Replay` for the packets after this position, if there is an announcer. The reply arrives in the
    /// connection's message stream. Returns whether the call was sent.
    pub(super) async fn request_replay(
        &mut self,
        connection: &Connection,
        (epoch, after): (&str, u64),
    ) -> Result<bool, BusError> {
        let Some(Some(owner)) = &self.owner else { return Ok(false) };
        let call = Message::method_call(CAPTURE_PATH, "Replay")
            .destination(owner)
            .interface(CAPTURE_INTERFACE)
            .build(&(epoch, after))?;
        self.replay_call = Some(call.primary_header().serial_num());
        connection.send(&call).await?;
        Ok(true)
    }

    /// Records that `Replay` was called with this serial.
    #[cfg(test)]
    pub(super) const fn expect_replay(&mut self, call: NonZeroU32) {
        self.replay_call = Some(call);
    }

    /// Ignores the reply to the pending call to `Replay`.
    pub(super) const fn abandon_replay(&mut self) {
        self.replay_call = None;
    }

    /// Classifies a message, and tracks the owner of the announcer's name.
    ///
    /// # Errors
    /// If the bus rejected the subscription.
    pub(super) fn classify(&mut self, message: &Message) -> Result<Incoming, BusError> {
        let header = message.header();
        match message.message_type() {
            Type::Signal if is_packet(&header) => Ok(self.packet(message, &header)),
            Type::Signal => Ok(self.owner_changed(message)),
            Type::MethodReturn if header.reply_serial() == Some(self.owner_call) => {
                Ok(self.set_owner(Some(message.body().deserialize()?)))
            }
            // `GetNameOwner` returns an error only if the name has no owner.
            Type::Error if header.reply_serial() == Some(self.owner_call) => Ok(self.set_owner(None)),
            Type::MethodReturn | Type::Error
                if self.replay_call.is_some() && header.reply_serial() == self.replay_call =>
            {
                self.replay_call = None;
                Ok(Incoming::Replay(parse_replay(message)))
            }
            Type::Error if header.reply_serial().is_some_and(|it| self.match_calls.contains(&it)) => {
                Err(zbus::Error::from(message.clone()).into())
            }
            _ => Ok(Incoming::Other),
        }
    }

    fn packet(&self, message: &Message, header: &Header<'_>) -> Incoming {
        let Some(sender) = header.sender() else { return Incoming::Other };
        match &self.owner {
            // No packet is accepted until the owner is known.
            None => Incoming::Other,
            Some(Some(owner)) if owner == sender => {
                parse_packet(message).map_or(Incoming::Other, Incoming::Packet)
            }
            Some(_) => Incoming::Forged(sender.to_string()),
        }
    }

    fn owner_changed(&mut self, message: &Message) -> Incoming {
        // The bus sets the sender of each message: no other connection can claim to be the bus.
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
        self.replay_call = None;
        Incoming::Owner(owner)
    }
}

/// A call to this method of the bus.
fn bus_call(member: &str, argument: &str) -> Result<Message, zbus::Error> {
    Message::method_call("/org/freedesktop/DBus", member).destination(BUS).interface(BUS).build(&argument)
}

fn is_packet(header: &Header<'_>) -> bool {
    header.interface().is_some_and(|interface| interface == CAPTURE_INTERFACE)
        && header.member().is_some_and(|member| member == MAGIC_PACKET)
        && header.path().is_some_and(|path| path == CAPTURE_PATH)
}

/// The packet in a `MagicPacket` signal; `None` if its body is invalid, for example because it is from a different
/// version of capture.
fn parse_packet(message: &Message) -> Option<Packet> {
    let body = message.body();
    let parsed = body.deserialize::<(u64, String, Dict)>();
    let parsed =
        parsed.inspect_err(|error| tracing::debug!("ignored an invalid MagicPacket signal: {error}"));
    Packet::new(parsed.ok()?)
}

fn parse_replay(message: &Message) -> ReplayReply {
    let body = message.body();
    let reply = match message.message_type() {
        Type::Error => Err(zbus::Error::from(message.clone())),
        _ => body.deserialize::<(String, bool, bool, Vec<(u64, String, Dict)>)>(),
    };
    match reply {
        Ok((epoch, _, more, packets)) => {
            let packets = packets.into_iter().filter_map(Packet::new).collect();
            ReplayReply::Page(Page { epoch, more, packets })
        }
        Err(zbus::Error::FDO(error)) if matches!(*error, zbus::fdo::Error::LimitsExceeded(_)) => {
            ReplayReply::Busy
        }
        Err(error) => {
            tracing::warn!(
                MESSAGE_ID = kind::REPLAY_FAILED,
                "cannot request a replay of missed magic packets: {}; these packets do not wake a domain",
                describe("Replay", &error.into())
            );
            ReplayReply::Failed
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
