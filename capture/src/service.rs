//! The announcer: starts the sniffer, drops the privileges that the sniffer needed, and publishes the
//! packets that it receives. It never sees a packet's bytes, and does not trust the sniffer's messages.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use caps::Capability;
use wakevirt_service::lifecycle::{self, Signal, Signals};
use wakevirt_service::logs::{self, Logs};
use wakevirt_service::user;

use crate::bus;
use crate::config::options::Options;
use crate::config::{Settings, USER};
use crate::error::Error;
use crate::network::activation::HandedOver;
use crate::network::interfaces::{self, Interfaces};
use crate::network::udp;
use crate::shared::Shared;
use crate::sniffer::child::{self, Process, Sniffer};
use crate::sniffer::reader::{self, Reader};

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
    let mode = reader::ready(&channel, settings.start.request).await?;
    let shared = Arc::new(Shared::new(&settings, mode)?);
    let interfaces = Interfaces::watch(links).map_err(Error::Interfaces)?;
    let mut hearing = Reader::new(channel, interfaces, Arc::clone(&shared), settings, options.clone(), logs)?;
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
