//! What differs between the programs that contain the actor.

use std::time::Duration;

/// A program that contains the actor with one kind of hypervisor.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Its name, in error messages.
    pub name: &'static str,
    /// The default hypervisor.
    pub uri: &'static str,
    /// Checks the URI of a hypervisor. The error says what is wrong, and what to do.
    pub check_uri: fn(&str) -> Result<(), String>,
    /// The default of `cool-down`.
    pub cool_down: Duration,
    /// The group whose members have full access to the hypervisor, and are allowed to wake domains.
    pub group: Option<&'static str>,
    /// Whether the hypervisor is a cluster, in whose namespaces different users create domains with MAC addresses of
    /// their choice.
    pub is_cluster: bool,
}

#[cfg(test)]
impl Program {
    /// A program for libvirt.
    pub(crate) const TEST: Self = Self {
        name: "wakevirt-actor",
        uri: "qemu:///system",
        check_uri: |uri| {
            if uri.starts_with("kubevirt:") { Err("another program".to_owned()) } else { Ok(()) }
        },
        cool_down: Duration::from_secs(5),
        group: Some("libvirt"),
        is_cluster: false,
    };
    /// A program for a cluster.
    pub(crate) const CLUSTER: Self =
        Self { check_uri: |_| Ok(()), group: None, is_cluster: true, ..Self::TEST };
}
