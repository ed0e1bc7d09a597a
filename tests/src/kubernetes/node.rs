//! A node of a cluster: a host with a bus, capture, and the actor for KubeVirt.

use wakevirt_protocol::bus::ACTOR_NAME;

use crate::bus::{Bus, Kind};
use crate::daemon::Daemon;
use crate::host::{Host, User};
use crate::process::Process;

/// The kubeconfig that [`Cluster::install_kubeconfig`](super::cluster::Cluster::install_kubeconfig) writes.
pub const KUBECONFIG: &str = "/run/wakevirt-cluster/kubeconfig";

/// The services on a host. The actor is the only one that uses the API server.
#[derive(Debug)]
pub struct Node<'host> {
    host: &'host Host,
    config: String,
    /// The actor. `None` after it was killed.
    pub actor: Option<Daemon>,
    /// Capture.
    pub capture: Daemon,
    finished: Process,
    _bus: Bus<'host>,
}

impl<'host> Node<'host> {
    /// Starts the services, and waits until the actor knows the virtual machines. `config` is the actor's configuration
    /// without the connection.
    ///
    /// # Panics
    /// If a service does not start.
    #[must_use]
    pub fn start(host: &'host Host, config: &str) -> Self {
        let bus = Bus::start(host, Kind::DbusDaemon);
        let capture = Daemon::capture(host).start_on_bus();
        let config = format!("connections = [\"kubevirt://{KUBECONFIG}\"]\n{config}");
        let actor = Daemon::kubevirt(host).config(&config).start_connected();
        let finished = host.monitor(User::Unprivileged, ACTOR_NAME);
        Self { host, config, actor: Some(actor), capture, finished, _bus: bus }
    }

    /// The actor.
    ///
    /// # Panics
    /// If it was killed.
    #[must_use]
    pub fn actor(&self) -> &Daemon {
        self.actor.as_ref().expect("the actor is running")
    }

    /// Kills the actor (SIGKILL), and starts it again without waiting for its connection.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart_actor(&mut self) {
        if let Some(mut actor) = self.actor.take() {
            actor.kill();
        }
        self.actor = Some(Daemon::kubevirt(self.host).config(&self.config).start_on_bus());
    }

    /// Waits for the `nth` `WakeFinished` for a virtual machine, counted from 1. Returns the outcome and the whole
    /// signal.
    ///
    /// # Panics
    /// If there is no such signal.
    #[must_use]
    pub fn outcome(&self, vm: &str, nth: usize) -> (String, String) {
        let before = before_outcome(vm);
        let line = self.finished.log().wait_for_nth(&before, nth);
        let outcome = line.split(&before).nth(1).and_then(|rest| rest.split('\'').next());
        (outcome.unwrap_or_default().to_owned(), line)
    }

    /// The number of `WakeFinished` signals so far for virtual machines whose name ends with `vm`, with this outcome.
    #[must_use]
    pub fn outcomes(&self, vm: &str, outcome: &str) -> usize {
        self.finished.log().count(&format!("{}{outcome}'", before_outcome(vm)))
    }

    /// All signals of the actor so far.
    #[must_use]
    pub fn signals(&self) -> Vec<String> {
        self.finished.log().all()
    }
}

/// The part of a `WakeFinished`, as gdbus(1) prints it, between the MAC address and the outcome.
fn before_outcome(vm: &str) -> String {
    format!("', '{vm}', '")
}
