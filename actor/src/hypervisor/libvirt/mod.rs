//! libvirt, and its drivers for QEMU, LXC, Xen and others.

mod changes;
mod connection;
mod domain_xml;
mod events;
mod link;
mod monitor;
mod pool;
mod read;
mod regime;

pub use connection::forbid_autostart;
pub use link::Link;
