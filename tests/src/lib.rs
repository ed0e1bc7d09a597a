//! The test bench: hosts of their own, with real interfaces, a real bus and a real libvirt.
//!
//! A [`Host`](host::Host) is a set of namespaces that lives as long as the value: inside are its own
//! network, processes, `/run`, `/etc` and `/var`. So tests run in parallel, use the names that a real
//! host uses (`br0`, the system bus, `qemu:///system`), and leave nothing behind, not even when they
//! are killed. What is started on it dies with it.
//!
//! ```no_run
//! use wakevirt_tests::bus::{Bus, Kind};
//! use wakevirt_tests::daemon::{Daemon, StartedBy};
//! use wakevirt_tests::host::Host;
//!
//! // In a test: wakevirt_tests::privileged!();
//! let host = Host::new();
//! let _bus = Bus::start(&host, Kind::DbusDaemon);
//! host.bridge("br0");
//! let lan = host.veth("port0");
//! host.sh("ip link set port0 master br0");
//! let mut capture = Daemon::capture(&host).started_by(StartedBy::Manager).start();
//! capture.wait_until_ready();
//! lan.etherwake("52:54:00:01:02:03", &[]);
//! capture.log().wait_for("52:54:00:01:02:03");
//! capture.stop();
//! ```
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test bench that fails stops its test where it stands"
)]

pub mod bus;
pub mod daemon;
pub mod debian;
pub mod demo;
pub mod host;
pub mod libvirt;
pub mod network;
pub mod process;
pub mod project;
pub mod scene;
pub mod wait;
