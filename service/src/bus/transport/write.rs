//! Writes messages to the bus: signals and calls before replies. The total length of queued replies is limited.
//!
//! A signal or call is written at once if nothing else is queued or being written. Each task that a signal passes
//! through would delay a wake.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Mutex, mpsc};
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
    urgent: mpsc::Sender<Bytes>,
    replies: ReplyQueue,
    /// `None` after [`WriteHalf::close`].
    socket: Option<Arc<Socket>>,
    /// Present until the first message: during the handshake, the writer uses the socket alone.
    task: Option<WriteTask>,
}

/// The socket, which the writer and its task share.
#[derive(Debug)]
struct Socket {
    half: Mutex<SocketHalf>,
    /// The number of signals and calls that are queued or being written.
    urgent: AtomicUsize,
}

#[derive(Debug)]
struct SocketHalf {
    stream: OwnedWriteHalf,
    /// The rest of a message whose beginning was written. It comes before any other message.
    rest: Vec<u8>,
}

impl Socket {
    /// Writes the message unless something else is queued or being written, or there is no room for any of it. If there
    /// is room only for its beginning, the task must write the rest.
    fn try_write(&self, bytes: &[u8]) -> Written {
        let Ok(mut half) = self.half.try_lock() else { return Written::Nothing };
        if !half.rest.is_empty() || self.urgent.load(Ordering::Acquire) > 0 {
            return Written::Nothing;
        }
        // If the connection is lost, the task notices it too.
        let written = half.stream.try_write(bytes).unwrap_or(0);
        match bytes.get(written..) {
            _ if written == 0 => Written::Nothing,
            None | Some([]) => Written::All,
            Some(rest) => {
                half.rest.extend_from_slice(rest);
                Written::Beginning
            }
        }
    }

    /// Writes the message, after the rest of an earlier one.
    async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut half = self.half.lock().await;
        let SocketHalf { stream, rest } = &mut *half;
        write_all(stream, rest).await?;
        *rest = Vec::new();
        write_all(stream, bytes).await
    }
}

/// How much of a message was written.
enum Written {
    All,
    Beginning,
    Nothing,
}

/// The task that writes messages after the handshake.
#[derive(Debug)]
struct WriteTask {
    socket: Arc<Socket>,
    urgent: mpsc::Receiver<Bytes>,
    replies: mpsc::Receiver<Reply>,
}

impl Writer {
    pub(super) fn new(stream: OwnedWriteHalf, limiter: Option<CallLimiter>) -> Self {
        let (urgent, urgent_receiver) = mpsc::channel(MAX_URGENT);
        let (queue, reply_receiver) = mpsc::channel(MAX_REPLIES);
        let replies = ReplyQueue { queue, queued_bytes: Arc::default() };
        let half = Mutex::new(SocketHalf { stream, rest: Vec::new() });
        let socket = Arc::new(Socket { half, urgent: AtomicUsize::new(0) });
        let task =
            WriteTask { socket: Arc::clone(&socket), urgent: urgent_receiver, replies: reply_receiver };
        Self { limiter, urgent, replies, socket: Some(socket), task: Some(task) }
    }

    /// Writes or queues a signal or a call.
    async fn send_urgent(&self, message: &Message) -> zbus::Result<()> {
        let Some(socket) = &self.socket else { return Err(closed()) };
        let bytes = match socket.try_write(message.data()) {
            Written::All => return Ok(()),
            // An empty message makes the task write the rest.
            Written::Beginning => Bytes::Raw(Vec::new()),
            Written::Nothing => Bytes::Message(message.clone()),
        };
        let permit = self.urgent.reserve().await.map_err(|_| closed())?;
        socket.urgent.fetch_add(1, Ordering::AcqRel);
        permit.send(bytes);
        Ok(())
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
            Type::MethodCall | Type::Signal => self.send_urgent(message).await,
        }
    }

    /// Writes bytes of the handshake.
    async fn sendmsg(&mut self, bytes: &[u8], _descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
        match &self.task {
            Some(task) => write(&task.socket.half.lock().await.stream, bytes).await,
            None => Err(io::Error::other("the handshake is complete")),
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        // Without senders, the task ends. The last owner of the socket closes its half.
        (self.urgent, _) = mpsc::channel(1);
        self.socket = None;
        Ok(())
    }
}

impl WriteTask {
    /// Writes queued messages until the connection is closed or lost.
    async fn run(mut self) {
        loop {
            let written = tokio::select! {
                biased;
                urgent = self.urgent.recv() => {
                    let Some(bytes) = urgent else { return };
                    let written = self.socket.write(bytes.as_slice()).await;
                    self.socket.urgent.fetch_sub(1, Ordering::AcqRel);
                    written
                }
                Some(reply) = self.replies.recv() => self.socket.write(reply.bytes.as_slice()).await,
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
    use std::io::Read as _;
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

    /// A signal with a body of this length, and a number.
    fn signal(number: u32, length: usize) -> Message {
        Message::signal("/", "a.b", "C").build(&(number, "x".repeat(length))).unwrap()
    }

    /// Adds what can be read.
    async fn read_chunk(stream: &UnixStream, bytes: &mut Vec<u8>) {
        stream.readable().await.unwrap();
        let mut chunk = [0; 4096];
        match stream.try_read(&mut chunk) {
            Ok(0) => panic!("the connection is closed"),
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }

    #[tokio::test]
    async fn writes_a_signal_without_another_task() {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (_read, half) = UnixStream::from_std(ours).unwrap().into_split();
        half.writable().await.unwrap();
        let mut writer = Writer::new(half, None);
        for number in 0..3 {
            let signal = signal(number, 10);
            // Ready at the first poll: no other task has run.
            let sent = core::pin::pin!(writer.send_message(&signal));
            let mut context = core::task::Context::from_waker(core::task::Waker::noop());
            assert!(sent.poll(&mut context).is_ready());
            let mut bytes = vec![0; signal.data().len()];
            theirs.set_nonblocking(true).unwrap();
            theirs.read_exact(&mut bytes).unwrap();
            assert_eq!(bytes, &**signal.data());
        }
    }

    #[tokio::test]
    async fn messages_stay_complete_and_in_order_if_the_socket_is_full() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (_read, half) = ours.into_split();
        half.writable().await.unwrap();
        let mut writer = Writer::new(half, None);
        // More than the socket has room for, in messages of which at least one is written in parts.
        let signals: Vec<_> = (0..20).map(|number| signal(number, 100_000 + 7 * number as usize)).collect();
        let expected: Vec<u8> = signals.iter().flat_map(|signal| signal.data().to_vec()).collect();
        let send = async {
            for signal in &signals {
                writer.send_message(signal).await.unwrap();
            }
        };
        let read = async {
            let mut bytes = Vec::new();
            while bytes.len() < expected.len() {
                read_chunk(&theirs, &mut bytes).await;
            }
            bytes
        };
        let ((), bytes) = tokio::join!(send, read);
        assert!(bytes == expected, "the messages are mixed up");
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
            read_chunk(&theirs, &mut bytes).await;
        }
        let has = |message: &Message| bytes.windows(message.data().len()).any(|it| it == &**message.data());
        assert_eq!(replies.each_ref().map(has), [true, true, false, true]);
        let refused = bytes.windows(14).filter(|it| it == b"LimitsExceeded").count();
        assert_eq!(refused, 2, "the second page, and the refused call");
    }
}
