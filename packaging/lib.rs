//! This crate has no code. Its `Cargo.toml` describes the Debian package for cargo-deb, which needs a crate with the
//! name of the package.
