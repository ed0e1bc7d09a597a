//! libvirt's domains, and the calls of a client that is already connected.

use std::time::{Duration, Instant};

use virt::connect::Connect;
use virt::domain::Domain;
use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::{QEMU, qemu_domain, test_domain};

/// The bridge of the QEMU domains.
pub const BRIDGE: &str = "br0";

/// A client of a host's libvirtd, in this process.
pub struct Client {
    libvirt: Connect,
    connection: &'static str,
}

impl Client {
    /// Connects to the driver with this URI.
    pub fn open(host: &Host, connection: &'static str) -> Self {
        let path = if connection == QEMU { "qemu+unix:///system" } else { "test+unix:///default" };
        // The socket as this process sees it.
        let uri = format!("{path}?socket={}", host.path("/run/libvirt/libvirt-sock").display());
        let libvirt = Connect::open(Some(&uri)).expect("a connection to libvirt");
        Self { libvirt, connection }
    }

    /// The connection itself.
    pub fn connection(&self) -> Connect {
        self.libvirt.clone()
    }

    /// Defines a domain with one interface.
    pub fn define(&self, name: &str, mac: &str) {
        let xml = match self.connection {
            QEMU => qemu_domain(name, mac, BRIDGE),
            _ => test_domain(name, mac),
        };
        let _ = self.libvirt.define_domain_xml(&xml).expect("libvirt accepts the domain");
    }

    /// Starts a domain, and returns how long the call took.
    pub fn start(&self, name: &str) -> Duration {
        let domain = self.find(name);
        let start = Instant::now();
        // One call, like the actor's. virDomainCreate would make two.
        domain.create_with_flags(0).expect("a domain that starts");
        start.elapsed()
    }

    /// Stops a domain.
    pub fn destroy(&self, name: &str) {
        self.find(name).destroy().expect("a running domain");
    }

    /// Stops a domain, unless it is off.
    pub fn ensure_off(&self, name: &str) {
        let domain = self.find(name);
        if domain.is_active().expect("libvirt replies") {
            domain.destroy().expect("a running domain");
        }
    }

    fn find(&self, name: &str) -> Domain {
        self.libvirt.lookup_domain_by_name(name).expect("a domain with this name")
    }
}

/// The MAC address of the domain with this number.
pub fn mac(number: usize) -> String {
    format!("52:54:00:00:{:02x}:{:02x}", number >> 8, number & 0xff)
}
