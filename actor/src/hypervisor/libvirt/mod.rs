//! libvirt and its drivers for QEMU, LXC, Xen and others.

mod autostart;
mod connection;
mod domain_xml;
mod driver;
mod error;
mod follower;
mod monitor;
mod permissions;
mod pool;
mod read;

pub use driver::Libvirt;
