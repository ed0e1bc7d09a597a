//! The parts of the running service, and what holds them together.

use std::cell::RefCell;
use std::sync::Arc;

use tokio::sync::{Mutex, broadcast, mpsc, oneshot, watch};
use wakevirt_protocol::bus::ACTOR_NAME;
use wakevirt_service::bus::{Address, keep};
use wakevirt_service::lifecycle::{self, Signal, Signals, Trouble};
use wakevirt_service::logs::Logs;
use zbus::Connection;
use zbus::names::OwnedUniqueName;

use crate::Error;
use crate::Options;
use crate::announcer::interest::{self, Macs};
use crate::announcer::interfaces::{self, Named};
use crate::announcer::listen;
use crate::announcer::lost::Lost;
use crate::announcer::merge::Merge;
use crate::announcer::password::{self, Fetch};
use crate::api::access::Gate;
use crate::api::{self, Actor1, Reload};
use crate::config::Config;
use crate::engine::memory::Memory;
use crate::engine::request::Requests;
use crate::engine::{Actor, Inlets, Outlets, Status, boottime};
use crate::hypervisor::libvirt;

/// Packets that may wait for a decision; for what goes beyond the announcer is asked again later.
const PACKETS: usize = 1024;
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
    let lost = Lost::default();
    let (macs_in, macs) = watch::channel(Macs::default());
    let (status_in, status) = watch::channel(Status::default());
    let finished = broadcast::Sender::new(DECISIONS);
    let requests = Requests::new(requests);
    let (fetches, fetches_out) = mpsc::channel(REQUESTS);
    let (reloads, reloads_out) = mpsc::channel(1);
    let fetches_out = Mutex::new(fetches_out);
    let (named_in, named) = watch::channel(interfaces::named(&config.policy.rules));
    let (memory, state) = Memory::open();
    let merge =
        if memory.is_kept() { Merge::new(state.position.clone()) } else { Merge::from_now_on(boottime()) };
    let merge = RefCell::new(merge);

    let outlets =
        Outlets { finished: finished.clone(), macs: macs_in, status: status_in, fetches, lost: lost.clone() };
    let connections: Vec<Arc<str>> = config.connections.iter().map(|uri| uri.as_str().into()).collect();
    let actor = Actor::new(&connections, config.policy.clone(), outlets).remembering(memory, state);
    tokio::spawn(actor.run(Inlets { packets: packets_out, requests: requests_out, updates: updates_out }));
    for uri in connections {
        tokio::spawn(libvirt::Link::start(uri, updates.clone())?.keep());
    }
    drop(updates);

    let owner = (options.common.bus != Address::System).then(|| nix::unistd::geteuid().as_raw());
    let gate = Gate::new(owner);
    let (caught_up, is_caught_up) = watch::channel(false);
    let calls = api::calls();
    // Calls come on a connection of their own: what they ask for, and packets, come on the other one, and
    // wait behind no call.
    let serving = RefCell::new(None);
    let serve = async |bus: &Connection| {
        let called = options.common.bus.connect(Some(&calls)).await?;
        serving.replace(Some(called.clone()));
        let (requests, reloads, status) = (requests.clone(), reloads.clone(), status.clone());
        let interface = Actor1 { requests, reloads, status, gate: gate.asking(bus), lost: lost.clone() };
        tokio::select! {
            served = api::serve(&called, interface, finished.subscribe(), is_caught_up.clone()) => served,
            () = calls.look_up_users(bus) => Ok(()),
            // Without it nobody says who calls.
            () = bus.closed() => Err(wakevirt_service::bus::Error::Closed),
        }
    };
    let leave = async || {
        if let Some(called) = serving.take() {
            wakevirt_service::bus::leave(called, ACTOR_NAME).await;
        }
    };
    let hear = async |bus: &Connection| {
        let (owner, owners) = watch::channel(None);
        let outlets =
            listen::Outlets { packets: &packets, owner: &owner, caught_up: &caught_up, lost: lost.clone() };
        hear(bus, outlets, owners, macs.clone(), named.clone(), &fetches_out, &merge).await
    };
    // Ready all the same: it follows the hypervisors, and finishes what was under way.
    let away = || lifecycle::ready("waiting for the bus");
    let buses = async {
        let (bus, capture_bus) = (&options.common.bus, &options.capture_bus);
        if bus == capture_bus {
            let both = async |bus: &Connection| {
                let result = tokio::try_join!(serve(bus), hear(bus)).map(drop);
                leave().await;
                result
            };
            keep(bus, None, both, away).await
        } else {
            let serve = async |bus: &Connection| {
                let result = serve(bus).await;
                leave().await;
                result
            };
            tokio::try_join!(keep(bus, None, serve, away), keep(capture_bus, None, hear, away)).map(drop)
        }
    };
    let result = tokio::select! {
        result = buses => Ok(result?),
        () = obey(signals, reloads_out, options, config, logs, &requests, &named_in) => Ok(()),
    };
    requests.remember().await;
    result
}

/// Hears packets, and tells the announcer whose packets matter, until the connection is lost.
async fn hear(
    bus: &Connection,
    outlets: listen::Outlets<'_>,
    owners: watch::Receiver<Option<OwnedUniqueName>>,
    macs: watch::Receiver<Macs>,
    named: watch::Receiver<Named>,
    fetches: &Mutex<mpsc::Receiver<Fetch>>,
    merge: &RefCell<Merge>,
) -> Result<(), wakevirt_service::bus::Error> {
    tokio::select! {
        result = listen::listen(bus, outlets, merge) => result,
        () = interest::tell(bus, owners.clone(), macs) => Ok(()),
        () = interfaces::check(bus, owners.clone(), named) => Ok(()),
        () = password::serve(bus, owners, fetches) => Ok(()),
    }
}

/// Does what signals and callers ask for, until a signal asks to end.
async fn obey(
    mut signals: Signals,
    mut reloads: mpsc::Receiver<Reload>,
    options: &Options,
    mut config: Config,
    logs: &Logs,
    requests: &Requests,
    named: &watch::Sender<Named>,
) {
    loop {
        let caller = tokio::select! {
            signal = signals.next() => match signal {
                Signal::Stop => return,
                Signal::Reload => None,
            },
            Some(caller) = reloads.recv() => Some(caller),
        };
        let result = Config::load(options).map_err(|error| error.to_string());
        let told = result.as_ref().map(drop).map_err(Clone::clone);
        match result {
            Ok(new) => {
                config = put_in_force(new, config, logs, requests, named).await;
                lifecycle::end_trouble(Trouble::Reload);
            }
            Err(error) => {
                tracing::error!("the configuration stays as it was: {error}");
                lifecycle::begin_trouble(Trouble::Reload, &format!("the last reload failed: {error}"));
            }
        }
        // A caller who does not wait any more needs no answer.
        caller.map(|caller: oneshot::Sender<_>| caller.send(told));
    }
}

async fn put_in_force(
    new: Config,
    old: Config,
    logs: &Logs,
    requests: &Requests,
    named: &watch::Sender<Named>,
) -> Config {
    tracing::info!("the configuration was read again");
    if new.connections != old.connections {
        let connections = new.connections.join(", ");
        tracing::warn!("connections has changed: restart the service to connect to {connections}");
    }
    logs.set_level(new.log);
    named.send_replace(interfaces::named(&new.policy.rules));
    requests.policy(new.policy.clone()).await;
    Config { connections: old.connections, ..new }
}
