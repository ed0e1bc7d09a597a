//! What doctor sees, with the privileges of its caller. Observing is limited in time and size, and does not change
//! anything.

pub mod bus;
pub mod config;
pub mod host;
pub mod libvirt;
pub mod loop_back;
pub mod network;
pub mod polkit;
pub mod ports;
pub mod session;

use wakevirt_service::bus::Address;
use wakevirt_service::init::Init;

use crate::client::{Client, Domain, Service};
use crate::verbs::caller::Caller;
use crate::verbs::finding::{NotChecked, Seen, not_checked};
use crate::verbs::units::{self, Units};

use bus::OnBus;
use config::{ActorConfig, CaptureConfig, Config};
use host::Preparation;
use libvirt::Machine;
use loop_back::LoopBack;
use network::Link;
use polkit::Polkit;
use ports::UdpSocket;
use session::Session;

/// Everything that doctor has seen.
#[derive(Debug)]
pub struct Observations {
    /// Who runs doctor.
    pub caller: Caller,
    /// The bus of the actor.
    pub address: Address,
    /// Whether the actor wakes virtual machines of KubeVirt, or doctor runs in a pod.
    pub in_cluster: bool,
    /// The name or UUID of the domain that does not wake, if the caller gave one.
    pub wanted: Option<String>,
    /// The init system of this host.
    pub init: Init,
    /// The system units.
    pub units: Seen<Units>,
    /// The caller's user units, if the actor is on the session bus.
    pub user_units: Option<Seen<Units>>,
    /// What the services report.
    pub bus: OnBus,
    /// polkit, and the permissions that it gives the actor.
    pub polkit: Polkit,
    /// Which of these files exist: the services' bus policies, and the polkit rule in both formats.
    pub policies: Vec<String>,
    /// The configuration of capture.
    pub capture_config: Seen<Config<CaptureConfig>>,
    /// The configuration of the actor.
    pub actor_config: Seen<Config<ActorConfig>>,
    /// The preparation of the host for its domains.
    pub host: Seen<Preparation>,
    /// The network interfaces.
    pub links: Seen<Vec<Link>>,
    /// The sockets on UDP port 9.
    pub port: Vec<UdpSocket>,
    /// The hypervisors to which the actor is not connected, and the reason if the caller cannot connect either.
    pub unconnected: Vec<(String, Option<String>)>,
    /// The named domain, or the first domains if the caller named none.
    pub machines: Vec<Machine>,
    /// The caller's libvirt daemons and their guests, if the actor uses `qemu:///session`.
    pub session: Session,
    /// The loopback test.
    pub loop_back: Option<LoopBack>,
    /// What libvirt and the loopback test did not show.
    pub unseen: Vec<NotChecked>,
}

/// The polkit rule that allows the actor to use libvirt.
pub const LIBVIRT_RULE: &str = "10-wakevirt-libvirt.rules";
/// The file with the same permissions for a polkit that does not read rules: pklocalauthority(8).
pub const PKLA: &str = "/etc/polkit-1/localauthority/50-local.d/wakevirt.pkla";

/// The maximum number of domains that doctor reads with virsh(1), if the caller named none.
const MAX_MACHINES: usize = 16;

impl Observations {
    /// Observes everything. `test` says whether to send a packet.
    pub async fn gather(client: &Client, wanted: Option<&str>, test: bool) -> Self {
        let system = Client::new(Address::System);
        let session = *client.address() == Address::Session;
        let mut bus = OnBus::read(client).await;
        // A user's actor is on the session bus, and receives packets from the system's capture.
        let on_system = *client.address() != Address::System && bus.capture.status().is_none();
        if on_system {
            let OnBus { capture, capture_process, packets, .. } = OnBus::read(&system).await;
            bus = OnBus { capture, capture_process, packets, ..bus };
        }
        let (links, port) = (network::read(), ports::read());
        let mut unseen = Vec::new();
        let mut loop_back = None;
        if let (Some(capture), Ok(links), true) = (bus.capture.status(), &links, test) {
            let client = if on_system { &system } else { client };
            match loop_back::test(client, capture, links, !port.is_empty()).await {
                Ok(result) => loop_back = Some(result),
                Err(reason) => unseen.push(reason),
            }
        }
        let in_cluster = in_cluster(&bus);
        // libvirt and polkit are not involved there.
        let machines = if in_cluster { Vec::new() } else { machines(&bus, wanted, &mut unseen) };
        let (capture_config, actor_config) = configs(&bus, in_cluster);
        let polkit_bus = if on_system { &system } else { client };
        let polkit = if in_cluster { Polkit::default() } else { Polkit::read(polkit_bus, wanted).await };
        let uses_session = session || uris(&bus).any(|(uri, _)| uri.starts_with("qemu:///session"));
        Self {
            caller: Caller::current(),
            address: client.address().clone(),
            wanted: wanted.map(str::to_owned),
            in_cluster,
            units: if in_cluster { Err(in_containers("the units of the services")) } else { units::system() },
            user_units: session.then(units::user),
            init: Init::running(),
            polkit,
            policies: policies(),
            capture_config,
            actor_config,
            host: if in_cluster { Ok(Preparation::default()) } else { host::read() },
            links,
            port,
            unconnected: unconnected(&bus, in_cluster),
            machines,
            session: if uses_session { Session::read() } else { Session::default() },
            loop_back,
            unseen,
            bus,
        }
    }

    /// A host on which nothing is visible, for tests of the checks.
    #[cfg(test)]
    pub fn nothing() -> Self {
        let unseen = || crate::verbs::finding::not_checked("it", "a test", "true");
        let bus = OnBus {
            capture: bus::Reply::Absent,
            actor: bus::Reply::Absent,
            capture_process: None,
            actor_process: None,
            domains: Err(unseen()),
            decisions: Err(unseen()),
            explanations: std::collections::BTreeMap::new(),
            packets: Err(unseen()),
        };
        Self {
            caller: Caller::Root,
            address: Address::System,
            in_cluster: false,
            wanted: None,
            init: Init::systemd(),
            units: Err(unseen()),
            user_units: None,
            bus,
            polkit: Polkit::default(),
            policies: Vec::new(),
            capture_config: Err(unseen()),
            actor_config: Err(unseen()),
            host: Ok(Preparation::default()),
            links: Err(unseen()),
            port: Vec::new(),
            unconnected: Vec::new(),
            machines: Vec::new(),
            session: Session::default(),
            loop_back: None,
            unseen: Vec::new(),
        }
    }

    /// The known domains.
    #[must_use]
    pub fn domains(&self) -> &[Domain] {
        self.bus.domains.as_deref().unwrap_or_default()
    }

    /// The named domain, if the actor knows it.
    #[must_use]
    pub fn wanted_domain(&self) -> Option<&Domain> {
        let wanted = self.wanted.as_deref()?;
        self.domains().iter().find(|domain| domain.name == wanted || domain.uuid == wanted)
    }

    /// What was not checked.
    #[must_use]
    pub fn not_checked(&self) -> Vec<NotChecked> {
        let units = [self.units.as_ref().err(), self.user_units.as_ref().and_then(|it| it.as_ref().err())];
        let running = self.bus.actor.status().is_some();
        let lists = [self.bus.domains.as_ref().err(), self.bus.decisions.as_ref().err()]
            .map(|it| it.filter(|_| running));
        let packets = self.bus.packets.as_ref().err().filter(|_| self.bus.capture.status().is_some());
        let configs =
            [self.capture_config.as_ref().err(), self.actor_config.as_ref().err(), self.host.as_ref().err()];
        let all =
            units.into_iter().chain(lists).chain([packets]).chain(configs).chain([self.links.as_ref().err()]);
        all.flatten().chain(&self.unseen).cloned().collect()
    }
}

/// The paths of those files that exist: the services' bus policies, and the polkit rule in both formats.
fn policies() -> Vec<String> {
    let directories = ["/usr/share", "/etc"];
    let files = directories.iter().flat_map(|directory| {
        let names = Service::BOTH.map(|service| format!("dbus-1/system.d/{}.conf", service.bus_name()));
        let names = names.into_iter().chain([format!("polkit-1/rules.d/{LIBVIRT_RULE}")]);
        names.map(move |name| format!("{directory}/{name}"))
    });
    files.chain([PKLA.to_owned()]).filter(|path| std::fs::exists(path).unwrap_or(false)).collect()
}

/// The actor's connections, and whether each is connected.
fn uris(bus: &OnBus) -> impl Iterator<Item = (&str, bool)> {
    let connections = bus.actor.status().into_iter().flat_map(|status| &status.connections);
    connections.map(|connection| (connection.uri.as_str(), connection.connected))
}

/// Whether the actor wakes virtual machines of KubeVirt. If its connections are unknown, whether this process runs in a
/// pod: <https://kubernetes.io/docs/concepts/containers/container-environment/>.
fn in_cluster(bus: &OnBus) -> bool {
    match bus.actor.status() {
        Some(_) => uris(bus).any(|(uri, _)| uri.starts_with("kubevirt:")),
        None => std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
    }
}

/// Reads the configurations of capture and of the actor. In a cluster, that of capture is in another container.
fn configs(bus: &OnBus, in_cluster: bool) -> (Seen<Config<CaptureConfig>>, Seen<Config<ActorConfig>>) {
    if in_cluster {
        let capture = Err(in_containers("the configuration of wakevirt-capture"));
        return (capture, config::read(Service::Actor, "wakevirt-kubevirt", None));
    }
    let [capture, actor] = Service::BOTH.map(Service::unit);
    (
        config::read(Service::Capture, capture, bus.capture_process),
        config::read(Service::Actor, actor, bus.actor_process),
    )
}

/// Says that something of another container is not visible.
fn in_containers(what: &str) -> NotChecked {
    not_checked(
        what,
        "Kubernetes runs the services, in containers",
        "kubectl --namespace wakevirt get pods,configmaps",
    )
}

fn unconnected(bus: &OnBus, in_cluster: bool) -> Vec<(String, Option<String>)> {
    let unconnected = uris(bus).filter(|(_, connected)| !connected);
    let problem = |uri: &str| if in_cluster { None } else { libvirt::connects(uri).err() };
    unconnected.map(|(uri, _)| (uri.to_owned(), problem(uri))).collect()
}

/// Reads the named domain, or the first domains if the caller named none.
fn machines(bus: &OnBus, wanted: Option<&str>, unseen: &mut Vec<NotChecked>) -> Vec<Machine> {
    let domains = bus.domains.as_deref().unwrap_or_default();
    let is_wanted =
        |domain: &&Domain| wanted.is_none_or(|name| [&domain.name, &domain.uuid].contains(&&name.to_owned()));
    let wanted: Vec<&Domain> = domains.iter().filter(is_wanted).collect();
    let mut machines = Vec::new();
    for domain in wanted.iter().take(MAX_MACHINES) {
        match libvirt::machine(&domain.connection, &domain.name) {
            Ok(machine) => machines.push(machine),
            Err(reason) => {
                unseen.push(reason);
                break;
            }
        }
    }
    machines
}
