//! The sniffer as a child process, and the messages that it sends.

pub mod child;
pub mod reader;
