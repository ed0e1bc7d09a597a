//! The network interfaces of the host, and the sockets that the service opens or receives.

pub mod ffi;
pub mod handed_over;
pub mod interfaces;
pub mod links;
pub mod udp;
