//! Writes messages to the bus: signals and calls before replies. The total length of queued replies is limited.

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
use crate::bus::calls::{CallLimiter, Permit};

/// The maximum number of queued signals and calls. A task that sends more has to wait.
const MAX_URGENT: usize = 8;
/// The maximum number of queued replies and refusals: more than the number of permits and refusals that can exist at
/// once, so none is lost.
const MAX_REPLIES: usize = 4096;
/// The maximum total length of the queued replies, in bytes. A longer reply is queued only if no other reply is queued.
const MAX_REPLY_BYTES: usize = 256 * 1024;
/// A reply of up to this many bytes is always queued: the permits limit the number of such replies.
const SMALL_REPLY: usize = 4 * 1024;
/// The maximum total length of the queued refusals, in bytes. During a flood, some calls get no reply.
const MAX_REFUSAL_BYTES: usize = 32 * 1024;

/// A message that zbus built, or the bytes of a message.
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

/// A queued reply, and the permit of its call.
#[derive(Debug)]
struct Reply {
    bytes: Bytes,
    _permit: Option<Permit>,
    _reservation: Reservation,
}

/// Counts the bytes of a queued reply until the reservation goes out of scope.
#[derive(Debug)]
struct Reservation {
    queued_bytes: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.queued_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The sending end of the queue of replies.
#[derive(Debug, Clone)]
struct ReplyQueue {
    queue: mpsc::Sender<Reply>,
    queued_bytes: Arc<AtomicUsize>,
}

impl ReplyQueue {
    /// Reserves room for this many bytes, if the queue is empty or would have at most `max` bytes.
    fn try_reserve(&self, bytes: usize, max: usize) -> Option<Reservation> {
        let before = self.queued_bytes.load(Ordering::Relaxed);
        if before > 0 && before.saturating_add(bytes) > max {
            return None;
        }
        Some(self.reserve(bytes))
    }

    /// Reserves room for this many bytes without a limit.
    fn reserve(&self, bytes: usize) -> Reservation {
        self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        Reservation { queued_bytes: Arc::clone(&self.queued_bytes), bytes }
    }

    fn send(
        &self,
        bytes: Bytes,
        permit: Option<Permit>,
        reservation: Reservation,
    ) -> Result<(), zbus::Error> {
        let reply = Reply { bytes, _permit: permit, _reservation: reservation };
        self.queue.try_send(reply).map_err(|_| closed())
    }
}

/// Queues refusals. Their bytes count separately from those of replies.
#[derive(Debug, Clone)]
pub(super) struct Refusals(ReplyQueue);

impl Refusals {
    /// Queues a refusal, or drops it if too many are queued.
    pub(super) fn refuse(&self, sender: &str, serial: u32, reason: Reason) {
        let bytes = refusal(sender, serial, reason);
        if let Some(reservation) = self.0.try_reserve(bytes.len(), MAX_REFUSAL_BYTES) {
            // If the connection is lost, the refusal is also lost.
            let _ = self.0.send(Bytes::Raw(bytes), None, reservation);
        }
    }
}

/// The half of the connection that writes.
#[derive(Debug)]
pub(super) struct Writer {
    limiter: Option<CallLimiter>,
    urgent: mpsc::Sender<Message>,
    replies: ReplyQueue,
    /// Present until the first message: during the handshake, the writer uses the socket itself.
    task: Option<WriteTask>,
}

/// The task that writes messages after the handshake.
#[derive(Debug)]
struct WriteTask {
    stream: OwnedWriteHalf,
    urgent: mpsc::Receiver<Message>,
    replies: mpsc::Receiver<Reply>,
}

impl Writer {
    pub(super) fn new(stream: OwnedWriteHalf, limiter: Option<CallLimiter>) -> Self {
        let (urgent, urgent_receiver) = mpsc::channel(MAX_URGENT);
        let (queue, reply_receiver) = mpsc::channel(MAX_REPLIES);
        let replies = ReplyQueue { queue, queued_bytes: Arc::default() };
        let task = WriteTask { stream, urgent: urgent_receiver, replies: reply_receiver };
        Self { limiter, urgent, replies, task: Some(task) }
    }

    pub(super) fn refusals(&self) -> Refusals {
        Refusals(ReplyQueue { queue: self.replies.queue.clone(), queued_bytes: Arc::default() })
    }

    /// Queues a reply behind signals and calls. zbus does not wait until the reply is written.
    fn reply(&self, message: &Message) -> zbus::Result<()> {
        let header = message.header();
        let sender = header.destination().map(|name| name.as_str()).unwrap_or_default();
        let serial = header.reply_serial().map(core::num::NonZero::get).unwrap_or_default();
        let permit = self.limiter.as_ref().and_then(|limiter| limiter.take_permit(sender, serial));
        if permit.as_ref().is_some_and(|permit| !permit.wants_reply()) {
            return Ok(());
        }
        let bytes = message.data().len();
        let reservation = match permit {
            Some(_) if bytes <= SMALL_REPLY => Some(self.replies.reserve(bytes)),
            _ => self.replies.try_reserve(bytes, MAX_REPLY_BYTES),
        };
        if let Some(reservation) = reservation {
            return self.replies.send(Bytes::Message(message.clone()), permit, reservation);
        }
        let reason = Reason::limit("too many replies are queued; wait for them and try again");
        let bytes = refusal(sender, serial, reason);
        let reservation = self.replies.reserve(bytes.len());
        self.replies.send(Bytes::Raw(bytes), permit, reservation)
    }
}

fn closed() -> zbus::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "connection to the bus lost").into()
}

#[async_trait]
impl WriteHalf for Writer {
    async fn send_message(&mut self, message: &Message) -> zbus::Result<()> {
        if let Some(task) = self.task.take() {
            tokio::spawn(task.run());
        }
        match message.message_type() {
            Type::MethodReturn | Type::Error => self.reply(message),
            Type::MethodCall | Type::Signal => self.urgent.send(message.clone()).await.map_err(|_| closed()),
        }
    }

    /// Writes bytes of the handshake.
    async fn sendmsg(&mut self, bytes: &[u8], _descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
        match &mut self.task {
            Some(task) => write(&task.stream, bytes).await,
            None => Err(io::Error::other("the handshake is complete")),
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        // Without senders, the task ends and closes its half.
        (self.urgent, _) = mpsc::channel(1);
        Ok(())
    }
}

impl WriteTask {
    /// Writes queued messages until the connection is closed or lost.
    async fn run(mut self) {
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
    use crate::bus::CallLimits;
    use crate::bus::calls::Call;

    /// The reply to an admitted call, with a body of this length.
    fn reply(limiter: &CallLimiter, member: &'static str, length: usize) -> Message {
        let message = Message::method_call("/", member).sender(":1.1").build(&()).unwrap();
        let (serial, bytes) = (message.primary_header().serial_num().get(), message.data().len());
        let call = Call { sender: ":1.1", serial, member, bytes, wants_reply: true };
        assert!(limiter.admit(&call, Instant::now()));
        Message::method_return(&message.header()).build(&"x".repeat(length)).unwrap()
    }

    #[tokio::test]
    async fn queues_small_replies_and_refusals_behind_a_large_reply() {
        let limits = CallLimits {
            max_bytes: 1000,
            slow: &["Wake"],
            large: &["Page"],
            trusted_uids: Vec::new(),
            pause_for_lookup: false,
        };
        let limiter = CallLimiter::new(limits);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut writer = Writer::new(ours.into_split().1, Some(limiter.clone()));
        let refusals = writer.refusals();
        let replies = [
            reply(&limiter, "Page", MAX_REPLY_BYTES),
            reply(&limiter, "Wake", 10),
            reply(&limiter, "Page", SMALL_REPLY),
            reply(&limiter, "Wake", 11),
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
        assert_eq!(refused, 2, "the second page, and the refused call");
    }
}
