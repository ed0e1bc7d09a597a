//! The `wakevirt-host` program: prepares the host for its domains.

fn main() {}
