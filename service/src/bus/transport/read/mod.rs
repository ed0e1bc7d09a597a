//! Reads messages from the bus. A message is read as a whole, or dropped piece by piece as it arrives.

mod admission;
mod input;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use tokio::net::unix::OwnedReadHalf;
use zbus::Message;
use zbus::connection::socket::ReadHalf;
use zbus::export::async_trait::async_trait;

use super::header::{FIXED_LENGTH, FixedHeader, METHOD_CALL, NO_REPLY_EXPECTED, aligned};
use super::write::Refusals;
use crate::bus::calls::CallLimiter;
use admission::{Action, Admission};
use input::Input;

/// The maximum length of a header, in bytes. Names have at most 255 bytes, and the paths of the services' objects are
/// short.
const MAX_HEADER: usize = 8 * 1024;
/// The file that replaces each received file descriptor.
const NO_DESCRIPTOR: &str = "/dev/null";

/// The half of the connection that reads.
#[derive(Debug)]
pub(super) struct Reader {
    input: Input,
    admission: Admission,
}

impl Reader {
    pub(super) fn new(stream: OwnedReadHalf, limiter: Option<CallLimiter>, refusals: Refusals) -> Self {
        Self { input: Input::new(stream), admission: Admission::new(limiter, refusals) }
    }

    /// The next accepted message. Messages that are dropped are not stored.
    async fn next(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(message) = self.admission.next_admitted() {
                return Ok(message);
            }
            if self.input.bytes().len() < FIXED_LENGTH {
                tokio::select! {
                    filled = self.input.fill(FIXED_LENGTH) => filled?,
                    () = self.admission.lookup_finished() => continue,
                }
            }
            let header = self.input.bytes().first_chunk().and_then(FixedHeader::parse);
            let header = header.ok_or_else(|| io::Error::other("the bus sent an invalid message"))?;
            if header.fields_end > MAX_HEADER {
                self.input.skip(header.total).await?;
                continue;
            }
            self.input.fill(aligned(header.fields_end, 8).min(header.total)).await?;
            if self.admission.must_pause(&header, self.input.bytes()) {
                self.admission.lookup_finished().await;
                continue;
            }
            match self.admission.decide(&header, self.input.bytes()) {
                Action::Drop => self.input.skip(header.total).await?,
                action => {
                    self.input.fill(header.total).await?;
                    let message = self.input.take(header.total);
                    if action == Action::Accept {
                        return Ok(message);
                    }
                    self.admission.defer(&header, message);
                }
            }
        }
    }
}

/// Makes the handler reply to every call, because the reply releases the permit. The writer drops a reply that the
/// caller does not expect.
fn request_reply(message: &mut [u8]) {
    if let [_, METHOD_CALL, flags, ..] = message {
        *flags &= !NO_REPLY_EXPECTED;
    }
}

#[async_trait]
impl ReadHalf for Reader {
    /// dbus-broker disconnects a client that requests credentials, which include a descriptor, without accepting
    /// descriptors. A connection that receives calls does not request credentials. It does not accept descriptors, so
    /// callers cannot send any.
    fn can_pass_unix_fd(&self) -> bool {
        !self.admission.accepts_calls()
    }

    /// Reads bytes of the handshake.
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        Ok((self.input.read(buffer).await?, Vec::new()))
    }

    async fn receive_message(
        &mut self,
        sequence: u64,
        already_received: &mut Vec<u8>,
        descriptors: &mut Vec<OwnedFd>,
    ) -> zbus::Result<Message> {
        self.input.append(already_received);
        loop {
            let mut message = self.next().await?;
            request_reply(&mut message);
            // First, lets the handlers of earlier calls run: those that finish make room.
            tokio::task::yield_now().await;
            let header = message.first_chunk().and_then(FixedHeader::parse);
            let fields = header.map(|header| header.fields(&message)).unwrap_or_default();
            for _ in 0..fields.descriptors {
                descriptors.push(File::open(NO_DESCRIPTOR)?.into());
            }
            let sender = fields.sender.unwrap_or_default().to_owned();
            match Complete.receive_message(sequence, &mut message, descriptors).await {
                Ok(message) => return Ok(message),
                // An error would end the connection, and buses forward messages that zbus rejects, such as those with
                // unknown header fields. The message was complete, so the next one begins after it.
                Err(error) => {
                    tracing::debug!("dropped an invalid message from {sender:?}: {error}");
                    descriptors.clear();
                    if let Some(call) = header.filter(|header| header.kind == METHOD_CALL) {
                        self.admission.refuse_invalid(&sender, call.serial);
                    }
                }
            }
        }
    }
}

/// Makes zbus parse a message that has been read completely.
#[derive(Debug)]
struct Complete;

impl ReadHalf for Complete {}

#[cfg(test)]
mod tests;
