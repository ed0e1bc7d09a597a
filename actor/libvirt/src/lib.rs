//! The actor's driver for libvirt, and through it for QEMU, LXC, Xen and others.

mod autostart;
mod connection;
mod driver;
mod follower;
mod monitor;
mod pool;

pub use driver::Libvirt;
