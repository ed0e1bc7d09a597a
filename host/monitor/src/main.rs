//! The `wakevirt-monitor` program: switches a monitor to a domain, and back to the host.

fn main() {}
