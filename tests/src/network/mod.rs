//! The interfaces of a host, and the machines connected to them.

mod ffi;
pub mod flood;
pub mod frames;
pub mod inject;

use std::path::PathBuf;
use std::process::Command;

use crate::host::{Host, succeed};
use crate::network::inject::Injector;

/// The name of the interface at the other end of a [`Host::veth`].
pub const FAR_END: &str = "eth0";

impl Host {
    /// The file of the host's network namespace, for setns(2).
    #[must_use]
    pub fn network(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.init()))
    }

    /// Creates a bridge and brings it up.
    pub fn bridge(&self, name: &str) {
        self.sh(&format!("ip link add {name} type bridge && ip link set {name} up"));
    }

    /// Creates an interface that is connected to a new machine, and brings up both ends. They exist until the host ends
    /// or the interface is deleted.
    #[must_use]
    pub fn veth(&self, name: &str) -> Peer<'_> {
        let namespace = format!("peer-{name}");
        self.sh(&format!(
            "ip netns add {namespace}
             ip link add {name} type veth peer name {FAR_END} netns {namespace}
             ip -n {namespace} link set lo up
             ip -n {namespace} link set {FAR_END} up
             ip link set {name} up"
        ));
        let peer = Peer { host: self, namespace };
        peer.wait_for_link();
        peer
    }

    /// Connects this host and another one with a cable, and brings up both ends. They exist until one host ends.
    ///
    /// # Panics
    /// If a name is in use.
    pub fn cable(&self, name: &str, other: &Self, other_name: &str) {
        let (near, far) = (self.network(), other.network());
        let mut command = Command::new("nsenter");
        // Not in a host's mount namespace, in which this process's paths in /proc do not exist.
        command.arg(format!("--net={}", near.display())).args(["ip", "link", "add", name, "type", "veth"]);
        command.args(["peer", "name", other_name, "netns"]).arg(&far);
        succeed(&mut command);
        self.sh(&format!("ip link set {name} up"));
        other.sh(&format!("ip link set {other_name} up"));
    }

    /// Creates a tap device and brings it up. The host receives the injected frames on the device, as if they came from a VM. The
    /// device is removed when the injector is dropped.
    #[must_use]
    pub fn tap(&self, name: &str) -> Injector {
        self.device("tap", name)
    }

    /// Creates a tun device and brings it up. The host receives the injected IP packets on the device, as if they came from a VPN.
    /// The device is removed when the injector is dropped.
    #[must_use]
    pub fn tun(&self, name: &str) -> Injector {
        self.device("tun", name)
    }

    fn device(&self, kind: &str, name: &str) -> Injector {
        let device = Injector::start(|program| self.command(program), kind, name);
        self.sh(&format!("ip link set {name} up"));
        device
    }

    /// Returns an injector that transmits frames through an interface of the host.
    #[must_use]
    pub fn injector(&self, interface: &str) -> Injector {
        Injector::start(|program| self.command(program), "send", interface)
    }
}

/// A machine that is connected to a host: another network namespace with the same files and processes.
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

    /// A command that runs a program on this machine as root.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.host.command("ip");
        command.args(["netns", "exec", &self.namespace, program]);
        command
    }

    /// Runs a shell command on this machine, and returns its output.
    ///
    /// # Panics
    /// If it fails, with its standard error in the message.
    pub fn sh(&self, line: &str) -> String {
        succeed(self.command("sh").args(["-euc", line]))
    }

    /// Waits until the cable is usable: the kernel drops frames until it has noticed the carrier.
    ///
    /// # Panics
    /// If the cable does not become usable.
    pub fn wait_for_link(&self) {
        self.sh(&format!(
            "timeout 60 sh -c 'until ip -o link show {FAR_END} | grep -q \"state UP\"; do sleep 0.01; done'"
        ));
    }

    /// Adds an address, such as `192.0.2.2/24`. IPv6 addresses skip duplicate address detection.
    pub fn address(&self, address: &str) {
        let option = if address.contains(':') { "nodad" } else { "" };
        self.sh(&format!("ip address add {address} dev {FAR_END} {option}"));
    }

    /// Sends one frame to the host.
    pub fn send(&self, frame: &[u8]) {
        self.injector().send(frame);
    }

    /// Returns an injector that sends frames to the host through one socket.
    #[must_use]
    pub fn injector(&self) -> Injector {
        Injector::start(|program| self.command(program), "send", FAR_END)
    }

    /// Sends a magic packet with etherwake(8): EtherType 0x0842, to the target's address, or to the broadcast address
    /// with the `-b` option.
    pub fn etherwake(&self, mac: &str, options: &[&str]) {
        succeed(self.command("etherwake").args(["-i", FAR_END]).args(options).arg(mac));
    }

    /// Sends a magic packet with wakeonlan(1): UDP to port 9 of this address, usually a broadcast address. The machine
    /// needs an IP address.
    pub fn wakeonlan(&self, mac: &str, destination: &str, options: &[&str]) {
        succeed(self.command("wakeonlan").args(["-i", destination]).args(options).arg(mac));
    }
}
