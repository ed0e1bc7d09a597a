//! The announcer: starts the sniffer, drops the privileges that the sniffer needs, and publishes the packets
//! that the sniffer reports. It never sees the bytes of a packet, and does not trust the sniffer's messages.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use caps::Capability;
use wakevirt_service::lifecycle::{self, Signal, Signals};
use wakevirt_service::logs::{self, Logs, kind};
use wakevirt_service::user;

use crate::bus;
use crate::config::options::Options;
use crate::config::{Settings, USER};
use crate::error::Error;
use crate::network::activation::PassedSockets;
use crate::network::interfaces::{self, Interfaces};
use crate::network::udp;
use crate::shared::Shared;
use crate::sniffer::child::{Channel, Process, Sniffer};
use crate::sniffer::reader::{self, Reader};

/// Runs the service until a signal stops it.
///
/// # Errors
/// [`Error`] describes the cause and what to do.
pub fn run(options: &Options) -> Result<(), Error> {
    let settings = Settings::load(options)?;
    let logs = logs::init(&settings.log, options.common.log_to)?;
    let PassedSockets { udp, links } = PassedSockets::take();
    let sockets = if udp.is_empty() { udp::open_each(&settings.listen) } else { udp };
    user::change_to(USER, &[], &[Capability::CAP_NET_RAW])?;
    let sniffer = Sniffer::start(&settings.start, &sockets)?;
    drop(sockets);
    user::drop_capabilities()?;
    let links = links.map_or_else(interfaces::subscribe, Ok).map_err(Error::Interfaces)?;

    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    let result = runtime.block_on(run_until_stopped(options, settings, &logs, sniffer, links));
    lifecycle::stopping();
    result
}

async fn run_until_stopped(
    options: &Options,
    settings: Settings,
    logs: &Logs,
    sniffer: Sniffer,
    links: OwnedFd,
) -> Result<(), Error> {
    let (process, channel) = sniffer.into_parts()?;
    let mut signals = Signals::new().map_err(Error::Runtime)?;
    let result = tokio::select! {
        result = announce(options, settings, logs, channel, links) => result,
        () = until_stopped(&mut signals) => Ok(()),
    };
    // The channel is now closed, so the sniffer exits.
    add_exit_status(result, process)
}

/// Waits until the sniffer is ready, then announces the packets that it reports.
async fn announce(
    options: &Options,
    settings: Settings,
    logs: &Logs,
    channel: Channel,
    links: OwnedFd,
) -> Result<(), Error> {
    let mode = reader::wait_ready(&channel, &settings.start).await?;
    let shared = Arc::new(Shared::new(&settings, mode)?);
    let interfaces = Interfaces::watch(links).map_err(Error::Interfaces)?;
    let mut reader = Reader::new(channel, interfaces, Arc::clone(&shared), settings, options.clone(), logs)?;
    let mut reloads = Signals::new().map_err(Error::Runtime)?;
    tokio::select! {
        // The bus comes first, so that a packet's signal is emitted when the reader yields.
        biased;
        result = bus::run(&options.common.bus, &shared) => result,
        result = reader.run(&mut reloads) => result,
    }
}

async fn until_stopped(signals: &mut Signals) {
    while signals.next().await != Signal::Stop {}
}

/// Adds the sniffer's exit status to [`Error::SnifferExited`]. Logs a warning if the sniffer does not exit cleanly when
/// the service stops.
fn add_exit_status(result: Result<(), Error>, process: Process) -> Result<(), Error> {
    let exit = process.wait_or_kill();
    match result {
        Err(Error::SnifferExited(_)) => Err(Error::SnifferExited(exit.to_string())),
        // The error already contains the cause.
        Err(error) => Err(error),
        Ok(()) => {
            if !exit.is_clean() {
                tracing::warn!(MESSAGE_ID = kind::SNIFFER_FAILED, "sniffer did not exit cleanly: {exit}");
            }
            Ok(())
        }
    }
}
