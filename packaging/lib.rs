//! Has no code: its `Cargo.toml` describes the Debian package to cargo-deb, which wants a crate of that name.
