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
/// Replies and refusals that may wait: more than there are permits and refusals at once, so that none is lost.
const REPLIES: usize = 4096;
/// Their bytes. A longer reply goes by itself.
const REPLY_BYTES: usize = 256 * 1024;
/// A reply of this length may always wait: the permits limit the number.
const SMALL: usize = 4 * 1024;
/// The bytes of refusals that may wait: whoever floods is not told each time.
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
        Some(self.take(bytes))
    }

    /// Room for so many bytes, however many wait.
    fn take(&self, bytes: usize) -> Room {
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
        Room { waiting: Arc::clone(&self.waiting), bytes }
    }

    fn put(&self, bytes: Bytes, permit: Option<Permit>, room: Room) -> Result<(), zbus::Error> {
        self.queue.try_send(Reply { bytes, _permit: permit, _room: room }).map_err(|_| closed())
    }
}

/// Where refusals are put. Their bytes are counted apart from those of replies.
#[derive(Debug, Clone)]
pub(super) struct Refusals(Replies);

impl Refusals {
    /// Lets a refusal wait, or drops it where too many do.
    pub(super) fn refuse(&self, sender: &str, serial: u32, reason: Reason) {
        let bytes = refusal(sender, serial, reason);
        if let Some(room) = self.0.room(bytes.len(), REFUSAL_BYTES) {
            // A connection that is lost takes no refusal.
            let _ = self.0.put(Bytes::Raw(bytes), None, room);
        }
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
        Refusals(Replies { queue: self.replies.queue.clone(), waiting: Arc::default() })
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
        let bytes = message.data().len();
        let room = match permit {
            Some(_) if bytes <= SMALL => Some(self.replies.take(bytes)),
            _ => self.replies.room(bytes, REPLY_BYTES),
        };
        if let Some(room) = room {
            return self.replies.put(Bytes::Message(message.clone()), permit, room);
        }
        let reason = Reason::limit("too many replies are waiting; wait for them and try again");
        let bytes = refusal(sender, serial, reason);
        let room = self.replies.take(bytes.len());
        self.replies.put(Bytes::Raw(bytes), permit, room)
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::net::UnixStream;

    use super::*;
    use crate::bus::Limits;
    use crate::bus::calls::Call;

    /// The reply to a call that was admitted, with a body of this length.
    fn reply(calls: &Calls, member: &'static str, length: usize) -> Message {
        let message = Message::method_call("/", member).sender(":1.1").build(&()).unwrap();
        let (serial, bytes) = (message.primary_header().serial_num().get(), message.data().len());
        let call = Call { sender: ":1.1", serial, member, bytes, wants_reply: true };
        assert!(calls.admit(&call, Instant::now()));
        Message::method_return(&message.header()).build(&"x".repeat(length)).unwrap()
    }

    #[tokio::test]
    async fn small_replies_and_refusals_have_room_beside_a_large_one() {
        let limits = Limits {
            longest: 1000,
            slow: &["Wake"],
            large: &["Page"],
            trusted: Vec::new(),
            holds_back: false,
        };
        let calls = Calls::new(limits);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut writer = Writer::new(ours.into_split().1, Some(calls.clone()));
        let refusals = writer.refusals();
        let replies = [
            reply(&calls, "Page", REPLY_BYTES),
            reply(&calls, "Wake", 10),
            reply(&calls, "Page", SMALL),
            reply(&calls, "Wake", 11),
        ];
        for reply in &replies {
            writer.send_message(reply).await.unwrap();
        }
        const LAST: Reason = Reason::limit("no");
        refusals.refuse(":1.1", 1, LAST);
        let mut bytes = Vec::new();
        while !bytes.ends_with(&refusal(":1.1", 1, LAST)) {
            theirs.readable().await.unwrap();
            let mut chunk = [0; 4096];
            match theirs.try_read(&mut chunk) {
                Ok(0) => panic!("the connection is closed"),
                Ok(count) => bytes.extend_from_slice(&chunk[..count]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        let has = |message: &Message| bytes.windows(message.data().len()).any(|it| it == &**message.data());
        assert_eq!(replies.each_ref().map(has), [true, true, false, true]);
        let refused = bytes.windows(14).filter(|it| it == b"LimitsExceeded").count();
        assert_eq!(refused, 2, "the second page and the call that was not admitted");
    }
}
