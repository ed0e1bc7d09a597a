//! A client of both services on the bus.
//!
//! A wake starts the actor. No other call starts a service.

mod error;
mod managed;
mod values;

use std::time::Duration;

use serde::Serialize;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use wakevirt_protocol::bus::{
    ACTOR_NAME, Actor1Proxy, CAPTURE_NAME, Capture1Proxy, Dict, MagicPacketStream, WakeFinishedStream,
};
use wakevirt_protocol::explain::Explanation;
use wakevirt_service::bus::Address;
use zbus::connection;
use zbus::proxy::{Builder, CacheProperties, MethodFlags};
use zbus::wire::DynamicDeserialize;
use zbus::{Connection, DynamicType, Proxy};

pub use error::Error;
pub use managed::Managed;
pub use values::{
    ActorStatus, CaptureStatus, Decision, DecisionDetails, Domain, HypervisorConnection, Packet,
    UnknownAddress, WakeLatency,
};

/// The timeout of a call, as in libdbus and GDBus.
const CALL_TIMEOUT: Duration = Duration::from_secs(25);
/// The timeout of a wake: polkit waits five minutes for a password, and the actor waits 18 s for the wake to end.
const WAKE_TIMEOUT: Duration = Duration::from_secs(330);
/// The maximum number of replies that are read for one list. A reply has at most 256 KiB.
const MAX_PAGES: usize = 1000;

/// Details of a packet, as in the `MagicPacket` signal.
pub type Details = std::collections::HashMap<&'static str, zbus::Variant<'static>>;

/// One of the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// `wakevirt-capture`.
    Capture,
    /// `wakevirt-actor`.
    Actor,
}

impl Service {
    /// Both services, in the order in which a packet passes them.
    pub const BOTH: [Self; 2] = [Self::Capture, Self::Actor];

    /// The bus name, which is also the name of the interface.
    #[must_use]
    pub const fn bus_name(self) -> &'static str {
        match self {
            Self::Capture => CAPTURE_NAME,
            Self::Actor => ACTOR_NAME,
        }
    }

    /// The name of the unit and of the program.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Capture => "wakevirt-capture",
            Self::Actor => "wakevirt-actor",
        }
    }

    fn path(self) -> String {
        format!("/{}", self.bus_name().replace('.', "/"))
    }
}

/// What identifies the domain to wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// A MAC address.
    Mac(&'a str),
    /// A name or UUID.
    Domain(&'a str),
}

/// A client, which connects to the bus on the first call.
#[derive(Debug)]
pub struct Client {
    address: Address,
    connection: OnceCell<Connection>,
    /// The connection to the system bus, if a user's own actor is on the session bus.
    system: OnceCell<Connection>,
}

impl Client {
    /// Creates a client for this bus.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self { address, connection: OnceCell::new(), system: OnceCell::new() }
    }

    /// The bus.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The connection to the bus.
    ///
    /// # Errors
    /// [`Error::NoBus`].
    pub async fn connection(&self) -> Result<&Connection, Error> {
        self.connection.get_or_try_init(|| connect(&self.address)).await
    }

    /// The bus of a service. A user's own actor is on the session bus, and receives packets from the system's capture.
    #[must_use]
    pub fn address_of(&self, service: Service) -> &Address {
        match (service, &self.address) {
            (Service::Capture, Address::Session) => &Address::System,
            (_, address) => address,
        }
    }

    async fn connection_to(&self, service: Service) -> Result<&Connection, Error> {
        let address = self.address_of(service);
        let connection = if *address == self.address { &self.connection } else { &self.system };
        connection.get_or_try_init(|| connect(address)).await
    }

    /// The status of capture.
    ///
    /// # Errors
    /// If the service is not running or does not reply.
    pub async fn capture_status(&self) -> Result<CaptureStatus, Error> {
        Ok(CaptureStatus::from(self.properties(Service::Capture).await?))
    }

    /// The status of the actor.
    ///
    /// # Errors
    /// If the service is not running or does not reply.
    pub async fn actor_status(&self) -> Result<ActorStatus, Error> {
        Ok(ActorStatus::from(self.properties(Service::Actor).await?))
    }

    /// All known domains, sorted by connection and UUID.
    ///
    /// # Errors
    /// If the actor is not running, denies the call, or knows no domain and a hypervisor is unavailable.
    pub async fn domains(&self) -> Result<Vec<Domain>, Error> {
        let mut domains: Vec<Domain> = Vec::new();
        for _ in 0..MAX_PAGES {
            let last = domains.last().map_or(("", ""), |last| (last.connection.as_str(), last.uuid.as_str()));
            let page: Vec<Dict> = self.call(Service::Actor, "ListDomainsAfter", &last).await?;
            if page.is_empty() {
                break;
            }
            domains.extend(page.into_iter().map(Domain::from));
        }
        Ok(domains)
    }

    /// The latest decisions, at most this many, newest first.
    ///
    /// # Errors
    /// If the actor is not running or denies the call.
    pub async fn history(&self, most: usize) -> Result<Vec<Decision>, Error> {
        let mut decisions: Vec<Decision> = Vec::new();
        let mut before = u64::MAX;
        while decisions.len() < most {
            let rest = u32::try_from(most - decisions.len()).unwrap_or(u32::MAX);
            let page: Vec<Dict> = self.call(Service::Actor, "HistoryBefore", &(before, rest)).await?;
            let page: Vec<Decision> = page.into_iter().map(Decision::from).collect();
            // The numbers decrease, so the loop ends.
            match page.last().and_then(|last| last.number) {
                Some(number) if number < before => before = number,
                _ => break,
            }
            decisions.extend(page);
        }
        Ok(decisions)
    }

    /// Wakes a domain, and returns the outcome. The call starts the actor if its unit is enabled. If `interactive` is set,
    /// polkit can ask for a password.
    ///
    /// # Errors
    /// If the call is denied or the domain is not woken.
    pub async fn wake(&self, target: Target<'_>, interactive: bool) -> Result<String, Error> {
        let (method, argument) = match target {
            Target::Mac(mac) => ("Wake", mac),
            Target::Domain(name) => ("WakeDomain", name),
        };
        let flags = if interactive { MethodFlags::ALLOW_INTERACTIVE_AUTH } else { MethodFlags::empty() };
        let call = Call { flags, timeout: WAKE_TIMEOUT, ..Call::new(Service::Actor, method) };
        self.send(call, &(argument,)).await
    }

    /// Makes the actor read its configuration again.
    ///
    /// # Errors
    /// If the actor is not running, denies the call, or rejects the configuration.
    pub async fn reload(&self) -> Result<(), Error> {
        self.call(Service::Actor, "Reload", &()).await
    }

    /// The actor's decisions from now on.
    ///
    /// # Errors
    /// If the bus is unavailable.
    pub async fn finished(&self) -> Result<Finished, Error> {
        let failed = |error| Error::of_call(&self.address, Service::Actor, "AddMatch", error);
        let actor = Actor1Proxy::builder(self.connection().await?).cache_properties(CacheProperties::No);
        let actor = actor.build().await.map_err(failed)?;
        Ok(Finished(actor.receive_wake_finished().await.map_err(failed)?))
    }

    /// The packets that capture announces from now on.
    ///
    /// # Errors
    /// If the bus is unavailable.
    pub async fn packets(&self) -> Result<Packets, Error> {
        let service = Service::Capture;
        let failed = |error| Error::of_call(self.address_of(service), service, "AddMatch", error);
        let connection = self.connection_to(service).await?;
        let capture = Capture1Proxy::builder(connection).cache_properties(CacheProperties::No);
        let capture = capture.build().await.map_err(failed)?;
        Ok(Packets(capture.receive_magic_packet().await.map_err(failed)?))
    }

    /// The packets that capture remembers, oldest first.
    ///
    /// # Errors
    /// If capture is not running or denies the call.
    pub async fn remembered(&self) -> Result<Vec<Packet>, Error> {
        type Page = (String, bool, bool, Vec<(u64, String, Dict)>);
        let mut packets: Vec<Packet> = Vec::new();
        let mut epoch = String::new();
        for _ in 0..MAX_PAGES {
            let after = packets.last().map_or(0, |packet| packet.sequence);
            let page: Page = self.call(Service::Capture, "Replay", &(epoch.as_str(), after)).await?;
            let (current, _, more, page) = page;
            epoch = current;
            packets
                .extend(page.into_iter().map(|(sequence, mac, details)| Packet::new(sequence, mac, details)));
            if !more {
                break;
            }
        }
        Ok(packets)
    }

    /// Whether a packet would wake a domain, and the reason.
    ///
    /// # Errors
    /// If the actor is not running or denies the call.
    pub async fn would_wake(&self, mac: &str, details: &Details) -> Result<(bool, String), Error> {
        self.call(Service::Actor, "Explain", &(mac, details)).await
    }

    /// Explains what a packet would do, rule by rule. An actor of an earlier version returns no rules.
    ///
    /// # Errors
    /// If the actor is not running or denies the call.
    pub async fn explain(&self, mac: &str, details: &Details) -> Result<Explanation, Error> {
        let rules: Result<Dict, Error> = self.call(Service::Actor, "ExplainRules", &(mac, details)).await;
        match rules {
            Ok(rules) => Ok(Explanation::from(rules)),
            // The bus policy of an earlier version denies the call.
            Err(Error::Denied { .. } | Error::Failed { .. }) => {
                let (would_wake, reason) = self.would_wake(mac, details).await?;
                Ok(Explanation { mac: mac.to_owned(), would_wake, reason, ..Explanation::default() })
            }
            Err(error) => Err(error),
        }
    }

    /// Checks that a service is running.
    ///
    /// # Errors
    /// [`Error::NotRunning`], or if the bus is unavailable or the service does not reply.
    pub async fn require(&self, service: Service) -> Result<(), Error> {
        let call = Call { interface: "org.freedesktop.DBus.Peer", ..Call::new(service, "Ping") };
        self.send(call, &()).await
    }

    /// All properties of a service.
    async fn properties(&self, service: Service) -> Result<Dict, Error> {
        let body = (service.bus_name(),);
        let call = Call { interface: "org.freedesktop.DBus.Properties", ..Call::new(service, "GetAll") };
        self.send(call, &body).await
    }

    /// Calls a method of a service, without starting the service.
    async fn call<B, R>(&self, service: Service, method: &str, body: &B) -> Result<R, Error>
    where
        B: Serialize + DynamicType,
        R: for<'d> DynamicDeserialize<'d>,
    {
        self.send(Call::new(service, method), body).await
    }

    async fn send<B, R>(&self, call: Call<'_>, body: &B) -> Result<R, Error>
    where
        B: Serialize + DynamicType,
        R: for<'d> DynamicDeserialize<'d>,
    {
        let Call { service, interface, method, flags, timeout: time } = call;
        let connection = self.connection_to(service).await?;
        let failed = |error| Error::of_call(self.address_of(service), service, method, error);
        let proxy: Proxy<'_> = Builder::new(connection)
            .destination(service.bus_name())
            .path(service.path())
            .interface(interface)
            .cache_properties(CacheProperties::No)
            .build()
            .await
            .map_err(failed)?;
        let reply = timeout(time, proxy.call_with_flags(method, flags, body)).await;
        let address = || Box::new(self.address_of(service).clone());
        let reply = reply.map_err(|_| Error::NoReply {
            service,
            address: address(),
            method: method.to_owned(),
            time,
        })?;
        reply.map_err(failed)?.ok_or_else(|| failed(zbus::Error::InvalidReply))
    }
}

/// Connects to a bus.
async fn connect(address: &Address) -> Result<Connection, Error> {
    let builder = match address {
        Address::System => connection::Builder::system(),
        Address::Session => connection::Builder::session(),
        Address::At(address) => connection::Builder::address(address.clone()),
    };
    let connection = timeout(CALL_TIMEOUT, builder.build()).await;
    let no_bus = |reason| Error::NoBus { address: Box::new(address.clone()), reason };
    connection.map_err(|_| no_bus("it does not reply".to_owned()))?.map_err(|error| no_bus(error.to_string()))
}

/// The actor's decisions, received as signals.
#[derive(Debug)]
pub struct Finished(WakeFinishedStream);

impl Finished {
    /// The next decision. `None` if the connection to the bus is lost.
    pub async fn next(&mut self) -> Option<Decision> {
        loop {
            let signal = self.0.next().await?;
            // An invalid signal cannot come from the actor.
            let Ok(arguments) = signal.args() else { continue };
            let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            return Some(Decision {
                mac: text(arguments.mac),
                domain: text(arguments.domain),
                outcome: arguments.outcome.to_owned(),
                details: DecisionDetails::from(arguments.details),
                ..Decision::default()
            });
        }
    }
}

/// The packets that capture announces, received as signals.
#[derive(Debug)]
pub struct Packets(MagicPacketStream);

impl Packets {
    /// The next packet. `None` if the connection to the bus is lost.
    pub async fn next(&mut self) -> Option<Packet> {
        loop {
            let signal = self.0.next().await?;
            // An invalid signal cannot come from capture.
            let Ok(arguments) = signal.args() else { continue };
            return Some(Packet::new(arguments.sequence, arguments.mac.to_owned(), arguments.details));
        }
    }
}

/// A method call.
struct Call<'a> {
    service: Service,
    interface: &'a str,
    method: &'a str,
    flags: MethodFlags,
    timeout: Duration,
}

impl<'a> Call<'a> {
    fn new(service: Service, method: &'a str) -> Self {
        Self {
            service,
            interface: service.bus_name(),
            method,
            flags: MethodFlags::NO_AUTO_START,
            timeout: CALL_TIMEOUT,
        }
    }
}
