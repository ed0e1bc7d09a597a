//! The actor's driver for KubeVirt.

pub mod import;
