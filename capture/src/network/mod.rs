//! The network interfaces of the host, and the sockets that the service opens or receives.

pub mod activation;
pub mod ffi;
pub mod interfaces;
pub mod links;
pub mod removed;
pub mod udp;
