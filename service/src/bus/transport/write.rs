//! What goes to the bus: signals and calls first, replies behind them, as many bytes of them as are
//! allowed at once.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;
use zbus::Message;
use zbus::connection::socket::WriteHalf;
use zbus::export::async_trait::async_trait;
use zbus::message::Type;

use super::refusal::{Reason, refusal};
use crate::bus::calls::{Calls, Permit};

/// Signals and calls that may wait; who sends more waits with them.
const URGENT: usize = 8;
/// Replies and refusals that may wait.
const REPLIES: usize = 1024;
/// Their bytes. A longer reply goes by itself.
const REPLY_BYTES: usize = 256 * 1024;
/// How many of these are for refusals: whoever floods is not told each time.
const REFUSAL_BYTES: usize = 32 * 1024;

/// A message of ours, or one that was written by hand.
#[derive(Debug)]
enum Bytes {
    Message(Message),
    Raw(Vec<u8>),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Message(message) => message.data(),
            Self::Raw(bytes) => bytes,
        }
    }
}

/// A reply that waits, and the permit of its call.
#[derive(Debug)]
struct Reply {
    bytes: Bytes,
    _permit: Option<Permit>,
    _room: Room,
}

/// Room among the bytes that wait, until this is dropped.
#[derive(Debug)]
struct Room {
    waiting: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Where replies wait.
#[derive(Debug, Clone)]
struct Replies {
    queue: mpsc::Sender<Reply>,
    waiting: Arc<AtomicUsize>,
}

impl Replies {
    /// Room for so many bytes, if no more than `most` wait then, or none.
    fn room(&self, bytes: usize, most: usize) -> Option<Room> {
        let before = self.waiting.load(Ordering::Relaxed);
        if before > 0 && before.saturating_add(bytes) > most {
            return None;
        }
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
        Some(Room { waiting: Arc::clone(&self.waiting), bytes })
    }

    /// Lets a refusal wait, or drops it where too many do.
    fn refuse(&self, sender: &str, serial: u32, reason: Reason, permit: Option<Permit>, most: usize) {
        let bytes = refusal(sender, serial, reason);
        if let Some(room) = self.room(bytes.len(), most) {
            // A queue that is full or closed takes no refusal.
            let _ = self.queue.try_send(Reply { bytes: Bytes::Raw(bytes), _permit: permit, _room: room });
        }
    }
}

/// Where refusals are put.
#[derive(Debug, Clone)]
pub(super) struct Refusals(Replies);

impl Refusals {
    pub(super) fn refuse(&self, sender: &str, serial: u32, reason: Reason) {
        self.0.refuse(sender, serial, reason, None, REFUSAL_BYTES);
    }
}

/// The half that writes.
#[derive(Debug)]
pub(super) struct Writer {
    calls: Option<Calls>,
    urgent: mpsc::Sender<Message>,
    replies: Replies,
    handshake: Option<Handshake>,
}

/// What the task that writes begins with, once the handshake is over.
#[derive(Debug)]
struct Handshake {
    stream: OwnedWriteHalf,
    urgent: mpsc::Receiver<Message>,
    replies: mpsc::Receiver<Reply>,
}

impl Writer {
    pub(super) fn new(stream: OwnedWriteHalf, calls: Option<Calls>) -> Self {
        let (urgent, urgent_out) = mpsc::channel(URGENT);
        let (queue, replies_out) = mpsc::channel(REPLIES);
        let replies = Replies { queue, waiting: Arc::default() };
        let handshake = Handshake { stream, urgent: urgent_out, replies: replies_out };
        Self { calls, urgent, replies, handshake: Some(handshake) }
    }

    pub(super) fn refusals(&self) -> Refusals {
        Refusals(self.replies.clone())
    }

    /// A reply: it waits behind signals and calls, and zbus does not wait for it.
    fn reply(&self, message: &Message) -> zbus::Result<()> {
        let header = message.header();
        let sender = header.destination().map(|name| name.as_str()).unwrap_or_default();
        let serial = header.reply_serial().map(core::num::NonZero::get).unwrap_or_default();
        let permit = self.calls.as_ref().and_then(|calls| calls.close(sender, serial));
        if permit.as_ref().is_some_and(|permit| !permit.wants_reply()) {
            return Ok(());
        }
        match self.replies.room(message.data().len(), REPLY_BYTES) {
            Some(room) => {
                let bytes = Bytes::Message(message.clone());
                let reply = Reply { bytes, _permit: permit, _room: room };
                self.replies.queue.try_send(reply).map_err(|_| closed())
            }
            None => {
                let reason = Reason::limit("too many replies are waiting; wait for them and try again");
                self.replies.refuse(sender, serial, reason, permit, REPLY_BYTES + REFUSAL_BYTES);
                Ok(())
            }
        }
    }
}

fn closed() -> zbus::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the connection to the bus is lost").into()
}

#[async_trait]
impl WriteHalf for Writer {
    async fn send_message(&mut self, message: &Message) -> zbus::Result<()> {
        if let Some(handshake) = self.handshake.take() {
            tokio::spawn(handshake.write());
        }
        match message.message_type() {
            Type::MethodReturn | Type::Error => self.reply(message),
            Type::MethodCall | Type::Signal => self.urgent.send(message.clone()).await.map_err(|_| closed()),
        }
    }

    /// For the handshake.
    async fn sendmsg(&mut self, bytes: &[u8], _descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
        match &mut self.handshake {
            Some(handshake) => write(&handshake.stream, bytes).await,
            None => Err(io::Error::other("the handshake is over")),
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        // Without senders the task that writes ends, and closes its half.
        (self.urgent, _) = mpsc::channel(1);
        Ok(())
    }
}

impl Handshake {
    /// Writes what waits, until the connection is given up or lost.
    async fn write(mut self) {
        loop {
            let written = tokio::select! {
                biased;
                urgent = self.urgent.recv() => match urgent {
                    Some(message) => write_all(&self.stream, message.data()).await,
                    None => return,
                },
                Some(reply) = self.replies.recv() => write_all(&self.stream, reply.bytes.as_slice()).await,
            };
            if let Err(error) = written {
                tracing::debug!("cannot write to the bus: {error}");
                return;
            }
        }
    }
}

async fn write_all(stream: &OwnedWriteHalf, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = write(stream, bytes).await?;
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}

async fn write(stream: &OwnedWriteHalf, bytes: &[u8]) -> io::Result<usize> {
    loop {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => return written,
        }
    }
}
