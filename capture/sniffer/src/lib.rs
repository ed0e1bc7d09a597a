//! The sniffer: the one process that reads what anybody on the network wrote.
//!
//! It links no D-Bus, no async runtime and no libpcap. It holds packet and UDP sockets and one end
//! of a socketpair, and once it says `Ready` it can do nothing but read the ones and write the
//! other. [`sandbox`] lists the stages; `hear` is what it does for the rest of its life.

pub mod channel;
pub mod delivery;
pub mod ffi;
pub mod filter;
mod hear;
pub mod sandbox;
pub mod sockets;

use std::convert::Infallible;
use std::io;

use wakevirt_protocol::sniffer::{BadMessage, FromSniffer, MAX_REASON};

use channel::Channel;
use sockets::Sockets;

/// Why the sniffer cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Standard input is not the socketpair.
    #[error(
        "wakevirt-sniffer is started by wakevirt-capture, with a socketpair as its standard input; it is of no use by itself"
    )]
    NotStartedByCapture,
    /// The announcer ended, and so does the sniffer.
    #[error("the announcer has gone")]
    AnnouncerGone,
    /// The announcer's message cannot be read.
    #[error("the announcer sent {0}")]
    BadMessage(#[from] BadMessage),
    /// The announcer said something that cannot be said at this point.
    #[error("the announcer sent a message out of turn")]
    OutOfTurn,
    /// The handling of signals cannot be set.
    #[error("cannot set how signals are handled: {0}")]
    Signals(#[source] io::Error),
    /// The socketpair fails.
    #[error("the socketpair to the announcer fails: {0}")]
    Channel(#[source] io::Error),
    /// No packet socket without the privilege, where one is demanded.
    #[error(
        "mode = \"raw\" needs CAP_NET_RAW, and it was not given: start the service by its unit or as root, or set mode = \"auto\" or \"udp\""
    )]
    NotPrivileged,
    /// A packet socket cannot be made ready.
    #[error("cannot {action} a packet socket: {error}")]
    PacketSocket {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        error: io::Error,
    },
    /// A UDP socket cannot be made ready.
    #[error("cannot {action} a UDP socket: {error}")]
    UdpSocket {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        error: io::Error,
    },
    /// Nothing to hear with.
    #[error(
        "no UDP socket to hear with, and no packet socket: hand one over (wakevirt-capture.socket), or set `listen` to a port that is free and, without privilege, above 1023"
    )]
    NothingToHearWith,
    /// The capabilities cannot be dropped.
    #[error(transparent)]
    Capabilities(#[from] wakevirt_privilege::Error),
    /// Another stage of the sandbox failed.
    #[error("cannot {stage}: {reason}")]
    Sandbox {
        /// What the stage should have done.
        stage: &'static str,
        /// Why it failed.
        reason: String,
    },
    /// A socket can no longer be read.
    #[error("cannot read a socket: {0}")]
    Receive(#[source] io::Error),
    /// The sockets cannot be waited for.
    #[error("cannot wait for packets: {0}")]
    Wait(#[source] io::Error),
}

/// The exit code of a sniffer that nobody needs any more: the announcer ended.
const DONE: i32 = 0;
/// The exit code of a sniffer that cannot go on. The announcer gets the reason as [`FromSniffer::Failed`].
const FAILED: i32 = 1;
/// The exit code of a sniffer that was not started by the announcer.
const MISUSED: i32 = 2;

/// Runs the sniffer, and ends the process.
///
/// Whatever happens, it ends by exit_group(2) and drops no socket before: the sandbox forbids close(2), and
/// a sniffer that the kernel kills for it would look like one that was taken over.
pub fn run() -> ! {
    let channel = match Channel::on_standard_input() {
        Ok(channel) => channel,
        Err(error) => {
            // Nobody but a person at a terminal can be reading this.
            #[expect(clippy::print_stderr, reason = "there is no announcer to tell")]
            {
                eprintln!("wakevirt-sniffer: {error}");
            }
            ffi::exit(MISUSED)
        }
    };
    end_at_a_panic(channel);
    match sniff(channel) {
        Err(Error::AnnouncerGone) => ffi::exit(DONE),
        Err(error) => {
            channel.say_last(&error.to_string());
            ffi::exit(FAILED)
        }
    }
}

fn sniff(channel: Channel) -> Result<Infallible, Error> {
    ffi::settle_signals().map_err(Error::Signals)?;
    channel.bound_last_words()?;
    sandbox::hide()?;
    let (start, udp) = channel.start()?;
    // Never dropped: see `run`.
    let sockets = Box::leak(Box::new(Sockets::open(&start, udp)?));
    sandbox::drop_capabilities()?;
    let landlock = sandbox::forbid_files(start.require_landlock)?;
    sandbox::forbid_system_calls(&sockets.outgoing)?;
    let _first = channel.say(&FromSniffer::Ready { mode: sockets.mode(), landlock })?;
    hear::hear(channel, sockets)
}

/// Lets the announcer log where a panic happened, and ends there: to unwind would drop the sockets, and
/// to abort takes system calls that the sandbox forbids.
pub fn end_at_a_panic(channel: Channel) {
    std::panic::set_hook(Box::new(move |panic| {
        channel.say_last(&format!("a defect: {panic}"));
        ffi::exit(FAILED)
    }));
}

/// The longest beginning of the text that a failure may have.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_REASON)).unwrap_or_default()
}
