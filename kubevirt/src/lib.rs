//! The actor's driver for KubeVirt: it finds virtual machines with the Kubernetes API and starts them.
//!
//! Each module can use those before it in this list: `uri` parses connection URIs, `client` connects to an API server,
//! `machines` holds the virtual machines, `watch` follows them, `wake` starts them, `events` reports the decisions, and
//! the driver connects these modules to the actor. `import` translates the configuration of kubevirt-wol.

mod client;
mod driver;
mod events;
pub mod import;
mod machines;
mod uri;
mod wake;
mod watch;

pub use driver::KubeVirt;
