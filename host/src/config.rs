//! The configuration: `host.toml`.
