//! The whole way on a host: a machine on the network, a bridge, both services, and QEMU's domains.

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

/// Rules that allow every domain.
pub const ALL_ALLOWED: &str = "[[allow]]\ndomain = \"*\"\n";

/// What the actor may do with libvirt: docs/RESTRICTED.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LibvirtRights {
    /// What the group libvirt may, everything.
    Group,
    /// What libvirt's access driver grants its user, without the group.
    Restricted,
}

/// The whole way on a host. A machine on the network is behind `port0`, which is a port of `br0`.
#[derive(Debug)]
pub struct Scene<'host> {
    host: &'host Host,
    /// The machine on the network.
    pub lan: Peer<'host>,
    /// libvirt.
    pub libvirtd: Libvirtd<'host>,
    macs: HashMap<String, String>,
    config: String,
    /// The actor; `None` while it is killed.
    pub actor: Option<Daemon>,
    finished: Process,
    /// The announcer; `None` while it is killed.
    pub capture: Option<Daemon>,
    /// It decides who may do what with libvirt, under [`LibvirtRights::Restricted`].
    polkitd: Option<Polkitd<'host>>,
    _bus: Bus<'host>,
}

impl<'host> Scene<'host> {
    /// Starts everything. The machines are defined before the actor looks; `config` is what its
    /// configuration says besides the connection.
    ///
    /// # Panics
    /// If anything does not start.
    #[must_use]
    pub fn new(host: &'host Host, machines: &[Machine], config: &str) -> Self {
        Self::with_rights(LibvirtRights::Group, host, machines, config)
    }

    /// As [`Self::new`], under this regime of rights.
    ///
    /// # Panics
    /// If anything does not start.
    #[must_use]
    pub fn with_rights(regime: LibvirtRights, host: &'host Host, machines: &[Machine], config: &str) -> Self {
        match regime {
            // Before the bus: libvirtd ends when it loses a bus that it knows.
            LibvirtRights::Group => Self::on(Libvirtd::start(host), machines, config),
            // It asks polkit for each call.
            LibvirtRights::Restricted => {
                let mut polkitd = install_polkit(host);
                let bus = Bus::start(host, Kind::DbusDaemon);
                polkitd.start();
                let libvirtd = Libvirtd::start_restricted(host);
                Self::with(libvirtd, bus, Some(polkitd), machines, config)
            }
        }
    }

    /// As [`Self::new`], with a libvirtd that runs already.
    ///
    /// # Panics
    /// If anything does not start.
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
        // A packet that comes before it knows the domains is for nobody.
        let _ = actor.log().wait_for("connected to");
        let actor = Some(actor);
        let finished = host.monitor(User::Unprivileged, ACTOR_NAME);
        Self { host, lan, libvirtd, macs, config, actor, finished, capture, polkitd, _bus: bus }
    }

    /// The actor.
    ///
    /// # Panics
    /// While it is killed.
    #[must_use]
    pub fn actor(&self) -> &Daemon {
        self.actor.as_ref().expect("the actor runs")
    }

    /// Kills the actor (SIGKILL).
    pub fn kill_actor(&mut self) {
        if let Some(mut actor) = self.actor.take() {
            actor.kill();
        }
    }

    /// Starts the actor after [`Self::kill_actor`]. Whether it has found libvirt shows later.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_actor_again(&mut self) {
        self.actor = Some(start_actor(self.host, self.polkitd.is_some(), &self.config));
    }

    /// Kills the announcer (SIGKILL), and starts it again.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart_capture(&mut self) {
        if let Some(mut capture) = self.capture.take() {
            capture.kill();
        }
        self.capture = Some(start_capture(self.host));
    }

    /// Sends a packet for a domain. The sender is a number of the caller's choice: what copies of one
    /// packet are, capture decides by it.
    pub fn packet(&self, domain: &str, sender: u8) {
        self.lan.send(&self.frame(domain, sender));
    }

    /// The frame that [`Self::packet`] sends.
    #[must_use]
    pub fn frame(&self, domain: &str, sender: u8) -> Vec<u8> {
        let source = [2, 0, 0, 0, 0, sender];
        ethernet(BROADCAST, source, WAKE_ON_LAN, &magic(self.mac(domain), &[]))
    }

    /// Whether a packet for the domain would wake it, and why so, in the words of `Explain`.
    ///
    /// # Panics
    /// If that is not explained.
    #[must_use]
    pub fn explain(&self, domain: &str) -> String {
        let mac = format!("'{}'", self.mac(domain));
        let reply = self.host.call(User::Root, ACTOR_INTERFACE, "Explain", &[&mac, "@a{sv} {}"]);
        reply.expect("an explanation")
    }

    /// Calls `Wake` as root.
    ///
    /// # Errors
    /// The error that came instead of an outcome.
    pub fn call(&self, domain: &str) -> Result<String, CallError> {
        self.host.call(User::Root, ACTOR_INTERFACE, "Wake", &[&format!("'{}'", self.mac(domain))])
    }

    /// The MAC address of a machine.
    ///
    /// # Panics
    /// If it was not there from the start.
    #[must_use]
    pub fn mac(&self, domain: &str) -> &str {
        self.macs.get(domain).expect("the machine is there from the start")
    }

    /// Runs virsh(1), and returns what it wrote.
    ///
    /// # Panics
    /// If it fails.
    pub fn virsh(&self, arguments: &[&str]) -> String {
        self.libvirtd.virsh(QEMU, arguments)
    }

    /// State and reason of a domain, as virsh(1) tells them: `running (booted)`.
    ///
    /// # Panics
    /// If there is no such domain.
    #[must_use]
    pub fn state(&self, domain: &str) -> String {
        self.virsh(&["domstate", "--reason", domain])
    }

    /// Waits until a domain is in this state, whatever the reason.
    ///
    /// # Panics
    /// If it does not come to that.
    pub fn wait_for_state(&self, domain: &str, state: &str) {
        self.libvirtd.wait_for_state(QEMU, domain, state);
    }

    /// Asks the guest of a domain to power off, until it is about to. One that still boots does not
    /// listen.
    ///
    /// # Panics
    /// If it does not come to that.
    pub fn shut_down(&self, domain: &str) {
        wait::until_true(&format!("{domain} to shut down"), || {
            self.virsh(&["shutdown", domain]);
            let begins = || (self.libvirtd.state(QEMU, domain) == "in shutdown").then_some(());
            wait::within(Duration::from_millis(300), begins).is_some()
        });
    }

    /// Waits until the actor holds a packet for the domain, while it cannot know the domain yet.
    ///
    /// # Panics
    /// If it does not come to that.
    pub fn wait_until_packet_held(&self, domain: &str) {
        let mac = bytes_of(self.mac(domain));
        wait::until_true(&format!("a packet for {domain} to be held"), || self.state_file_has(&mac));
    }

    /// Waits until a wake of the domain is under way or held: the actor's state file names the domain.
    ///
    /// # Panics
    /// If it does not come to that.
    pub fn wait_until_under_way(&self, domain: &str) {
        wait::until_true(&format!("a wake of {domain}"), || self.is_under_way(domain));
    }

    /// Waits until no wake of the domain is under way or held.
    ///
    /// # Panics
    /// If it does not come to that.
    pub fn wait_until_idle(&self, domain: &str) {
        wait::until_true(&format!("the wakes of {domain} to end"), || !self.is_under_way(domain));
    }

    fn is_under_way(&self, domain: &str) -> bool {
        self.state_file_has(domain.as_bytes())
    }

    /// Whether this is in what the actor would know after a restart.
    fn state_file_has(&self, bytes: &[u8]) -> bool {
        let file = std::fs::read(self.host.path("/run/wakevirt-actor/state")).unwrap_or_default();
        file.windows(bytes.len()).any(|part| part == bytes)
    }

    /// Kills the QEMU of a domain, and waits until libvirt has seen it.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill_machine(&self, domain: &str) {
        self.host.sh(&format!("kill -9 $(cat /run/libvirt/qemu/{domain}.pid)"));
        let pid = self.host.path(&format!("/run/libvirt/qemu/{domain}.pid"));
        wait::until_true("libvirt to miss its QEMU", || !pid.exists());
    }

    /// How often libvirt has started a QEMU for the domain.
    #[must_use]
    pub fn starts(&self, domain: &str) -> usize {
        self.libvirtd.starts(domain)
    }

    /// Waits for the first decision about the domain: the outcome, and all that was told.
    ///
    /// # Panics
    /// If there is none in time.
    #[must_use]
    pub fn outcome(&self, domain: &str) -> (String, String) {
        let line = self.finished.log().wait_for(&told(domain));
        let outcome = line.split(&told(domain)).nth(1).and_then(|rest| rest.split('\'').next());
        (outcome.unwrap_or_default().to_owned(), line)
    }

    /// Waits for the first decision about the domain: it has this outcome. Returns all that was told.
    ///
    /// # Panics
    /// If there is none in time, or another one.
    pub fn assert_outcome(&self, domain: &str, outcome: &str) -> String {
        let (decided, line) = self.outcome(domain);
        assert_eq!(decided, outcome, "{line}");
        line
    }

    /// Waits for the `nth` decision about the domain with this outcome, counted from 1, and returns all
    /// that was told. There may be others: a packet is heard on the bridge and on its port, and when the
    /// first copy has been dealt with, the second one is a packet like any other.
    ///
    /// # Panics
    /// If there is none in time.
    pub fn wait_for_outcome(&self, domain: &str, outcome: &str, nth: usize) -> String {
        self.finished.log().wait_for_nth(&format!("{}{outcome}'", told(domain)), nth)
    }

    /// How many decisions about the domain had this outcome until now.
    #[must_use]
    pub fn outcomes(&self, domain: &str, outcome: &str) -> usize {
        self.finished.log().count(&format!("{}{outcome}'", told(domain)))
    }

    /// The decisions about the domain until now.
    #[must_use]
    pub fn decisions(&self, domain: &str) -> usize {
        self.finished.log().count(&told(domain))
    }
}

/// The part of a line of gdbus that tells of a decision about the domain; the outcome follows.
fn told(domain: &str) -> String {
    format!("', '{domain}', '")
}

/// The MAC addresses of QEMU's domains, by name.
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
