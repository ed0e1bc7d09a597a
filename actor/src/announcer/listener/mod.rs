//! Hearing the announcer: packets, in the order of the bus, and those that were missed.
//!
//! The bus lets anybody send a signal of any name. A packet counts only if its sender is the
//! connection that owns `org.wakevirt.Capture1` at that moment, and only the announcer's user may own
//! that name. Signals, changes of the owner and the answer to the question who owns it now are read
//! from one stream, in the order in which the bus sent them: there is no moment at which an old owner
//! is believed, or a new one is not. What was missed is asked for page by page, each when there is room
//! for it; what is announced meanwhile does not wait.

mod filter;

use core::future::poll_fn;
use core::pin::Pin;
use std::time::Duration;

use futures_core::Stream as _;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, PermitIterator};
use tokio::sync::watch;
use tokio::time::Instant;
use wakevirt_protocol::bus::{CAPTURE_NAME, REPLAY_PAGE};
use wakevirt_service::bus::Error;
use wakevirt_service::lifecycle::{self, Warning};
use wakevirt_service::logs::{Quota, quoted};
use zbus::names::OwnedUniqueName;
use zbus::{Connection, Message, MessageStream};

use crate::announcer::LostPackets;
use crate::announcer::merge::{Merge, NewPacket, Page};
use crate::model::Packet;
use filter::{Incoming, ReplayReply, Subscription};

/// How long there may be no announcer before that is worth a warning: where both services start, or the
/// announcer restarts, it is there in a moment.
const MISSING_WARNING: Duration = Duration::from_secs(5);
/// How long the announcer may take to tell what it remembers.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(10);
/// When it is asked again, if it has not.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// When it is asked again, if it was busy.
const BUSY_INTERVAL: Duration = Duration::from_secs(1);

/// Where packets go, and what is told about the announcer.
#[derive(Debug)]
pub(super) struct Outlets<'a> {
    /// Every packet that was not known yet.
    pub packets: &'a mpsc::Sender<NewPacket>,
    /// The announcer's name.
    pub owner: &'a watch::Sender<Option<OwnedUniqueName>>,
    /// Becomes true when what the announcer remembers has been heard, or nobody tells it.
    pub caught_up: &'a watch::Sender<bool>,
    /// Packets that the announcer has forgotten.
    pub lost: LostPackets,
}

/// Hears until the connection is lost.
///
/// It never waits for room, because what is not read from the bus holds up the whole connection: a packet
/// for which there is none is left to a replay.
///
/// # Errors
/// When the connection is lost, or the bus refuses to tell.
pub(super) async fn listen(
    connection: &Connection,
    outlets: Outlets<'_>,
    merge: &mut Merge,
) -> Result<(), Error> {
    // The stream takes everything that comes from now on.
    let mut stream = MessageStream::from(connection);
    let subscription = Subscription::subscribe(connection).await?;
    let mut listener = Listener::new(subscription, outlets, merge);
    loop {
        let next = poll_fn(|context| Pin::new(&mut stream).poll_next(context));
        let packets = listener.outlets.packets;
        tokio::select! {
            next = next => {
                let message = next.ok_or(Error::Closed)??;
                listener.handle(&message)?;
            }
            room = packets.reserve_many(REPLAY_PAGE), if matches!(listener.replay, Replay::Due) => {
                // Without a receiver the service is about to end.
                let Ok(room) = room else { return Ok(()) };
                listener.ask(connection, room).await?;
            }
            () = until(listener.warn_at) => listener.warn_missing_announcer(),
            () = until(listener.replay.time()) => listener.replay_timed_out(),
        }
    }
}

/// Waits until then, or for ever.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => core::future::pending().await,
    }
}

/// How far a replay is.
#[derive(Debug)]
enum Replay<'a> {
    /// None is needed.
    Idle,
    /// To be asked for at this time.
    Later(Instant),
    /// To be asked for when there is room for the answer.
    Due,
    /// Asked for; there is room for the answer, which is to come until then.
    Asked(PermitIterator<'a, NewPacket>, Instant),
}

impl Replay<'_> {
    const fn time(&self) -> Option<Instant> {
        match self {
            Self::Later(time) | Self::Asked(_, time) => Some(*time),
            Self::Idle | Self::Due => None,
        }
    }
}

/// What hears.
struct Listener<'a> {
    subscription: Subscription,
    outlets: Outlets<'a>,
    merge: &'a mut Merge,
    replay: Replay<'a>,
    /// When to warn that there is no announcer.
    warn_at: Option<Instant>,
    forged: Quota,
    left: Quota,
    lost: Quota,
}

/// Lines that somebody on the bus or the network can cause: a few a minute.
const fn quota() -> Quota {
    Quota::per_minute(3)
}

impl<'a> Listener<'a> {
    const fn new(subscription: Subscription, outlets: Outlets<'a>, merge: &'a mut Merge) -> Self {
        let (forged, left, lost) = (quota(), quota(), quota());
        Self { subscription, outlets, merge, replay: Replay::Idle, warn_at: None, forged, left, lost }
    }

    fn handle(&mut self, message: &Message) -> Result<(), Error> {
        match self.subscription.handle(message)? {
            Incoming::Packet(packet) => self.packet(packet),
            Incoming::Replay(answer) => self.answer(answer),
            Incoming::Owner(name) => self.owner(name),
            Incoming::Forged(sender) => self.warn_forged(&sender),
            Incoming::Other => {}
        }
        Ok(())
    }

    /// A packet was announced: it goes on at once, if there is room.
    fn packet(&mut self, packet: Packet) {
        let mac = packet.mac;
        match self.outlets.packets.try_reserve() {
            Ok(room) => {
                if let Some(taken) = self.merge.announced(packet, true) {
                    room.send(taken);
                }
            }
            Err(TrySendError::Full(())) => {
                self.merge.announced(packet, false);
                if let Some(held_back) = self.left.take(Instant::now().into_std()) {
                    tracing::warn!(%mac, held_back, "too many magic packets at once: one is asked for again later");
                }
            }
            // The service is about to end.
            Err(TrySendError::Closed(())) => {}
        }
        self.report_losses();
        self.fill_gaps();
    }

    /// Has what was missed replayed, unless that is under way.
    fn fill_gaps(&mut self) {
        if matches!(self.replay, Replay::Idle) && self.merge.has_gaps() {
            self.replay = Replay::Due;
        }
    }

    /// Asks for what was missed; there is room for the answer.
    async fn ask(
        &mut self,
        connection: &Connection,
        room: PermitIterator<'a, NewPacket>,
    ) -> Result<(), Error> {
        let position = self.merge.ask();
        let is_asked = self.subscription.ask_for_replay(connection, position).await?;
        let end = Instant::now() + REPLAY_TIMEOUT;
        self.replay = if is_asked { Replay::Asked(room, end) } else { Replay::Idle };
        Ok(())
    }

    fn answer(&mut self, answer: ReplayReply) {
        let Replay::Asked(room, _) = core::mem::replace(&mut self.replay, Replay::Idle) else { return };
        match answer {
            ReplayReply::Page(page) => self.page(page, room),
            ReplayReply::Busy => self.replay = Replay::Later(Instant::now() + BUSY_INTERVAL),
            ReplayReply::Refused => self.merge.refused(),
        }
        self.report_losses();
        self.fill_gaps();
        if matches!(self.replay, Replay::Idle) {
            self.outlets.caught_up.send_replace(true);
        }
    }

    fn page(&mut self, page: Page, room: PermitIterator<'a, NewPacket>) {
        let more = page.more && !page.packets.is_empty();
        let taken = self.merge.replayed(page, room.len());
        for (taken, room) in taken.into_iter().zip(room) {
            room.send(taken);
        }
        if more {
            self.replay = Replay::Due;
        }
    }

    /// There is another announcer, or none.
    fn owner(&mut self, name: Option<OwnedUniqueName>) {
        self.warn_at = name.is_none().then(|| Instant::now() + MISSING_WARNING);
        self.replay = match &name {
            // What it remembers is not known yet.
            Some(name) => {
                lifecycle::clear_warning(Warning::Capture);
                tracing::info!("hearing the announcer, {CAPTURE_NAME} ({name})");
                Replay::Due
            }
            None => {
                self.outlets.caught_up.send_replace(true);
                Replay::Idle
            }
        };
        self.outlets.owner.send_replace(name);
    }

    /// The time has come to ask, or nobody has answered.
    fn replay_timed_out(&mut self) {
        self.replay = match self.replay {
            Replay::Asked(..) => {
                self.subscription.abandon_replay();
                tracing::warn!(
                    "the announcer does not answer Replay within {} s; it is asked again in {} s, and until then what \
                     came while nobody listened here wakes nothing",
                    REPLAY_TIMEOUT.as_secs(),
                    RETRY_INTERVAL.as_secs()
                );
                self.outlets.caught_up.send_replace(true);
                Replay::Later(Instant::now() + RETRY_INTERVAL)
            }
            _ => Replay::Due,
        };
    }

    fn warn_missing_announcer(&mut self) {
        self.warn_at = None;
        lifecycle::set_warning(
            Warning::Capture,
            "no packet wakes anything: wakevirt-capture.service does not run",
        );
        tracing::warn!(
            "nobody announces magic packets: {CAPTURE_NAME} is not on the bus; start wakevirt-capture.service"
        );
    }

    fn warn_forged(&mut self, sender: &str) {
        if let Some(held_back) = self.forged.take(Instant::now().into_std()) {
            tracing::warn!(
                sender = %quoted(sender), held_back,
                "ignored a magic packet that does not come from the owner of {CAPTURE_NAME}"
            );
        }
    }

    /// Counts what nobody remembers any more.
    fn report_losses(&mut self) {
        let lost = self.merge.lost();
        if lost == 0 {
            return;
        }
        self.outlets.lost.add(lost);
        if let Some(held_back) = self.lost.take(Instant::now().into_std()) {
            tracing::warn!(
                held_back,
                "the announcer has forgotten {lost} magic packets that were not heard here"
            );
        }
    }
}

#[cfg(test)]
mod tests;
