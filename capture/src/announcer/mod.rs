//! The announcer: starts the sniffer, gives up what the sniffer needed, and tells the bus what it
//! hears. It never sees a packet's bytes, and reads every message of the sniffer as an enemy's.

pub mod bus;
mod child;
pub mod config;
mod ffi;
mod handed_over;
mod hearing;
mod interest;
mod interfaces;
mod key;
mod ledger;
mod lines;
pub mod links;
pub mod pattern;
mod queue;
mod recent;
pub mod ring;
mod shared;
mod store;
mod udp;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use caps::Capability;
use wakevirt_protocol::sniffer::BadMessage;
use wakevirt_service::lifecycle::{self, Signal, Signals};
use wakevirt_service::logs::{self, Logs};
use wakevirt_service::user;

use crate::options::Options;
use child::{Process, Sniffer};
use config::Settings;
use handed_over::HandedOver;
use hearing::Hearing;
use interfaces::Interfaces;
use shared::Shared;

/// Whom the service runs as.
pub const USER: &str = "wakevirt-capture";

/// Why the service does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] wakevirt_service::config::Error),
    /// The log.
    #[error(transparent)]
    Logs(#[from] logs::Error),
    /// The change of user, or the capabilities.
    #[error(transparent)]
    User(#[from] user::Error),
    /// The bus name is refused, or taken by another.
    #[error(transparent)]
    Bus(#[from] wakevirt_service::bus::Error),
    /// The path of the running program, beside which the sniffer lies.
    #[error("cannot tell where this program lies, and so not where its sniffer does: {0}")]
    OwnPath(#[source] io::Error),
    /// The sniffer is not where it should be.
    #[error("wakevirt-sniffer is missing; it should be {} or {}: install wakevirt again", logs::shown(&.candidates[0]), logs::shown(&.candidates[1]))]
    NoSniffer {
        /// Where it was looked for.
        candidates: [PathBuf; 2],
    },
    /// The sniffer cannot be started.
    #[error("cannot start {}: {error}", logs::shown(.program))]
    Sniffer {
        /// The program.
        program: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The sniffer ended, and so does the service.
    #[error("the sniffer has gone: {0}; the service exits and must be restarted")]
    SnifferGone(String),
    /// The sniffer says that it cannot go on.
    #[error("the sniffer cannot go on: {0}")]
    SnifferFailed(String),
    /// The sniffer does not get ready.
    #[error("the sniffer did not get ready within {0} s")]
    SnifferSlow(u64),
    /// The sniffer sent what is no message: it is broken, or was taken over.
    #[error("the sniffer sent {0}; it is not trusted any more, and the service ends")]
    BadMessage(#[from] BadMessage),
    /// The sniffer sent a message that contradicts what it said before.
    #[error("the sniffer sent {0}; it is not trusted any more, and the service ends")]
    Contradiction(&'static str),
    /// The socketpair to the sniffer.
    #[error("the socketpair to the sniffer fails: {0}")]
    Channel(#[source] io::Error),
    /// What whoever started the service left open.
    #[error("cannot keep inherited descriptors from the sniffer: {0}; Linux 5.11 or later is needed")]
    Descriptors(#[source] io::Error),
    /// The kernel's news about interfaces.
    #[error("cannot follow the network interfaces: {0}")]
    Interfaces(#[source] io::Error),
    /// The async runtime, or the signals.
    #[error("cannot start the event loop: {0}")]
    Runtime(#[source] io::Error),
    /// Randomness for the epoch.
    #[error("cannot get random bytes: {0}")]
    Random(#[source] io::Error),
}

/// Runs the service until it is told to stop.
///
/// # Errors
/// [`Error`] says what ended it, and what to do.
pub fn run(options: &Options) -> Result<(), Error> {
    let settings = Settings::load(options)?;
    let logs = logs::init(settings.log, options.common.log_to)?;
    let HandedOver { udp, links } = HandedOver::take();
    let sockets = if udp.is_empty() { udp::open_each(&settings.listen) } else { udp };
    user::change_to(USER, &[], &[Capability::CAP_NET_RAW])?;
    let sniffer = Sniffer::start(&settings.start, &sockets)?;
    drop(sockets);
    user::drop_capabilities()?;
    let links = links.map_or_else(interfaces::subscribe, Ok).map_err(Error::Interfaces)?;

    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    let ended = runtime.block_on(serve(options, settings, logs, sniffer, links));
    lifecycle::stopping();
    ended
}

async fn serve(
    options: &Options,
    settings: Settings,
    logs: Logs,
    sniffer: Sniffer,
    links: OwnedFd,
) -> Result<(), Error> {
    let (process, channel) = sniffer.listen()?;
    let mut signals = Signals::new().map_err(Error::Runtime)?;
    let ended = tokio::select! {
        ended = announce(options, settings, &logs, channel, links) => ended,
        () = until_stopped(&mut signals) => Ok(()),
    };
    // The channel is closed by now, which ends the sniffer.
    explain(ended, process)
}

/// Waits for the sniffer, then tells the bus what it hears, for ever.
async fn announce(
    options: &Options,
    settings: Settings,
    logs: &Logs,
    channel: child::Channel,
    links: OwnedFd,
) -> Result<(), Error> {
    let mode = hearing::ready(&channel, settings.start.request).await?;
    let shared = Arc::new(Shared::new(&settings, mode)?);
    let interfaces = Interfaces::watch(links).map_err(Error::Interfaces)?;
    let mut hearing =
        Hearing::new(channel, interfaces, Arc::clone(&shared), settings, options.clone(), logs)?;
    let mut reloads = Signals::new().map_err(Error::Runtime)?;
    tokio::select! {
        ended = hearing.hear(&mut reloads) => ended,
        ended = bus::keep(&options.common.bus, &shared) => ended,
    }
}

async fn until_stopped(signals: &mut Signals) {
    while signals.next().await != Signal::Stop {}
}

/// Adds how the sniffer ended to an end that it caused, and warns if it did not end as it should.
fn explain(ended: Result<(), Error>, process: Process) -> Result<(), Error> {
    let end = process.end();
    match ended {
        Err(Error::SnifferGone(_)) => Err(Error::SnifferGone(end.to_string())),
        // It said why, or was broken before.
        Err(error) => Err(error),
        Ok(()) => {
            if !end.is_clean() {
                tracing::warn!("the sniffer did not end cleanly when the service stopped: {end}");
            }
            Ok(())
        }
    }
}
