//! What comes from the bus: taken whole, or dropped as it comes.

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

/// The half that reads.
#[derive(Debug)]
pub(super) struct Reader {
    stream: OwnedReadHalf,
    calls: Option<Calls>,
    refusals: Refusals,
    /// What has been read and belongs to no message that was taken.
    buffer: Vec<u8>,
}

impl Reader {
    pub(super) const fn new(stream: OwnedReadHalf, calls: Option<Calls>, refusals: Refusals) -> Self {
        Self { stream, calls, refusals, buffer: Vec::new() }
    }

    /// The next message that is taken. Whatever is not is dropped, without being held in memory.
    async fn next(&mut self) -> io::Result<Vec<u8>> {
        loop {
            self.fill(FIXED).await?;
            let fixed = self.buffer.first_chunk().and_then(Fixed::read);
            let fixed = fixed.ok_or_else(|| io::Error::other("the bus sent what is no message"))?;
            if fixed.fields_end > LONGEST_HEADER {
                self.skip(fixed.total).await?;
                continue;
            }
            self.fill(aligned(fixed.fields_end, 8).min(fixed.total)).await?;
            if self.is_taken(&fixed) {
                self.fill(fixed.total).await?;
                let rest = self.buffer.split_off(fixed.total);
                let mut message = std::mem::replace(&mut self.buffer, rest);
                // A handler replies to every call, so that its permit ends; the writer drops that reply.
                if let Some(flags) = message.get_mut(2).filter(|_| fixed.kind == METHOD_CALL) {
                    *flags &= !NO_REPLY_EXPECTED;
                }
                return Ok(message);
            }
            self.skip(fixed.total).await?;
        }
    }

    fn is_taken(&self, fixed: &Fixed) -> bool {
        let Fields { sender, member } = fixed.fields(&self.buffer);
        match fixed.kind {
            METHOD_CALL => {
                sender.is_some_and(|sender| self.admits(fixed, sender, member.unwrap_or_default()))
            }
            METHOD_RETURN | ERROR => fixed.total <= LONGEST_REPLY,
            SIGNAL if self.calls.is_some() => sender == Some(BUS) && fixed.total <= LONGEST_SIGNAL,
            SIGNAL => fixed.total <= LONGEST_SIGNAL,
            _ => false,
        }
    }

    fn admits(&self, fixed: &Fixed, sender: &str, member: &str) -> bool {
        let wants_reply = fixed.flags & NO_REPLY_EXPECTED == 0;
        let call = Call { sender, serial: fixed.serial, member, bytes: fixed.total, wants_reply };
        let refusal = match &self.calls {
            Some(calls) if call.bytes > calls.longest() => "the message is too long",
            Some(calls) if calls.admit(&call, Instant::now()) => return true,
            Some(_) => "too many calls; wait for their replies and try again",
            None => "no calls are taken on this connection; call the service by its name",
        };
        if wants_reply {
            self.refusals.refuse(sender, fixed.serial, refusal);
        }
        false
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
        let mut message = self.next().await?;
        // The handlers of the calls before it run first: what they end makes room.
        tokio::task::yield_now().await;
        Whole.receive_message(sequence, &mut message, descriptors).await
    }
}

/// Has zbus read a message that is there as a whole.
#[derive(Debug)]
struct Whole;

impl ReadHalf for Whole {}
