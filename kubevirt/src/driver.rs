//! The driver: watches the virtual machines of one cluster, and starts them.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kube::runtime::watcher::Event;
use uuid::Uuid;
use wakevirt_actor::config::Scope;
use wakevirt_actor::hypervisor::{Commands, Connected, Decisions, Driver, HypervisorError, Updates};
use wakevirt_actor::model::{Domain, Program};
use wakevirt_service::logs::{kind, quoted};

use crate::client::clients;
use crate::events::Events;
use crate::machines::object::VirtualMachine;
use crate::machines::{MAX_MACHINES, Machine, Machines, Names, domain};
use crate::uri::ClusterUri;
use crate::wake::{Cluster, Waker};
use crate::watch::{Selected, Watches};

/// KubeVirt in one cluster.
pub struct KubeVirt {
    uri: Arc<str>,
    parsed: ClusterUri,
    scope: Scope,
    events: Events,
    connection: Option<Connection>,
}

/// An open connection.
struct Connection {
    watches: Watches,
    cluster: Arc<Cluster>,
    names: Names,
    /// The namespaces that count; `None` if all do.
    selected: Option<Selected>,
    /// The virtual machines in the list that a watch is receiving, for each watch.
    listed: Vec<HashSet<Uuid>>,
    /// Whether the log says that there are too many.
    is_full: bool,
}

/// A change to report.
enum Change {
    Domain(Domain),
    Gone(Uuid),
}

impl Driver for KubeVirt {
    const PROGRAM: Program = Program {
        name: "wakevirt-kubevirt",
        uri: "kubevirt://",
        check_uri: |uri| uri.parse::<ClusterUri>().map(drop),
        cool_down: Duration::from_secs(10),
        group: None,
        is_cluster: true,
    };

    fn prepare(_uris: &[String]) -> io::Result<()> {
        Ok(())
    }

    fn start(uri: &Arc<str>, scope: &Scope, decisions: &Decisions) -> io::Result<Self> {
        let parsed = uri.parse().map_err(io::Error::other)?;
        let events = Events::new(uri, decisions.subscribe());
        Ok(Self { uri: Arc::clone(uri), parsed, scope: scope.clone(), events, connection: None })
    }

    fn commands(uri: &str) -> Commands {
        let parsed: ClusterUri = uri.parse().unwrap_or_default();
        let option = |name, value| format!(" --{name}={value}");
        let kubeconfig = parsed.kubeconfig.map(|path| option("kubeconfig", path.display().to_string()));
        let context = parsed.context.map(|context| option("context", context));
        let kubectl = format!(
            "kubectl{}{} get virtualmachines",
            kubeconfig.unwrap_or_default(),
            context.unwrap_or_default()
        );
        Commands {
            list_domains: format!("{kubectl} --all-namespaces"),
            list_addresses: format!(
                "{kubectl} NAME --namespace=NAMESPACE \
                 --output=jsonpath='{{.spec.template.spec.domain.devices.interfaces[*].macAddress}}'"
            ),
        }
    }

    async fn connect(&mut self) -> Result<Connected, HypervisorError> {
        let clients = clients(&self.parsed).await?;
        let selector = self.scope.machines.as_deref();
        let mut watches = Watches::start(&clients.watch, &self.parsed.namespaces, selector);
        let selected = match &self.scope.namespaces {
            Some(selector) => Some(watches.select(&clients.watch, selector).await?),
            None => None,
        };
        let cluster = Arc::new(Cluster::new(clients, Machines::new()));
        let listed = vec![HashSet::new(); watches.count()];
        let mut connection =
            Connection { watches, cluster, names: Names::default(), selected, listed, is_full: false };
        let domains = connection.list(&self.uri).await?;
        let hypervisor = Arc::new(Waker(Arc::clone(&connection.cluster)));
        self.connection = Some(connection);
        Ok(Connected { hypervisor, domains })
    }

    async fn follow(&mut self, updates: &Updates) -> String {
        let Some(connection) = &mut self.connection else { return HypervisorError::NotConnected.to_string() };
        let cluster = Arc::clone(&connection.cluster);
        tokio::select! {
            error = connection.follow(&self.uri, updates) => error.to_string(),
            reason = cluster.lost() => reason,
            () = self.events.run(&cluster.clients.call) => String::new(),
        }
    }

    async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.cluster.lose("the connection was closed");
        }
    }
}

impl Connection {
    /// Waits for the first list of each watch, and returns all virtual machines.
    async fn list(&mut self, uri: &Arc<str>) -> Result<Vec<Domain>, HypervisorError> {
        // A watch that is interrupted lists its virtual machines again, perhaps before another one has done so once.
        let mut missing: HashSet<usize> = (0..self.watches.count()).collect();
        let mut domains = HashMap::new();
        while !missing.is_empty() {
            let (watch, event) = self.watches.next().await;
            let event = event?;
            if matches!(event, Event::InitDone) {
                missing.remove(&watch);
            }
            self.apply(uri, watch, event, &mut |change| match change {
                Change::Domain(domain) => drop(domains.insert(domain.id.uuid, domain)),
                Change::Gone(uuid) => drop(domains.remove(&uuid)),
            });
        }
        Ok(domains.into_values().collect())
    }

    /// Reports changes until a watch ends; returns its error.
    async fn follow(&mut self, uri: &Arc<str>, updates: &Updates) -> HypervisorError {
        loop {
            let (watch, event) = self.watches.next().await;
            let event = match event {
                Ok(event) => event,
                Err(error) => return error,
            };
            let mut changes = Vec::new();
            self.apply(uri, watch, event, &mut |change| changes.push(change));
            for change in changes {
                match change {
                    Change::Domain(domain) => updates.domain(domain).await,
                    Change::Gone(uuid) => updates.gone(uuid).await,
                }
            }
        }
    }

    /// Applies an event to the known virtual machines.
    fn apply(
        &mut self,
        uri: &Arc<str>,
        watch: usize,
        event: Event<VirtualMachine>,
        report: &mut impl FnMut(Change),
    ) {
        let machines = &self.cluster.machines;
        match event {
            Event::Init => {
                if let Some(listed) = self.listed.get_mut(watch) {
                    listed.clear();
                }
            }
            Event::InitDone => {
                let listed = self.listed.get_mut(watch).map(std::mem::take).unwrap_or_default();
                machines.retain(watch, &listed).into_iter().for_each(|uuid| report(Change::Gone(uuid)));
            }
            Event::Delete(object) => {
                if let Ok(machine) = Machine::read(&object) {
                    machines.remove(machine.uuid);
                    report(Change::Gone(machine.uuid));
                }
            }
            Event::InitApply(object) => {
                if let Some(machine) = self.put(uri, watch, &object, report)
                    && let Some(listed) = self.listed.get_mut(watch)
                {
                    listed.insert(machine);
                }
            }
            Event::Apply(object) => drop(self.put(uri, watch, &object, report)),
        }
    }

    fn put(
        &mut self,
        uri: &Arc<str>,
        watch: usize,
        object: &VirtualMachine,
        report: &mut impl FnMut(Change),
    ) -> Option<Uuid> {
        let mut machine = match Machine::read(object) {
            Ok(machine) => machine,
            Err(problem) => {
                let name = object.metadata.name.as_deref().unwrap_or_default();
                tracing::debug!("virtual machine {} on {uri} is ignored: {problem}", quoted(name));
                return None;
            }
        };
        if self.selected.as_ref().is_some_and(|selected| !selected.contains(&machine.namespace)) {
            return None;
        }
        machine.namespace = self.names.intern(&machine.namespace);
        let (uuid, domain) = (machine.uuid, domain(uri, &machine, object));
        if self.cluster.machines.put(watch, machine) {
            report(Change::Domain(domain));
            return Some(uuid);
        }
        if !std::mem::replace(&mut self.is_full, true) {
            tracing::warn!(
                MESSAGE_ID = kind::DOMAIN_UNREADABLE,
                WAKEVIRT_CONNECTION = &**uri,
                WAKEVIRT_DOMAIN = domain.name,
                "{uri} has more than {MAX_MACHINES} virtual machines: {} and others are ignored; set vm-selector, or name \
                 namespaces in the URI",
                quoted(&domain.name)
            );
        }
        None
    }
}
