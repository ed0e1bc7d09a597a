//! This crate does not contain code. Its `Cargo.toml` describes the Debian package for cargo-deb, which needs a crate
//! with the package's name.
