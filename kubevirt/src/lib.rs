//! The actor's driver for KubeVirt.
