#![expect(unsafe_code, reason = "the virt crate does not wrap these functions of libvirt")]
//! Calls that the virt crate lacks.

use std::ffi::c_uint;

use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

/// How a guest sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SleepTarget {
    /// The guest keeps its memory (S3). It runs on after `virDomainPMWakeup`.
    Memory,
    /// The guest writes its memory to its disk and powers off (S4).
    Disk,
}

/// Asks the guest's agent to suspend the guest, and returns when the agent has replied:
/// `virDomainPMSuspendForDuration`. The state of the domain changes later.
///
/// # Errors
/// If the guest has no agent, the domain's `<pm>` element forbids this kind of sleep, or the agent does not reply.
pub fn pm_suspend(domain: &Domain, target: SleepTarget) -> Result<(), Error> {
    let target: c_uint = match target {
        SleepTarget::Memory => sys::VIR_NODE_SUSPEND_TARGET_MEM,
        SleepTarget::Disk => sys::VIR_NODE_SUSPEND_TARGET_DISK,
    };
    // SAFETY: the pointer is valid as long as the domain, which outlives the call.
    let pointer = unsafe { domain.as_ptr() };
    // SAFETY: as above. Only 0 is a valid duration and the only valid flag.
    let result = unsafe { sys::virDomainPMSuspendForDuration(pointer, target, 0, 0) };
    if result < 0 { Err(Error::last_error()) } else { Ok(()) }
}

/// Aborts the domain's job, such as a save: `virDomainAbortJob`.
///
/// # Errors
/// If there is no job, or it cannot be aborted.
pub fn abort_job(domain: &Domain) -> Result<(), Error> {
    // SAFETY: the pointer is valid as long as the domain, which outlives the call.
    let pointer = unsafe { domain.as_ptr() };
    // SAFETY: as above.
    let result = unsafe { sys::virDomainAbortJob(pointer) };
    if result < 0 { Err(Error::last_error()) } else { Ok(()) }
}
