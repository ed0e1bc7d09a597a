//! The metadata of a domain that allows it, as virsh(1) changes it.

use crate::client::Domain;
use crate::virsh;

use super::error::RuleError;

/// The namespace of the metadata.
const NAMESPACE: &str = "https://wakevirt.org/metadata/1.0";

/// Adds the metadata to the definition of a domain, with the caller's rights in libvirt.
///
/// # Errors
/// If virsh(1) fails.
pub fn set(domain: &Domain) -> Result<(), RuleError> {
    edit(domain, &["--key", "wakevirt", "--set", "<wake/>"]).map(|_| ())
}

/// Removes the metadata from the definition of a domain. Returns whether there was any.
///
/// # Errors
/// If virsh(1) fails.
pub fn remove(domain: &Domain) -> Result<bool, RuleError> {
    // libvirt reports no error if there is nothing to remove.
    Ok(edit(domain, &[])? && edit(domain, &["--remove"])?)
}

/// Runs virsh(1) for the metadata. Returns whether the definition had it.
fn edit(domain: &Domain, options: &[&str]) -> Result<bool, RuleError> {
    let line = [&["metadata", &domain.uuid, NAMESPACE, "--config"], options].concat();
    let failed = |reason| RuleError::Virsh { command: virsh::command(&domain.connection, &line), reason };
    let ran = virsh::run(&domain.connection, &line).map_err(failed)?;
    // VIR_ERR_NO_DOMAIN_METADATA in libvirt's src/util/virerror.c.
    if !ran.success && ran.stderr.contains("metadata not found") {
        return Ok(false);
    }
    if ran.success { Ok(true) } else { Err(failed(ran.error())) }
}
