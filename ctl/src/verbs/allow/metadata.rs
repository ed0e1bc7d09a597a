//! The metadata that allows a domain, changed with virsh(1).

use crate::client::Domain;
use crate::virsh;

use super::error::RuleError;

/// The namespace of the metadata.
const NAMESPACE: &str = "https://wakevirt.org/metadata/1.0";

/// Adds the metadata to the definition of a domain, with the caller's permissions in libvirt.
///
/// # Errors
/// If virsh(1) fails.
pub fn set(domain: &Domain) -> Result<(), RuleError> {
    virsh_metadata(domain, &["--key", "wakevirt", "--set", "<wake/>"]).map(|_| ())
}

/// Removes the metadata from the definition of a domain. Returns whether there was any.
///
/// # Errors
/// If virsh(1) fails.
pub fn remove(domain: &Domain) -> Result<bool, RuleError> {
    // libvirt does not report an error if there is nothing to remove.
    Ok(virsh_metadata(domain, &[])? && virsh_metadata(domain, &["--remove"])?)
}

/// Runs `virsh metadata` for the domain. Returns whether the definition had the metadata.
fn virsh_metadata(domain: &Domain, options: &[&str]) -> Result<bool, RuleError> {
    let line = [&["metadata", &domain.uuid, NAMESPACE, "--config"], options].concat();
    let failed = |reason| RuleError::Virsh { command: virsh::command(&domain.connection, &line), reason };
    let output = virsh::run(&domain.connection, &line).map_err(failed)?;
    // VIR_ERR_NO_DOMAIN_METADATA in libvirt's src/util/virerror.c.
    if !output.success && output.stderr.contains("metadata not found") {
        return Ok(false);
    }
    if output.success { Ok(true) } else { Err(failed(output.error())) }
}
