//! Puts domains to sleep with the host, and keeps the host awake for them.

fn main() {}
