//! The running service: creates the modules' tasks, connects them with channels, and runs them until a signal stops the
//! process.

mod reload;

use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, watch};
use wakevirt_service::bus::{Address, run_connected};
use wakevirt_service::lifecycle::{self, Signals};
use wakevirt_service::logs::Logs;
use zbus::Connection;

use crate::announcer::{Client, LostPackets, Macs, Merge, named_interfaces};
use crate::api::access::Authorizer;
use crate::api::{Actor1, Server};
use crate::config::Config;
use crate::engine::request::Requests;
use crate::engine::state_file::StateFile;
use crate::engine::{Engine, Inputs, Outputs, Status};
use crate::hypervisor::{Driver, Endpoint, Keeper};
use crate::{Error, Options};
use reload::Reloader;

/// The maximum number of packets that are queued for the engine. Further packets are requested again with a replay.
const PACKET_QUEUE: usize = 1024;
/// The maximum length of the queues for requests, hypervisor updates and password requests. Senders wait for room.
const REQUEST_QUEUE: usize = 64;
/// The maximum number of decisions that are queued to be emitted as signals. Further decisions are not emitted.
const DECISION_QUEUE: usize = 256;

/// Runs until a signal stops the process.
///
/// # Errors
/// If a task cannot be started, or the bus does not grant the name.
pub(crate) async fn run<D: Driver>(options: &Options, config: Config, logs: &Logs) -> Result<(), Error> {
    let signals = Signals::new().map_err(Error::Start)?;
    let (mut client, mut server, reloader) = start::<D>(options, &config)?;
    let requests = reloader.requests.clone();
    let result = tokio::select! {
        result = connect(options, &mut client, &mut server) => result.map_err(Error::from),
        () = reloader.run(signals, options, config, logs) => Ok(()),
    };
    requests.save_state().await;
    result
}

/// Starts the engine and the keepers of the hypervisor connections. Returns the parts that use the bus.
fn start<D: Driver>(options: &Options, config: &Config) -> Result<(Client, Server, Reloader), Error> {
    let (packets, packets_out) = mpsc::channel(PACKET_QUEUE);
    let (requests, requests_out) = mpsc::channel(REQUEST_QUEUE);
    let (updates, updates_out) = mpsc::channel(REQUEST_QUEUE);
    let (fetches, fetches_out) = mpsc::channel(REQUEST_QUEUE);
    let (reloads, reloads_out) = mpsc::channel(1);
    let (macs_in, macs) = watch::channel(Macs::default());
    let (status_in, status) = watch::channel(Status::default());
    let (named_in, named) = watch::channel(named_interfaces(&config.policy.rules));
    let (valid_in, valid) = watch::channel(true);
    let (caught_up, is_caught_up) = watch::channel(false);
    let (lost, decisions) = (LostPackets::default(), broadcast::Sender::new(DECISION_QUEUE));

    let (state_file, saved) = StateFile::open();
    let merge = Merge::new(saved.position.clone(), saved.not_before);
    let outputs = Outputs {
        decisions: decisions.clone(),
        macs: macs_in,
        status: status_in,
        fetches,
        lost: lost.clone(),
    };
    let endpoints: Vec<_> = config.connections.iter().map(|uri| Endpoint::new::<D>(uri)).collect();
    let uris: Vec<_> = endpoints.iter().map(|endpoint| Arc::clone(&endpoint.uri)).collect();
    let engine = Engine::new(endpoints, config.policy.clone(), outputs).with_saved_state(state_file, saved);
    tokio::spawn(engine.run(Inputs { packets: packets_out, requests: requests_out, updates: updates_out }));
    for uri in uris {
        tokio::spawn(
            Keeper::<D>::start(uri, &config.scope, &decisions, updates.clone()).map_err(Error::Start)?.run(),
        );
    }

    let owner = (options.common.bus != Address::System).then(|| nix::unistd::geteuid().as_raw());
    let requests = Requests::new(requests);
    let client = Client { merge, packets, caught_up, lost: lost.clone(), macs, named, fetches: fetches_out };
    let interface = Actor1 {
        requests: requests.clone(),
        reloads,
        status,
        valid,
        authorizer: Authorizer::new(owner, D::PROGRAM.group),
        lost,
    };
    let server = Server::new(options.common.bus.clone(), interface, decisions, is_caught_up);
    let reloader =
        Reloader { program: &D::PROGRAM, requests, reloads: reloads_out, named: named_in, valid: valid_in };
    Ok((client, server, reloader))
}

/// Runs the client and the server on their buses, which can be the same, and reconnects after a lost connection.
async fn connect(
    options: &Options,
    client: &mut Client,
    server: &mut Server,
) -> Result<(), wakevirt_service::bus::BusError> {
    let (bus, capture_bus) = (&options.common.bus, &options.capture_bus);
    // The service stays ready: the engine continues to follow the hypervisors and finishes its wakes.
    let disconnected = || lifecycle::ready("waiting for the bus");
    if bus == capture_bus {
        let both = async |bus: &Connection| {
            let result = tokio::try_join!(server.run(bus), client.run(bus)).map(drop);
            server.disconnect().await;
            result
        };
        run_connected(bus, None, both, disconnected).await
    } else {
        let serve = async |bus: &Connection| {
            let result = server.run(bus).await;
            server.disconnect().await;
            result
        };
        let receive = async |bus: &Connection| client.run(bus).await;
        let served = run_connected(bus, None, serve, disconnected);
        tokio::try_join!(served, run_connected(capture_bus, None, receive, disconnected)).map(drop)
    }
}
