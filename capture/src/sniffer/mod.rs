//! The sniffer's process, what it is sent, and the reader of its messages.

pub mod child;
pub mod control;
pub mod reader;
