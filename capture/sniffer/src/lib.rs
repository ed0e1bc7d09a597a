//! The sniffer: the process that parses untrusted packets.
//!
//! It links no D-Bus, no async runtime and no libpcap. It holds packet and UDP sockets and one end
//! of a socketpair. After it has sent `Ready`, it can only read the sockets and write to the
//! socketpair. [`sandbox`] lists the stages of the sandbox; `receive` is the loop that follows.

pub mod channel;
pub mod delivery;
pub mod ffi;
pub mod filter;
mod receive;
pub mod sandbox;
pub mod sockets;

use std::convert::Infallible;
use std::io;

use wakevirt_protocol::sniffer::{BadMessage, FromSniffer, MAX_REASON};

use channel::Channel;
use sockets::Sockets;

/// The sniffer cannot start or cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Standard input is not the socketpair.
    #[error(
        "wakevirt-sniffer is started by wakevirt-capture, with a socketpair as its standard input; start wakevirt-capture instead"
    )]
    NotStartedByCapture,
    /// The announcer exited, and so does the sniffer.
    #[error("the announcer exited")]
    AnnouncerExited,
    /// The announcer's message cannot be decoded.
    #[error("the announcer sent {0}")]
    BadMessage(#[from] BadMessage),
    /// The announcer sent a message that is not allowed in this state.
    #[error("the announcer sent an unexpected message")]
    UnexpectedMessage,
    /// The signal dispositions cannot be set.
    #[error("cannot set the signal dispositions: {0}")]
    Signals(#[source] io::Error),
    /// The socketpair failed.
    #[error("the socketpair to the announcer failed: {0}")]
    Channel(#[source] io::Error),
    /// The mode requires a packet socket, and the process has no `CAP_NET_RAW`.
    #[error(
        "mode = \"raw\" needs CAP_NET_RAW, which the process does not have: start the service with its unit or as root, or set mode = \"auto\" or \"udp\""
    )]
    NotPrivileged,
    /// A packet socket cannot be set up.
    #[error("cannot {action} a packet socket: {error}")]
    PacketSocket {
        /// The step that failed.
        action: &'static str,
        /// The cause.
        error: io::Error,
    },
    /// A UDP socket cannot be set up.
    #[error("cannot {action} a UDP socket: {error}")]
    UdpSocket {
        /// The step that failed.
        action: &'static str,
        /// The cause.
        error: io::Error,
    },
    /// There is no socket to receive packets from.
    #[error(
        "no packet socket and no UDP socket: pass one (wakevirt-capture.socket), or set `listen` to a port that is free and, without privilege, above 1023"
    )]
    NoSocket,
    /// The capabilities cannot be dropped.
    #[error(transparent)]
    Capabilities(#[from] wakevirt_privilege::Error),
    /// Another stage of the sandbox failed.
    #[error("cannot {stage}: {reason}")]
    Sandbox {
        /// The stage that failed.
        stage: &'static str,
        /// The cause.
        reason: String,
    },
    /// A socket can no longer be read.
    #[error("cannot read a socket: {0}")]
    Receive(#[source] io::Error),
    /// poll(2) failed.
    #[error("cannot wait for packets: {0}")]
    Wait(#[source] io::Error),
}

/// The exit code after the announcer exited.
const DONE: i32 = 0;
/// The exit code of a sniffer that cannot continue. The announcer gets the reason as [`FromSniffer::Failed`].
const FAILED: i32 = 1;
/// The exit code if the announcer did not start the sniffer.
const MISUSED: i32 = 2;

/// Runs the sniffer, and exits the process.
///
/// It always exits with exit_group(2), and closes no socket before: the sandbox forbids close(2), and a
/// sniffer that the kernel kills for it would look like a compromised one.
pub fn run() -> ! {
    let channel = match Channel::on_standard_input() {
        Ok(channel) => channel,
        Err(error) => {
            // Only a person at a terminal can read this.
            #[expect(clippy::print_stderr, reason = "there is no announcer to report to")]
            {
                eprintln!("wakevirt-sniffer: {error}");
            }
            ffi::exit(MISUSED)
        }
    };
    exit_on_panic(channel);
    match sniff(channel) {
        Err(Error::AnnouncerExited) => ffi::exit(DONE),
        Err(error) => {
            channel.send_failure(&error.to_string());
            ffi::exit(FAILED)
        }
    }
}

fn sniff(channel: Channel) -> Result<Infallible, Error> {
    ffi::set_signal_dispositions().map_err(Error::Signals)?;
    channel.limit_failure_wait()?;
    sandbox::hide()?;
    let (start, udp) = channel.start()?;
    // Never dropped: see `run`.
    let sockets = Box::leak(Box::new(Sockets::open(&start, udp)?));
    sandbox::drop_capabilities()?;
    let landlock = sandbox::forbid_files(start.require_landlock)?;
    sandbox::forbid_system_calls(&sockets.outgoing)?;
    let _sent = channel.send(&FromSniffer::Ready { mode: sockets.mode(), landlock })?;
    receive::run(channel, sockets)
}

/// On a panic, reports its location to the announcer and exits: unwinding would close the sockets, and
/// abort(3) makes system calls that the sandbox forbids.
pub fn exit_on_panic(channel: Channel) {
    std::panic::set_hook(Box::new(move |panic| {
        channel.send_failure(&format!("bug: {panic}"));
        ffi::exit(FAILED)
    }));
}

/// Truncates the text to the maximum length of a failure's reason.
fn truncate(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_REASON)).unwrap_or_default()
}
