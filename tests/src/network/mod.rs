//! Interfaces of a host, and who is at the other end of them.

mod ffi;
pub mod frames;
pub mod inject;

use std::path::PathBuf;
use std::process::Command;

use crate::host::{Host, succeed};
use crate::network::inject::Injector;

/// The name of the interface at the far end of a [`Host::veth`].
pub const FAR_END: &str = "eth0";

impl Host {
    /// The file of the host's network namespace, for setns(2).
    #[must_use]
    pub fn network(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.init()))
    }

    /// Makes a bridge, and sets it up.
    pub fn bridge(&self, name: &str) {
        self.sh(&format!("ip link add {name} type bridge && ip link set {name} up"));
    }

    /// Makes an interface with a cable to a machine of its own, both ends up. The host ends it by
    /// `ip link del`, the cable and the machine go with the host.
    #[must_use]
    pub fn veth(&self, name: &str) -> Peer<'_> {
        let namespace = format!("beyond-{name}");
        self.sh(&format!(
            "ip netns add {namespace}
             ip link add {name} type veth peer name {FAR_END} netns {namespace}
             ip -n {namespace} link set lo up
             ip -n {namespace} link set {FAR_END} up
             ip link set {name} up"
        ));
        Peer { host: self, namespace }
    }

    /// Makes a tap device, up; frames that are sent into it arrive on the host as from a VM. It goes
    /// when the value is dropped.
    #[must_use]
    pub fn tap(&self, name: &str) -> Injector {
        self.device("tap", name)
    }

    /// Makes a tun device, up; IP packets that are sent into it arrive on the host as from a VPN. It
    /// goes when the value is dropped.
    #[must_use]
    pub fn tun(&self, name: &str) -> Injector {
        self.device("tun", name)
    }

    fn device(&self, kind: &str, name: &str) -> Injector {
        let device = Injector::start(|program| self.command(program), kind, name);
        self.sh(&format!("ip link set {name} up"));
        device
    }

    /// Lets frames leave through an interface of the host.
    #[must_use]
    pub fn injector(&self, interface: &str) -> Injector {
        Injector::start(|program| self.command(program), "send", interface)
    }
}

/// The machine at the other end of a cable: another network on the same files and processes.
#[derive(Debug)]
pub struct Peer<'host> {
    host: &'host Host,
    namespace: String,
}

impl Peer<'_> {
    /// The file of this machine's network namespace, for setns(2).
    #[must_use]
    pub fn network(&self) -> PathBuf {
        self.host.path(&format!("/run/netns/{}", self.namespace))
    }

    /// A program that is to run on this machine as root.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.host.command("ip");
        command.args(["netns", "exec", &self.namespace, program]);
        command
    }

    /// Runs a line of shell on this machine, and returns what it wrote.
    ///
    /// # Panics
    /// If it fails, with what it wrote to standard error.
    pub fn sh(&self, line: &str) -> String {
        succeed(self.command("sh").args(["-euc", line]))
    }

    /// Adds an address, such as `192.0.2.2/24`. An IPv6 one can be used at once.
    pub fn address(&self, address: &str) {
        let at_once = if address.contains(':') { "nodad" } else { "" };
        self.sh(&format!("ip address add {address} dev {FAR_END} {at_once}"));
    }

    /// Puts one frame on the cable.
    pub fn send(&self, frame: &[u8]) {
        self.injector().send(frame);
    }

    /// Keeps the cable open for many frames.
    #[must_use]
    pub fn injector(&self) -> Injector {
        Injector::start(|program| self.command(program), "send", FAR_END)
    }

    /// Sends a magic packet by etherwake(8): EtherType 0x0842, to the target's own address unless
    /// `-b` is among the options.
    pub fn etherwake(&self, mac: &str, options: &[&str]) {
        succeed(self.command("etherwake").args(["-i", FAR_END]).args(options).arg(mac));
    }

    /// Sends a magic packet by wakeonlan(1): UDP to port 9 of this address, normally a broadcast one.
    /// The machine needs an address of its own.
    pub fn wakeonlan(&self, mac: &str, destination: &str, options: &[&str]) {
        succeed(self.command("wakeonlan").args(["-i", destination]).args(options).arg(mac));
    }
}
