//! The parts of the running service, and what holds them together.

use tokio::sync::{broadcast, mpsc, watch};
use wakevirt_service::lifecycle::{Signal, Signals};
use wakevirt_service::logs::Logs;
use zbus::Connection;

use crate::actor::{Actor, Inlets, Outlets, Status};
use crate::bus::{self, Actor1};
use crate::config::Config;
use crate::interest::{self, Macs};
use crate::keep::keep;
use crate::listen::{Packet, listen};
use crate::request::Requests;
use crate::rules::Rules;
use crate::{Error, Options, hypervisor};

/// Packets that may wait for a decision; what goes beyond is lost, and counted.
const PACKETS: usize = 256;
/// Requests and the hypervisor's news that may wait; who brings more waits with them.
const REQUESTS: usize = 64;
/// Decisions that may wait for the bus; what goes beyond is not told there.
const DECISIONS: usize = 256;

/// Runs until the process is asked to end.
pub(crate) async fn serve(options: &Options, config: Config, logs: &Logs) -> Result<(), Error> {
    let signals = Signals::new().map_err(Error::Start)?;
    let (packets, packets_out) = mpsc::channel(PACKETS);
    let (requests, requests_out) = mpsc::channel(REQUESTS);
    let (updates, updates_out) = mpsc::channel(REQUESTS);
    let (macs_in, macs) = watch::channel(Macs::default());
    let (status_in, status) = watch::channel(Status::default());
    let finished = broadcast::Sender::new(DECISIONS);
    let requests = Requests::new(requests);
    tell(&config.rules);

    let outlets = Outlets { finished: finished.clone(), macs: macs_in, status: status_in };
    let actor = Actor::new(config.connection.clone(), config.rules.clone(), outlets);
    tokio::spawn(actor.run(Inlets { packets: packets_out, requests: requests_out, updates: updates_out }));
    tokio::spawn(hypervisor::keep(config.connection.clone(), updates));

    let interface = Actor1 { connection: config.connection.clone(), requests: requests.clone(), status };
    let serve = async |bus: &Connection| bus::serve(bus, &interface, finished.subscribe()).await;
    let hear = async |bus: &Connection| hear(bus, &packets, macs.clone()).await;
    let buses = async {
        let (bus, capture_bus) = (&options.common.bus, &options.capture_bus);
        if bus == capture_bus {
            let both = async |bus: &Connection| tokio::try_join!(serve(bus), hear(bus)).map(drop);
            keep(bus, both).await
        } else {
            tokio::try_join!(keep(bus, serve), keep(capture_bus, hear)).map(drop)
        }
    };
    tokio::select! {
        result = buses => result,
        () = obey(signals, options, config, logs, &requests) => Ok(()),
    }
}

/// Hears packets, and tells the announcer whose packets matter, until the connection is lost.
async fn hear(
    bus: &Connection,
    packets: &mpsc::Sender<Packet>,
    macs: watch::Receiver<Macs>,
) -> Result<(), Error> {
    let (owner, owners) = watch::channel(None);
    tokio::select! {
        result = listen(bus, packets, &owner) => result,
        () = interest::tell(bus, owners, macs) => Ok(()),
    }
}

/// Does what signals ask for, until one asks to end.
async fn obey(mut signals: Signals, options: &Options, mut config: Config, logs: &Logs, requests: &Requests) {
    while let Signal::Reload = signals.next().await {
        match Config::load(options) {
            Ok(new) => {
                tracing::info!("the configuration is read again");
                if new.connection != config.connection {
                    tracing::warn!(
                        "connections has changed: restart the service to connect to {}",
                        new.connection
                    );
                }
                logs.set_level(new.log);
                tell(&new.rules);
                requests.rules(new.rules.clone()).await;
                config = Config { connection: config.connection, ..new };
            }
            Err(error) => tracing::error!("the configuration stays as it was: {error}"),
        }
    }
}

fn tell(rules: &Rules) {
    if rules.is_empty() {
        tracing::warn!(
            "no packet can wake anything, for no rule allows it; to allow the domain NAME, write the two \
             lines [[allow]] and domain = \"NAME\" to /etc/wakevirt/actor.toml and reload the service"
        );
    }
}
