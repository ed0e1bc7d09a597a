//! What the virt crate lacks: libvirt's events, its keepalive, two calls, the release of memory, and a safe exit. The
//! actor and wakevirt-sleep use it.
//!
//! A thread makes one call at a time on a connection. In versions before 10.4, libvirt's client uses freed memory if two
//! threads make calls on one connection and the daemon hangs (CVE-2024-4418).

pub mod calls;
pub mod changes;
pub mod events;
pub mod exit;
pub mod keepalive;
pub mod memory;
