//! The test bench: isolated hosts with real interfaces, a real bus and a real libvirt.
//!
//! A [`Host`](host::Host) is a set of namespaces with its own network, processes, `/run`, `/etc` and `/var`. It exists
//! as long as the value does, and all its processes end with it. Tests can therefore run in parallel and use the names
//! of a real host (`br0`, the system bus, `qemu:///system`). They leave no processes, files or interfaces behind, even if they are killed.
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
//! let mut capture = Daemon::capture(&host).started_by(StartedBy::Manager).start_on_bus();
//! lan.etherwake("52:54:00:01:02:03", &[]);
//! capture.log().wait_for("52:54:00:01:02:03");
//! capture.stop();
//! ```
#![expect(clippy::expect_used, clippy::panic, reason = "a failure of the test bench stops the test")]

pub mod browser;
pub mod bus;
pub mod daemon;
pub mod debian;
pub mod demo;
pub mod hook;
pub mod host;
pub mod init;
pub mod kubernetes;
pub mod libvirt;
pub mod manifests;
pub mod network;
pub mod pod;
pub mod process;
pub mod project;
pub mod prometheus;
pub mod scene;
pub mod vm;
pub mod wait;
