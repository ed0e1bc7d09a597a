//! What comes from the bus: taken whole, or dropped as it comes.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use tokio::net::unix::OwnedReadHalf;
use zbus::Message;
use zbus::connection::socket::ReadHalf;
use zbus::export::async_trait::async_trait;

use super::head::{
    ERROR, FIXED, Fields, Fixed, METHOD_CALL, METHOD_RETURN, NO_REPLY_EXPECTED, SIGNAL, aligned,
};
use super::parked::Parked;
use super::refusal::Reason;
use super::write::Refusals;
use crate::bus::calls::{Call, Calls};

/// The longest header: names have at most 255 bytes, and no path that is called here is long.
const LONGEST_HEADER: usize = 8 * 1024;
/// The longest signal. The announcer's have some hundred bytes.
const LONGEST_SIGNAL: usize = 16 * 1024;
/// The longest reply to a call of ours.
const LONGEST_REPLY: usize = 1024 * 1024;
/// How much is read at once: some hundred calls, so that whatever else there is to do goes on in between.
const CHUNK: usize = 16 * 1024;
const BUS: &str = "org.freedesktop.DBus";
/// The most file descriptors of a message that is taken: the bus sends one, with the credentials of a caller.
const MOST_DESCRIPTORS: u32 = 4;
/// What zbus gets in the place of each.
const NO_DESCRIPTOR: &str = "/dev/null";

/// The half that reads.
#[derive(Debug)]
pub(super) struct Reader {
    stream: OwnedReadHalf,
    calls: Option<Calls>,
    refusals: Refusals,
    /// What has been read and belongs to no message that was taken.
    buffer: Vec<u8>,
    parked: Parked,
    /// Calls that were parked, of senders about whom the bus has answered.
    answered: VecDeque<Vec<u8>>,
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Taken,
    Parked,
    Dropped,
}

impl Reader {
    pub(super) fn new(stream: OwnedReadHalf, calls: Option<Calls>, refusals: Refusals) -> Self {
        let (parked, answered) = (Parked::default(), VecDeque::new());
        Self { stream, calls, refusals, buffer: Vec::new(), parked, answered }
    }

    /// The next message that is taken. Whatever is not is dropped, without being held in memory.
    async fn next(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(message) = self.unpark() {
                return Ok(message);
            }
            if self.buffer.len() < FIXED {
                let calls = self.calls.clone();
                tokio::select! {
                    filled = self.fill(FIXED) => filled?,
                    () = answer(calls.as_ref()) => continue,
                }
            }
            let fixed = self.buffer.first_chunk().and_then(Fixed::read);
            let fixed = fixed.ok_or_else(|| io::Error::other("the bus sent what is no message"))?;
            if fixed.fields_end > LONGEST_HEADER {
                self.skip(fixed.total).await?;
                continue;
            }
            self.fill(aligned(fixed.fields_end, 8).min(fixed.total)).await?;
            if self.holds_back(&fixed) {
                answer(self.calls.as_ref()).await;
                continue;
            }
            match self.fate(&fixed) {
                Fate::Dropped => self.skip(fixed.total).await?,
                fate => {
                    self.fill(fixed.total).await?;
                    let rest = self.buffer.split_off(fixed.total);
                    let message = std::mem::replace(&mut self.buffer, rest);
                    if fate == Fate::Taken {
                        return Ok(taken(message));
                    }
                    let sender = fixed.fields(&message).sender.unwrap_or_default().to_owned();
                    self.parked.park(&sender, message);
                }
            }
        }
    }

    /// The next call that was parked and is admitted, now that the bus has said who its sender is.
    fn unpark(&mut self) -> Option<Vec<u8>> {
        for sender in self.calls.as_ref()?.take_answered() {
            self.answered.extend(self.parked.take(&sender));
        }
        while let Some(message) = self.answered.pop_front() {
            let fixed = message.first_chunk().and_then(Fixed::read)?;
            let Fields { sender, member, .. } = fixed.fields(&message);
            let sender = sender.unwrap_or_default();
            // A sender that has left. To ask again would keep the next ones from being looked up.
            if !self.calls.as_ref()?.is_known(sender) {
                if fixed.flags & NO_REPLY_EXPECTED == 0 {
                    const UNKNOWN: Reason =
                        Reason::limit("the bus does not say which user you are; try again");
                    self.refusals.refuse(sender, fixed.serial, UNKNOWN);
                }
                continue;
            }
            if self.admits(&fixed, sender, member.unwrap_or_default()) {
                return Some(taken(message));
            }
        }
        None
    }

    /// Whether the next call stays unread until the bus has said who one of the senders before it is.
    fn holds_back(&self, fixed: &Fixed) -> bool {
        let Some(calls) = self.calls.as_ref().filter(|calls| calls.holds_back()) else { return false };
        let sender = fixed.fields(&self.buffer).sender.unwrap_or_default();
        let crowded = fixed.kind == METHOD_CALL && self.parked.is_crowded(sender, fixed.total);
        crowded && !calls.is_known(sender)
    }

    fn fate(&self, fixed: &Fixed) -> Fate {
        let Fields { sender, member, descriptors } = fixed.fields(&self.buffer);
        let is_taken = match fixed.kind {
            _ if descriptors > MOST_DESCRIPTORS => false,
            METHOD_CALL => {
                let Some(sender) = sender else { return Fate::Dropped };
                if self.parks(sender, fixed.total) {
                    return Fate::Parked;
                }
                self.admits(fixed, sender, member.unwrap_or_default())
            }
            METHOD_RETURN | ERROR => fixed.total <= LONGEST_REPLY,
            SIGNAL if self.calls.is_some() => sender == Some(BUS) && fixed.total <= LONGEST_SIGNAL,
            SIGNAL => fixed.total <= LONGEST_SIGNAL,
            _ => false,
        };
        if is_taken { Fate::Taken } else { Fate::Dropped }
    }

    /// Whether a call waits until its sender is known. It does not overtake those that wait.
    fn parks(&self, sender: &str, bytes: usize) -> bool {
        let Some(calls) = &self.calls else { return false };
        self.parked.has_room(sender, bytes) && (self.parked.holds(sender) || calls.is_asking(sender))
    }

    fn admits(&self, fixed: &Fixed, sender: &str, member: &str) -> bool {
        let wants_reply = fixed.flags & NO_REPLY_EXPECTED == 0;
        let call = Call { sender, serial: fixed.serial, member, bytes: fixed.total, wants_reply };
        let refusal = match &self.calls {
            Some(calls) if call.bytes > calls.longest() => "the message is too long",
            Some(calls) if !self.parked.holds(sender) && calls.admit(&call, Instant::now()) => return true,
            Some(_) => "too many calls; wait for their replies and try again",
            None => "no calls are taken on this connection; call the service by its name",
        };
        if wants_reply {
            self.refusals.refuse(sender, fixed.serial, Reason::limit(refusal));
        }
        false
    }

    /// Ends a call that was admitted and cannot be parsed.
    fn refuse_invalid(&self, sender: &str, serial: u32) {
        const INVALID: Reason =
            Reason::invalid("the message is not valid D-Bus, or has a header field that is not known here");
        let permit = self.calls.as_ref().and_then(|calls| calls.close(sender, serial));
        if permit.is_some_and(|permit| permit.wants_reply()) {
            self.refusals.refuse(sender, serial, INVALID);
        }
    }

    /// Has at least so many bytes in the buffer.
    async fn fill(&mut self, bytes: usize) -> io::Result<()> {
        while self.buffer.len() < bytes {
            let mut chunk = [0; CHUNK];
            let read = read(&self.stream, &mut chunk).await?;
            self.take(chunk.get(..read).unwrap_or_default())?;
            // A flood is always readable. Whatever else there is to do comes in between.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Drops so many bytes.
    async fn skip(&mut self, mut bytes: usize) -> io::Result<()> {
        loop {
            let here = bytes.min(self.buffer.len());
            self.buffer.drain(..here);
            bytes -= here;
            if bytes == 0 {
                return Ok(());
            }
            self.fill(1).await?;
        }
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the bus has closed the connection"));
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }
}

/// A handler replies to every call, so that its permit ends; the writer drops a reply that is not wanted.
fn taken(mut message: Vec<u8>) -> Vec<u8> {
    if let [_, METHOD_CALL, flags, ..] = message.as_mut_slice() {
        *flags &= !NO_REPLY_EXPECTED;
    }
    message
}

/// Waits until the bus has said who a sender is.
async fn answer(calls: Option<&Calls>) {
    match calls {
        Some(calls) => calls.answered().await,
        None => core::future::pending().await,
    }
}

/// No file descriptor is taken: the kernel closes those that a read does not ask for, unix(7).
async fn read(stream: &OwnedReadHalf, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        match stream.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

#[async_trait]
impl ReadHalf for Reader {
    /// dbus-broker disconnects who asks for credentials, which have a descriptor, and takes none. On a connection
    /// that serves nobody may send any.
    fn can_pass_unix_fd(&self) -> bool {
        self.calls.is_none()
    }

    /// For the handshake.
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        Ok((read(&self.stream, buffer).await?, Vec::new()))
    }

    async fn receive_message(
        &mut self,
        sequence: u64,
        already_received: &mut Vec<u8>,
        descriptors: &mut Vec<OwnedFd>,
    ) -> zbus::Result<Message> {
        self.buffer.append(already_received);
        loop {
            let mut message = self.next().await?;
            // The handlers of the calls before it run first: what they end makes room.
            tokio::task::yield_now().await;
            let fixed = message.first_chunk().and_then(Fixed::read);
            let fields = fixed.map(|fixed| fixed.fields(&message)).unwrap_or_default();
            for _ in 0..fields.descriptors {
                descriptors.push(File::open(NO_DESCRIPTOR)?.into());
            }
            let sender = fields.sender.unwrap_or_default().to_owned();
            match Whole.receive_message(sequence, &mut message, descriptors).await {
                Ok(message) => return Ok(message),
                // An error would end the connection, and buses forward what zbus rejects, such as unknown header
                // fields. The message was complete, so the next one begins behind it.
                Err(error) => {
                    tracing::debug!("dropped a message from {sender:?} that is not valid: {error}");
                    descriptors.clear();
                    if let Some(call) = fixed.filter(|fixed| fixed.kind == METHOD_CALL) {
                        self.refuse_invalid(&sender, call.serial);
                    }
                }
            }
        }
    }
}

/// Has zbus read a message that is there as a whole.
#[derive(Debug)]
struct Whole;

impl ReadHalf for Whole {}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read as _};
    use std::os::fd::AsRawFd as _;

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use tokio::net::UnixStream;
    use zbus::connection::socket::WriteHalf as _;
    use zbus::wire::Endian;

    use super::super::write::Writer;
    use super::*;
    use crate::bus::Limits;

    /// A reply with the write end of a pipe, which comes by this socket, and no one else keeps.
    fn send_descriptor(to: &UnixStream) -> std::io::PipeReader {
        let (end, descriptor) = std::io::pipe().unwrap();
        let call = Message::method_call("/", "Ask").build(&()).unwrap();
        let body = ("before", zbus::Fd::from(OwnedFd::from(descriptor)), "behind");
        let reply = Message::method_return(&call.header()).build(&body).unwrap();
        let data = reply.data();
        let descriptors: Vec<_> = data.fds().iter().map(|descriptor| descriptor.as_raw_fd()).collect();
        assert_eq!(descriptors.len(), 1);
        let control = [ControlMessage::ScmRights(&descriptors)];
        let sent = sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(data)], &control, MsgFlags::empty(), None);
        assert_eq!(sent, Ok(data.len()));
        end
    }

    #[tokio::test]
    async fn descriptors_stay_outside() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (read, write) = ours.into_split();
        let mut reader = Reader::new(read, None, Writer::new(write, None).refusals());
        assert!(reader.can_pass_unix_fd());
        for _ in 0..3 {
            let mut end = send_descriptor(&theirs);
            let message = reader.receive_message(1, &mut Vec::new(), &mut Vec::new()).await.unwrap();
            let body = message.body();
            let (before, descriptor, behind): (&str, zbus::Fd<'_>, &str) = body.deserialize().unwrap();
            assert_eq!((before, behind), ("before", "behind"));
            let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
            assert_eq!(std::fs::read_link(path).unwrap().to_str(), Some(NO_DESCRIPTOR));
            // It ends, so nobody has the other end any more.
            assert_eq!(end.read(&mut [0]).unwrap(), 0);
        }
    }

    /// This message with one more header field, (200, "x"). It has no body.
    fn with_unknown_field(message: &Message) -> Vec<u8> {
        let mut bytes: Vec<u8> = message.data().to_vec();
        bytes.extend([200, 1, b's', 0, 1, 0, 0, 0, b'x', 0]);
        let fields = u32::try_from(bytes.len() - FIXED).unwrap();
        bytes[12..16].copy_from_slice(&fields.to_le_bytes());
        bytes.resize(aligned(bytes.len(), 8), 0);
        bytes
    }

    #[tokio::test]
    async fn a_message_that_is_not_valid_does_not_end_the_connection() {
        let limits = Limits { longest: 1000, slow: &[], large: &[], trusted: Vec::new(), holds_back: false };
        let calls = Calls::new(limits);
        calls.is_user(":1.1".into(), Some(1000));
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (from_service, to_service) = theirs.into_split();
        let (read_half, write) = ours.into_split();
        let mut writer = Writer::new(write, Some(calls.clone()));
        let mut reader = Reader::new(read_half, Some(calls.clone()), writer.refusals());
        let call = |member: &'static str| {
            Message::method_call("/", member).endian(Endian::Little).sender(":1.1").build(&()).unwrap()
        };
        let (bad, silent, good) = (call("Bad"), call("Silent"), call("Good"));
        let serial = bad.primary_header().serial_num().get();
        let mut silent = with_unknown_field(&silent);
        silent[2] = NO_REPLY_EXPECTED;
        let mut version = call("Version").data().to_vec();
        version[3] = 2;
        for bytes in [&with_unknown_field(&bad), &silent, &version, good.data().bytes()] {
            assert_eq!(to_service.try_write(bytes).unwrap(), bytes.len());
        }
        let received = reader.receive_message(1, &mut Vec::new(), &mut Vec::new()).await.unwrap();
        assert_eq!(received.header().member().unwrap(), "Good");
        assert!(calls.close(":1.1", serial).is_none(), "its permit has ended");
        // The writer starts with the first message that is sent; the refusals go first.
        let reply = Message::method_return(&received.header()).build(&()).unwrap();
        writer.send_message(&reply).await.unwrap();
        let mut bytes = Vec::new();
        while !bytes.ends_with(reply.data()) {
            let mut chunk = [0; 1024];
            let count = read(&from_service, &mut chunk).await.unwrap();
            assert_ne!(count, 0, "the connection stays");
            bytes.extend_from_slice(&chunk[..count]);
        }
        let refusals = bytes.windows(11).filter(|window| window == b"InvalidArgs").count();
        assert_eq!(refusals, 2, "the call that wants no reply gets none");
    }

    #[tokio::test]
    async fn a_call_waits_until_its_sender_is_known() {
        let limits = Limits { longest: 1000, slow: &[], large: &[], trusted: vec![0], holds_back: false };
        let calls = Calls::new(limits);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (read_half, write) = ours.into_split();
        let mut reader = Reader::new(read_half, Some(calls.clone()), Writer::new(write, None).refusals());
        let send = |sender: &'static str, member: &'static str| {
            let call = Message::method_call("/", member).sender(sender).build(&()).unwrap();
            assert_eq!(theirs.try_write(call.data()).unwrap(), call.data().len());
        };
        // More connections than there are calls for one user, and root behind them.
        const FRESH: [&str; 4] = [":1.1", ":1.2", ":1.3", ":1.4"];
        for sender in FRESH {
            (0..10).for_each(|_| send(sender, "Flood"));
        }
        send(":0.1", "First");
        send(":0.1", "Second");
        send(":1.5", "Known");
        calls.is_user(":1.5".into(), Some(2000));
        let mut next = async || reader.receive_message(1, &mut Vec::new(), &mut Vec::new()).await.unwrap();
        assert_eq!(next().await.header().member().unwrap(), "Known", "the others wait");
        for sender in FRESH {
            calls.is_user(sender.into(), Some(1000));
        }
        calls.is_user(":0.1".into(), Some(0));
        let mut members = Vec::new();
        while members.last().is_none_or(|member| member != "Second") {
            members.push(next().await.header().member().unwrap().to_string());
        }
        let floods = members.iter().filter(|member| *member == "Flood").count();
        assert_eq!(members.get(floods..), Some(&["First".to_owned(), "Second".to_owned()][..]));
        assert!(floods < 40, "the user has a limit: {floods}");
    }

    #[tokio::test]
    async fn calls_of_too_many_unknown_senders_stay_unread() {
        let limits = Limits { longest: 1000, slow: &[], large: &[], trusted: vec![0], holds_back: true };
        let calls = Calls::new(limits);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (read_half, write) = ours.into_split();
        let mut reader = Reader::new(read_half, Some(calls.clone()), Writer::new(write, None).refusals());
        const FRESH: usize = 700;
        let mut bytes = Vec::new();
        let senders = (0..FRESH).map(|number| format!(":1.{number}")).chain([":0.1".to_owned()]);
        for sender in senders {
            let call = Message::method_call("/", "Ask").sender(sender.as_str()).build(&()).unwrap();
            bytes.extend_from_slice(call.data());
        }
        assert_eq!(theirs.try_write(&bytes).unwrap(), bytes.len());
        calls.is_user(":0.1".into(), Some(0));
        let (mut bytes, mut descriptors) = (Vec::new(), Vec::new());
        tokio::select! {
            biased;
            message = reader.receive_message(1, &mut bytes, &mut descriptors) => panic!("{message:?}"),
            () = async { for _ in 0..1000 { tokio::task::yield_now().await } } => {}
        }
        for number in 0..FRESH {
            calls.is_user(format!(":1.{number}").into(), Some(1000));
        }
        loop {
            let message = reader.receive_message(1, &mut Vec::new(), &mut Vec::new()).await.unwrap();
            if message.header().sender().is_some_and(|sender| sender == ":0.1") {
                break;
            }
        }
    }
}
