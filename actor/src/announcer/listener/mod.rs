//! Receives packets from the announcer, in the order in which the bus sends them, and requests missed packets.
//!
//! On the bus, any process can send a signal with any name. A packet is accepted only if its sender is the connection
//! that owns `org.wakevirt.Capture1` at that moment; the bus policy allows only the announcer's user to own that name.
//! Signals, changes of ownership, and the reply to the first owner query arrive in one stream, in the order in which
//! the bus sent them. A packet is therefore always compared with the owner at the time when the packet was sent. Missed
//! packets are requested page by page, each page when the queue has room for it. Missed packets do not delay announced
//! packets.

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
use wakevirt_service::bus::BusError;
use wakevirt_service::lifecycle::{self, Warning};
use wakevirt_service::logs::{Quota, kind};
use zbus::names::OwnedUniqueName;
use zbus::{Connection, Message, MessageStream};

use crate::announcer::lost_packets::LostPackets;
use crate::announcer::merge::{Merge, NewPacket, Page};
use crate::model::Packet;
use filter::{Incoming, MessageFilter, ReplayReply};

/// How long the announcer can be missing before a warning is logged. When both services start, or the announcer
/// restarts, the announcer appears sooner.
const MISSING_WARNING: Duration = Duration::from_secs(5);
/// The maximum time to wait for the reply to `Replay`.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(10);
/// The time until the next `Replay` after a timeout.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// The time until the next `Replay` if the announcer is busy.
const BUSY_INTERVAL: Duration = Duration::from_secs(1);

/// Where the listener sends packets and the state of the announcer.
#[derive(Debug)]
pub(super) struct Output<'a> {
    /// Receives each new packet.
    pub packets: &'a mpsc::Sender<NewPacket>,
    /// The announcer's unique name, if there is an announcer.
    pub owner: &'a watch::Sender<Option<OwnedUniqueName>>,
    /// Becomes true when the announcer's stored packets have been received, or cannot be received.
    pub caught_up: &'a watch::Sender<bool>,
    /// Counts packets that the announcer no longer stores.
    pub lost: LostPackets,
}

/// Receives packets until the connection is lost.
///
/// It never waits for room in the packet queue: while it does not read from the bus, the whole connection stalls. A
/// packet that does not fit is requested again with `Replay`.
///
/// # Errors
/// If the connection is lost, or the bus rejects the subscription.
pub(super) async fn listen(
    connection: &Connection,
    output: Output<'_>,
    merge: &mut Merge,
) -> Result<(), BusError> {
    // Created before the subscription, so that it contains all messages that follow.
    let mut stream = MessageStream::from(connection);
    let filter = MessageFilter::subscribe(connection).await?;
    let mut listener = PacketListener::new(filter, output, merge);
    loop {
        let next = poll_fn(|context| Pin::new(&mut stream).poll_next(context));
        let packets = listener.output.packets;
        tokio::select! {
            next = next => {
                let message = next.ok_or(BusError::Closed)??;
                listener.handle(&message)?;
            }
            permits = packets.reserve_many(REPLAY_PAGE), if matches!(listener.replay, Replay::Due) => {
                // The receiver is gone if the service is exiting.
                let Ok(permits) = permits else { return Ok(()) };
                listener.request_replay(connection, permits).await?;
            }
            () = until(listener.warn_at) => listener.warn_missing_announcer(),
            () = until(listener.replay.timer()) => listener.handle_replay_timer(),
        }
    }
}

/// Waits until this time, or forever.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => core::future::pending().await,
    }
}

/// The state of the replay.
#[derive(Debug)]
enum Replay<'a> {
    /// No replay is needed.
    Idle,
    /// Becomes due at this time.
    Later(Instant),
    /// Requested as soon as the queue has room for a page.
    Due,
    /// Requested, with permits for the packets in the reply, which must arrive before this time.
    Requested(PermitIterator<'a, NewPacket>, Instant),
}

impl Replay<'_> {
    const fn timer(&self) -> Option<Instant> {
        match self {
            Self::Later(time) | Self::Requested(_, time) => Some(*time),
            Self::Idle | Self::Due => None,
        }
    }
}

/// Handles the messages of one connection.
struct PacketListener<'a> {
    filter: MessageFilter,
    output: Output<'a>,
    merge: &'a mut Merge,
    replay: Replay<'a>,
    /// When to warn that there is no announcer.
    warn_at: Option<Instant>,
    forged_log: Quota,
    overflow_log: Quota,
    lost_log: Quota,
}

/// The limit for log lines that any process on the bus, or any host on the network, can cause.
const fn quota() -> Quota {
    Quota::per_minute(3)
}

impl<'a> PacketListener<'a> {
    const fn new(filter: MessageFilter, output: Output<'a>, merge: &'a mut Merge) -> Self {
        let (forged_log, overflow_log, lost_log) = (quota(), quota(), quota());
        Self {
            filter,
            output,
            merge,
            replay: Replay::Idle,
            warn_at: None,
            forged_log,
            overflow_log,
            lost_log,
        }
    }

    fn handle(&mut self, message: &Message) -> Result<(), BusError> {
        match self.filter.classify(message)? {
            Incoming::Packet(packet) => self.handle_packet(packet),
            Incoming::Replay(reply) => self.handle_replay(reply),
            Incoming::Owner(name) => self.handle_owner(name),
            Incoming::Forged(sender) => self.warn_forged(&sender),
            Incoming::Other => {}
        }
        Ok(())
    }

    /// Passes on an announced packet immediately if the queue has room. Otherwise, defers it to a replay.
    fn handle_packet(&mut self, packet: Packet) {
        let mac = packet.mac;
        match self.output.packets.try_reserve() {
            Ok(permit) => {
                if let Some(new) = self.merge.add_announced(packet, true) {
                    permit.send(new);
                }
            }
            Err(TrySendError::Full(())) => {
                self.merge.add_announced(packet, false);
                if let Some(suppressed) = self.overflow_log.take(Instant::now().into_std()) {
                    tracing::warn!(
                        MESSAGE_ID = kind::PACKET_QUEUE_FULL,
                        WAKEVIRT_MAC = %mac,
                        WAKEVIRT_SUPPRESSED = suppressed,
                        "the packet queue is full; this packet is requested again later"
                    );
                }
            }
            // The service is exiting.
            Err(TrySendError::Closed(())) => {}
        }
        self.report_losses();
        self.schedule_replay();
    }

    /// Requests missed packets, unless a replay is in progress.
    fn schedule_replay(&mut self) {
        if matches!(self.replay, Replay::Idle) && self.merge.has_gaps() {
            self.replay = Replay::Due;
        }
    }

    /// Calls `Replay` for the missed packets. The permits are for the packets in the reply.
    async fn request_replay(
        &mut self,
        connection: &Connection,
        permits: PermitIterator<'a, NewPacket>,
    ) -> Result<(), BusError> {
        let position = self.merge.start_replay();
        let is_requested = self.filter.request_replay(connection, position).await?;
        let deadline = Instant::now() + REPLAY_TIMEOUT;
        self.replay = if is_requested { Replay::Requested(permits, deadline) } else { Replay::Idle };
        Ok(())
    }

    fn handle_replay(&mut self, reply: ReplayReply) {
        let Replay::Requested(permits, _) = core::mem::replace(&mut self.replay, Replay::Idle) else {
            return;
        };
        match reply {
            ReplayReply::Page(page) => self.handle_page(page, permits),
            ReplayReply::Busy => self.replay = Replay::Later(Instant::now() + BUSY_INTERVAL),
            ReplayReply::Failed => self.merge.skip_gaps(),
        }
        self.report_losses();
        self.schedule_replay();
        if matches!(self.replay, Replay::Idle) {
            self.output.caught_up.send_replace(true);
        }
    }

    fn handle_page(&mut self, page: Page, permits: PermitIterator<'a, NewPacket>) {
        let more = page.more && !page.packets.is_empty();
        let new = self.merge.add_page(page, permits.len());
        for (new, permit) in new.into_iter().zip(permits) {
            permit.send(new);
        }
        if more {
            self.replay = Replay::Due;
        }
    }

    /// Handles a new announcer, or the exit of the previous one.
    fn handle_owner(&mut self, name: Option<OwnedUniqueName>) {
        self.warn_at = name.is_none().then(|| Instant::now() + MISSING_WARNING);
        self.replay = match &name {
            // The new announcer may store packets that were missed.
            Some(name) => {
                lifecycle::clear_warning(Warning::Capture);
                tracing::info!(
                    MESSAGE_ID = kind::ANNOUNCER_FOUND,
                    "receiving packets from the announcer, {CAPTURE_NAME} ({name})"
                );
                Replay::Due
            }
            None => {
                self.output.caught_up.send_replace(true);
                Replay::Idle
            }
        };
        self.output.owner.send_replace(name);
    }

    /// Handles a replay that is due, or a reply that did not arrive in time.
    fn handle_replay_timer(&mut self) {
        self.replay = match self.replay {
            Replay::Requested(..) => {
                self.filter.abandon_replay();
                tracing::warn!(
                    MESSAGE_ID = kind::REPLAY_FAILED,
                    "the announcer did not reply to Replay within {} s; retrying in {} s; until then, missed packets \
                     do not wake a domain",
                    REPLAY_TIMEOUT.as_secs(),
                    RETRY_INTERVAL.as_secs()
                );
                self.output.caught_up.send_replace(true);
                Replay::Later(Instant::now() + RETRY_INTERVAL)
            }
            _ => Replay::Due,
        };
    }

    fn warn_missing_announcer(&mut self) {
        self.warn_at = None;
        lifecycle::set_warning(
            Warning::Capture,
            "no packet can wake a domain: wakevirt-capture.service is not running",
        );
        tracing::warn!(
            MESSAGE_ID = kind::ANNOUNCER_MISSING,
            "capture is not running: {CAPTURE_NAME} is not on the bus; start wakevirt-capture.service"
        );
    }

    fn warn_forged(&mut self, sender: &str) {
        if let Some(suppressed) = self.forged_log.take(Instant::now().into_std()) {
            tracing::warn!(
                MESSAGE_ID = kind::PACKET_FORGED,
                WAKEVIRT_SENDER = sender,
                WAKEVIRT_SUPPRESSED = suppressed,
                "dropped a magic packet: the sender is not the owner of {CAPTURE_NAME}"
            );
        }
    }

    /// Counts and logs packets that can no longer be replayed.
    fn report_losses(&mut self) {
        let lost = self.merge.take_lost();
        if lost == 0 {
            return;
        }
        self.output.lost.add(lost);
        if let Some(suppressed) = self.lost_log.take(Instant::now().into_std()) {
            tracing::warn!(
                MESSAGE_ID = kind::PACKETS_MISSED,
                WAKEVIRT_LOST = lost,
                WAKEVIRT_SUPPRESSED = suppressed,
                "magic packets were missed, and the announcer no longer stores them: {lost}"
            );
        }
    }
}

#[cfg(test)]
mod tests;
