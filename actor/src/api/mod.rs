//! The `org.wakevirt.Actor1` interface on the bus. This module translates and authorises calls; the engine decides.

pub mod access;
mod body;
mod interface;
mod page;
mod server;

pub use body::{domain_entry, history_entry, wake_details};
pub use interface::{Actor1, HELD, Reload};
pub(crate) use server::Server;

#[cfg(test)]
mod tests;
