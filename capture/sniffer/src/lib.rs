//! The sniffer: the process that parses untrusted packets.
//!
//! It does not link a D-Bus library, an async runtime or libpcap. It owns packet sockets, UDP sockets and one end of a
//! socketpair. After it has sent `Ready`, it can only read the sockets, bind packet sockets to interfaces, and exchange
//! messages with the announcer through the socketpair. [`sandbox`] lists the stages of the sandbox;
//! `receive` is the loop that follows.

pub mod channel;
pub mod delivery;
mod error;
pub mod ffi;
pub mod filter;
mod limits;
mod receive;
mod report;
pub mod sandbox;
pub mod sockets;

use std::convert::Infallible;

use wakevirt_protocol::sniffer::FromSniffer;

use channel::Channel;
use error::Error;
use limits::Limits;
use sockets::Sockets;

/// The exit code after the announcer has exited.
const DONE: i32 = 0;
/// The exit code if the sniffer cannot continue. [`FromSniffer::Failed`] reports the reason to the announcer.
const FAILED: i32 = 1;
/// The exit code if the announcer did not start the sniffer.
const MISUSED: i32 = 2;

/// Runs the sniffer, and exits the process.
///
/// It always exits with exit_group(2), without closing sockets: the sandbox forbids close(2), and a sniffer that the
/// kernel kills for a forbidden call appears to be compromised.
pub fn run() -> ! {
    let channel = match Channel::on_standard_input() {
        Ok(channel) => channel,
        Err(error) => {
            // Only a user at a terminal reads this.
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
            channel.send_failure(format_args!("{error}"));
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
    let limits = Box::leak(Box::new(Limits::new(start.limit)));
    let require_landlock = start.require_landlock;
    // Nothing is freed in the sandbox: the C library can return memory with a system call.
    drop(start);
    sandbox::drop_capabilities()?;
    let landlock = sandbox::forbid_files(require_landlock)?;
    sandbox::forbid_system_calls(sockets.packet_sockets())?;
    let _outcome = channel.send(&FromSniffer::Ready { mode: sockets.mode(), landlock })?;
    receive::run(channel, sockets, limits)
}

/// On a panic, reports its location to the announcer and exits: unwinding would close the sockets, and
/// abort(3) makes system calls that the sandbox forbids.
pub fn exit_on_panic(channel: Channel) {
    std::panic::set_hook(Box::new(move |panic| {
        channel.send_failure(format_args!("bug: {panic}"));
        ffi::exit(FAILED)
    }));
}
