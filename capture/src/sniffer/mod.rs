//! The sniffer's process, and the reader of its messages.

pub mod child;
pub mod reader;
