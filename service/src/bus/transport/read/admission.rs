//! Determines from the header of each message what happens to it: it is accepted, deferred until its sender is known,
//! or dropped.

use std::collections::VecDeque;
use std::time::Instant;

use crate::bus::calls::{Call, CallLimiter};
use crate::bus::transport::header::{
    ERROR, Fields, FixedHeader, METHOD_CALL, METHOD_RETURN, NO_REPLY_EXPECTED, SIGNAL,
};
use crate::bus::transport::pending::PendingCalls;
use crate::bus::transport::refusal::Reason;
use crate::bus::transport::write::Refusals;

/// The maximum length of a signal, in bytes. The announcer's signals are a few hundred bytes long.
const MAX_SIGNAL: usize = 16 * 1024;
/// The maximum length of a reply to a call by this process, in bytes.
const MAX_REPLY: usize = 1024 * 1024;
const BUS: &str = "org.freedesktop.DBus";
/// The maximum number of file descriptors in an accepted message. The bus sends one descriptor with a caller's
/// credentials.
const MAX_DESCRIPTORS: u32 = 4;

/// What to do with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Accept,
    /// Defer it until the bus has returned the sender's user.
    Defer,
    Drop,
}

/// Admits messages. Without a limiter, it drops all calls.
#[derive(Debug)]
pub(super) struct Admission {
    limiter: Option<CallLimiter>,
    refusals: Refusals,
    pending: PendingCalls,
    /// Deferred calls whose senders have been looked up.
    released: VecDeque<Vec<u8>>,
}

impl Admission {
    pub(super) fn new(limiter: Option<CallLimiter>, refusals: Refusals) -> Self {
        Self { limiter, refusals, pending: PendingCalls::default(), released: VecDeque::new() }
    }

    pub(super) const fn accepts_calls(&self) -> bool {
        self.limiter.is_some()
    }

    /// Determines what happens to the message that begins with these bytes, which contain its header. A call that this
    /// function accepts is admitted. A call that it drops is refused, unless it has too many file descriptors or no
    /// sender.
    pub(super) fn decide(&self, header: &FixedHeader, bytes: &[u8]) -> Action {
        let Fields { sender, member, descriptors } = header.fields(bytes);
        let accept = match header.kind {
            _ if descriptors > MAX_DESCRIPTORS => false,
            METHOD_CALL => {
                let Some(sender) = sender else { return Action::Drop };
                if self.must_defer(sender, header.total) {
                    return Action::Defer;
                }
                self.admit(header, sender, member.unwrap_or_default())
            }
            METHOD_RETURN | ERROR => header.total <= MAX_REPLY,
            SIGNAL if self.accepts_calls() => sender == Some(BUS) && header.total <= MAX_SIGNAL,
            SIGNAL => header.total <= MAX_SIGNAL,
            _ => false,
        };
        if accept { Action::Accept } else { Action::Drop }
    }

    /// Whether a call must wait until its sender is known. A call does not overtake waiting calls from the same sender.
    fn must_defer(&self, sender: &str, bytes: usize) -> bool {
        let Some(limiter) = &self.limiter else { return false };
        self.pending.has_room(sender, bytes)
            && (self.pending.contains(sender) || limiter.awaits_lookup(sender))
    }

    /// Whether to leave the next call unread until one of the senders before it has been looked up.
    pub(super) fn must_pause(&self, header: &FixedHeader, bytes: &[u8]) -> bool {
        let Some(limiter) = self.limiter.as_ref().filter(|limiter| limiter.pauses_for_lookup()) else {
            return false;
        };
        let sender = header.fields(bytes).sender.unwrap_or_default();
        let is_full = header.kind == METHOD_CALL && self.pending.is_full_for(sender, header.total);
        is_full && !limiter.is_known(sender)
    }

    /// Defers a call until its sender has been looked up.
    pub(super) fn defer(&mut self, header: &FixedHeader, message: Vec<u8>) {
        let sender = header.fields(&message).sender.unwrap_or_default().to_owned();
        self.pending.push(&sender, message);
    }

    /// The next deferred call that is admitted after the lookup of its sender.
    pub(super) fn next_admitted(&mut self) -> Option<Vec<u8>> {
        for sender in self.limiter.as_ref()?.take_looked_up() {
            self.released.extend(self.pending.take(&sender));
        }
        while let Some(message) = self.released.pop_front() {
            let header = message.first_chunk().and_then(FixedHeader::parse)?;
            let Fields { sender, member, .. } = header.fields(&message);
            let sender = sender.unwrap_or_default();
            // The sender has disconnected. Another lookup would delay the lookups of the next senders.
            if !self.limiter.as_ref()?.is_known(sender) {
                if header.flags & NO_REPLY_EXPECTED == 0 {
                    const UNKNOWN: Reason =
                        Reason::limit("the bus did not report which user owns your connection; try again");
                    self.refusals.refuse(sender, header.serial, UNKNOWN);
                }
                continue;
            }
            if self.admit(&header, sender, member.unwrap_or_default()) {
                return Some(message);
            }
        }
        None
    }

    /// Waits until a lookup has finished; without a limiter, waits forever. Cancel safe.
    pub(super) async fn lookup_finished(&self) {
        match &self.limiter {
            Some(limiter) => limiter.lookup_finished().await,
            None => core::future::pending().await,
        }
    }

    fn admit(&self, header: &FixedHeader, sender: &str, member: &str) -> bool {
        let wants_reply = header.flags & NO_REPLY_EXPECTED == 0;
        let call = Call { sender, serial: header.serial, member, bytes: header.total, wants_reply };
        let refusal = match &self.limiter {
            Some(limiter) if call.bytes > limiter.max_bytes() => "the message is too long",
            Some(limiter) if !self.pending.contains(sender) && limiter.admit(&call, Instant::now()) => {
                return true;
            }
            Some(_) => "too many calls; wait for their replies and try again",
            None => "this connection accepts no calls; call the service by its bus name",
        };
        if wants_reply {
            self.refusals.refuse(sender, header.serial, Reason::limit(refusal));
        }
        false
    }

    /// Refuses a call that was admitted but cannot be parsed.
    pub(super) fn refuse_invalid(&self, sender: &str, serial: u32) {
        const INVALID: Reason = Reason::invalid("the message is invalid, or has an unknown header field");
        let permit = self.limiter.as_ref().and_then(|limiter| limiter.take_permit(sender, serial));
        if permit.is_some_and(|permit| permit.wants_reply()) {
            self.refusals.refuse(sender, serial, INVALID);
        }
    }
}
