//! A complete system on a host: another machine on the network, a bridge, both services, and QEMU domains.

pub mod cockpit;
pub mod restricted;
pub mod site;

use std::collections::HashMap;
use std::time::Duration;

use wakevirt_protocol::bus::{ACTOR_INTERFACE, ACTOR_NAME};

use crate::bus::polkitd::Polkitd;
use crate::bus::{Bus, CallError, Kind};
use crate::daemon::Daemon;
use crate::host::{Host, User};
use crate::libvirt::machine::Machine;
use crate::libvirt::{Libvirtd, QEMU, install_polkit};
use crate::network::Peer;
use crate::network::frames::{BROADCAST, WAKE_ON_LAN, bytes_of, ethernet, magic};
use crate::process::Process;
use crate::wait;

/// A rule that allows every domain.
pub const ALL_ALLOWED: &str = "[[allow]]\ndomain = \"*\"\n";

/// The actor's access to libvirt: docs/RESTRICTED.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LibvirtAccess {
    /// All permissions, through the `libvirt` group.
    Group,
    /// Only the permissions that libvirt's access driver grants to the actor's user, without the group.
    Restricted,
}

/// A complete system on a host. The other machine is connected to `port0`, a port of the `br0` bridge.
#[derive(Debug)]
pub struct Scene<'host> {
    host: &'host Host,
    /// The other machine on the network.
    pub lan: Peer<'host>,
    /// The libvirtd.
    pub libvirtd: Libvirtd<'host>,
    macs: HashMap<String, String>,
    config: String,
    /// The actor. `None` after it was killed.
    pub actor: Option<Daemon>,
    finished: Process,
    /// The announcer. `None` after it was killed.
    pub capture: Option<Daemon>,
    /// Authorises calls to libvirt with [`LibvirtAccess::Restricted`]. `None` otherwise.
    polkitd: Option<Polkitd<'host>>,
    _bus: Bus<'host>,
}

impl<'host> Scene<'host> {
    /// Starts libvirtd, the bus and both services, and defines the machines. `config` is the actor's configuration
    /// without the connection.
    ///
    /// # Panics
    /// If a program does not start.
    #[must_use]
    pub fn new(host: &'host Host, machines: &[Machine], config: &str) -> Self {
        Self::with_access(LibvirtAccess::Group, host, machines, config)
    }

    /// Starts a system like [`Self::new`], in which the actor has this access to libvirt.
    ///
    /// # Panics
    /// If a program does not start.
    #[must_use]
    pub fn with_access(access: LibvirtAccess, host: &'host Host, machines: &[Machine], config: &str) -> Self {
        match access {
            // libvirtd starts before the bus, because it exits when it loses its connection to the bus.
            LibvirtAccess::Group => Self::on(Libvirtd::start(host), machines, config),
            // libvirtd asks polkit about each call, so the bus starts first.
            LibvirtAccess::Restricted => {
                let mut polkitd = install_polkit(host);
                let bus = Bus::start(host, Kind::DbusDaemon);
                polkitd.start();
                let libvirtd = Libvirtd::start_restricted(host);
                Self::with(libvirtd, bus, Some(polkitd), machines, config)
            }
        }
    }

    /// Starts a system like [`Self::new`], with a libvirtd that is already running.
    ///
    /// # Panics
    /// If a program does not start.
    #[must_use]
    pub fn on(libvirtd: Libvirtd<'host>, machines: &[Machine], config: &str) -> Self {
        let bus = Bus::start(libvirtd.host(), Kind::DbusDaemon);
        Self::with(libvirtd, bus, None, machines, config)
    }

    fn with(
        libvirtd: Libvirtd<'host>,
        bus: Bus<'host>,
        polkitd: Option<Polkitd<'host>>,
        machines: &[Machine],
        config: &str,
    ) -> Self {
        let host = libvirtd.host();
        host.bridge("br0");
        let lan = host.veth("port0");
        host.sh("ip link set port0 master br0");
        machines.iter().for_each(|machine| machine.define(&libvirtd));
        let macs = macs(&libvirtd);
        let capture = Some(start_capture(host));
        let config = format!("connections = [\"{QEMU}\"]\n{config}");
        let actor = start_actor(host, polkitd.is_some(), &config);
        // Until then, every address is unknown to the actor.
        let _ = actor.log().wait_for("connected to");
        let actor = Some(actor);
        let finished = host.monitor(User::Unprivileged, ACTOR_NAME);
        Self { host, lan, libvirtd, macs, config, actor, finished, capture, polkitd, _bus: bus }
    }

    /// The actor.
    ///
    /// # Panics
    /// If it was killed.
    #[must_use]
    pub fn actor(&self) -> &Daemon {
        self.actor.as_ref().expect("the actor is running")
    }

    /// Kills the actor (SIGKILL).
    pub fn kill_actor(&mut self) {
        if let Some(mut actor) = self.actor.take() {
            actor.kill();
        }
    }

    /// Starts the actor after [`Self::kill_actor`]. Does not wait for its connection to libvirt.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_actor_again(&mut self) {
        self.actor = Some(start_actor(self.host, self.polkitd.is_some(), &self.config));
    }

    /// Kills the announcer (SIGKILL), and starts a new one.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart_capture(&mut self) {
        if let Some(mut capture) = self.capture.take() {
            capture.kill();
        }
        self.capture = Some(start_capture(self.host));
    }

    /// Sends a packet for a domain. `sender` is the last byte of the sender's MAC address: capture treats packets for
    /// one domain from the same sender as copies.
    pub fn packet(&self, domain: &str, sender: u8) {
        self.lan.send(&self.frame(domain, sender));
    }

    /// The frame that [`Self::packet`] sends.
    #[must_use]
    pub fn frame(&self, domain: &str, sender: u8) -> Vec<u8> {
        let source = [2, 0, 0, 0, 0, sender];
        ethernet(BROADCAST, source, WAKE_ON_LAN, &magic(self.mac(domain), &[]))
    }

    /// The reply to `Explain` for a packet for the domain.
    ///
    /// # Panics
    /// If the call fails.
    #[must_use]
    pub fn explain(&self, domain: &str) -> String {
        let mac = format!("'{}'", self.mac(domain));
        let reply = self.host.call(User::Root, ACTOR_INTERFACE, "Explain", &[&mac, "@a{sv} {}"]);
        reply.expect("an explanation")
    }

    /// Calls `Wake` as root.
    ///
    /// # Errors
    /// The error reply.
    pub fn call_wake(&self, domain: &str) -> Result<String, CallError> {
        self.host.call(User::Root, ACTOR_INTERFACE, "Wake", &[&format!("'{}'", self.mac(domain))])
    }

    /// The MAC address of a machine.
    ///
    /// # Panics
    /// If it was not defined at the start.
    #[must_use]
    pub fn mac(&self, domain: &str) -> &str {
        self.macs.get(domain).expect("a machine that was defined at the start")
    }

    /// Runs virsh(1) as root, and returns its output.
    ///
    /// # Panics
    /// If it fails.
    pub fn virsh(&self, arguments: &[&str]) -> String {
        self.libvirtd.virsh(QEMU, arguments)
    }

    /// The state and its reason, as virsh(1) prints them: `running (booted)`.
    ///
    /// # Panics
    /// If there is no such domain.
    #[must_use]
    pub fn state(&self, domain: &str) -> String {
        self.virsh(&["domstate", "--reason", domain])
    }

    /// Waits until a domain is in this state, for any reason.
    ///
    /// # Panics
    /// If it does not do so within the timeout.
    pub fn wait_for_state(&self, domain: &str, state: &str) {
        self.libvirtd.wait_for_state(QEMU, domain, state);
    }

    /// Sends shutdown requests to the guest of a domain until libvirt reports that the domain is shutting down. A guest
    /// that is still booting ignores them.
    ///
    /// # Panics
    /// If it does not do so within the timeout.
    pub fn shut_down(&self, domain: &str) {
        wait::until_true(&format!("{domain} to shut down"), || {
            self.virsh(&["shutdown", domain]);
            let starts = || (self.libvirtd.state(QEMU, domain) == "in shutdown").then_some(());
            wait::within(Duration::from_millis(300), starts).is_some()
        });
    }

    /// Waits until the actor holds a packet for the domain because it has not listed the domain yet.
    ///
    /// # Panics
    /// If it does not do so within the timeout.
    pub fn wait_until_packet_held(&self, domain: &str) {
        let mac = bytes_of(self.mac(domain));
        wait::until_true(&format!("a packet for {domain} to be held"), || is_saved(self.host, &mac));
    }

    /// Waits until a wake of the domain is active or held: the actor's state file then contains the domain's name.
    ///
    /// # Panics
    /// If it does not do so within the timeout.
    pub fn wait_until_active(&self, domain: &str) {
        wait::until_true(&format!("a wake of {domain}"), || self.is_active(domain));
    }

    /// Waits until no wake of the domain is active or held.
    ///
    /// # Panics
    /// If it does not do so within the timeout.
    pub fn wait_until_idle(&self, domain: &str) {
        wait::until_true(&format!("the wakes of {domain} to end"), || !self.is_active(domain));
    }

    fn is_active(&self, domain: &str) -> bool {
        is_saved(self.host, domain.as_bytes())
    }

    /// Kills a domain's QEMU process, and waits until libvirt has noticed.
    ///
    /// # Panics
    /// If it is not running.
    pub fn kill_machine(&self, domain: &str) {
        self.host.sh(&format!("kill -9 $(cat /run/libvirt/qemu/{domain}.pid)"));
        let pid = self.host.path(&format!("/run/libvirt/qemu/{domain}.pid"));
        wait::until_true("libvirt to notice", || !pid.exists());
    }

    /// How many times libvirt has started QEMU for the domain.
    #[must_use]
    pub fn starts(&self, domain: &str) -> usize {
        self.libvirtd.starts(domain)
    }

    /// Waits for the first `WakeFinished` for the domain. Returns the outcome and the whole signal.
    ///
    /// # Panics
    /// If there is no such signal.
    #[must_use]
    pub fn outcome(&self, domain: &str) -> (String, String) {
        let line = self.finished.log().wait_for(&before_outcome(domain));
        let outcome = line.split(&before_outcome(domain)).nth(1).and_then(|rest| rest.split('\'').next());
        (outcome.unwrap_or_default().to_owned(), line)
    }

    /// Waits for the first `WakeFinished` for the domain, checks its outcome, and returns the whole signal.
    ///
    /// # Panics
    /// If there is no such signal, or it has a different outcome.
    pub fn assert_outcome(&self, domain: &str, outcome: &str) -> String {
        let (actual, line) = self.outcome(domain);
        assert_eq!(actual, outcome, "{line}");
        line
    }

    /// Waits for the `nth` `WakeFinished` for the domain with this outcome, counted from 1, and returns the whole
    /// signal. One packet can cause several signals: it is captured both on the bridge and on its port, and the second
    /// copy starts another wake if the wake for the first copy has already ended.
    ///
    /// # Panics
    /// If there is no such signal.
    pub fn wait_for_outcome(&self, domain: &str, outcome: &str, nth: usize) -> String {
        self.finished.log().wait_for_nth(&format!("{}{outcome}'", before_outcome(domain)), nth)
    }

    /// The number of `WakeFinished` signals for the domain with this outcome so far.
    #[must_use]
    pub fn outcomes(&self, domain: &str, outcome: &str) -> usize {
        self.finished.log().count(&format!("{}{outcome}'", before_outcome(domain)))
    }

    /// The number of `WakeFinished` signals for the domain so far.
    #[must_use]
    pub fn decisions(&self, domain: &str) -> usize {
        self.finished.log().count(&before_outcome(domain))
    }
}

/// Whether the newest record in the actor's state file contains these bytes.
#[must_use]
pub fn is_saved(host: &Host, bytes: &[u8]) -> bool {
    saved_state(host).windows(bytes.len()).any(|part| part == bytes)
}

/// The content of the newest complete record in the actor's state file. Empty without a file.
///
/// A record is in one of two slots: eight bytes, the size of its content, its checksum, its sequence number, its content.
#[must_use]
pub fn saved_state(host: &Host) -> Vec<u8> {
    let file = std::fs::read(host.path("/run/wakevirt-actor/state")).unwrap_or_default();
    let record = |slot: &[u8]| {
        let number = |offset: usize| slot.get(offset..)?.first_chunk().copied().map(u32::from_le_bytes);
        let sequence: &[u8; 8] = slot.get(16..)?.first_chunk()?;
        let content = slot.get(24..)?.get(..usize::try_from(number(8)?).ok()?)?;
        let checksum = crc32fast::hash(&[sequence, content].concat());
        (checksum == number(12)?).then(|| (u64::from_le_bytes(*sequence), content.to_vec()))
    };
    let (first, second) = file.split_at(file.len() / 2);
    record(first).into_iter().chain(record(second)).max().unwrap_or_default().1
}

/// The part of a `WakeFinished`, as gdbus(1) prints it, between the MAC address and the outcome.
fn before_outcome(domain: &str) -> String {
    format!("', '{domain}', '")
}

/// The MAC addresses of the QEMU domains, by name.
fn macs(libvirtd: &Libvirtd<'_>) -> HashMap<String, String> {
    let names = libvirtd.virsh(QEMU, &["list", "--all", "--name"]);
    names.split_whitespace().map(|name| (name.to_owned(), libvirtd.mac(name))).collect()
}

fn start_actor(host: &Host, restricted: bool, config: &str) -> Daemon {
    let actor = Daemon::actor(host).config(config);
    if restricted { actor.restricted() } else { actor }.start_on_bus()
}

fn start_capture(host: &Host) -> Daemon {
    Daemon::capture(host).start_on_bus()
}
