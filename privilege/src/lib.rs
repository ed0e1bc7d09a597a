//! Drops the capabilities of a process.
//!
//! This is a separate crate because the sniffer also uses it and must not link `wakevirt-service`.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities, set_no_new_privs,
};

/// A step failed. The process may still have capabilities, and must exit.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}: {error}")]
pub struct Error {
    step: &'static str,
    error: io::Error,
}

/// Sets `no_new_privs`, so that the process cannot regain a capability by executing a program (prctl(2)), and clears
/// the ambient, effective, permitted and inheritable sets.
///
/// The bounding set does not change: removing capabilities from it requires `CAP_SETPCAP`, and with `no_new_privs` the
/// set does not grant any capability.
///
/// Capabilities belong to a thread, so call this function before the process starts a second thread.
///
/// # Errors
/// [`Error`] names the step and the kernel's error.
pub fn drop_capabilities() -> Result<(), Error> {
    let failed = |step| move |error: rustix::io::Errno| Error { step, error: error.into() };
    set_no_new_privs(true).map_err(failed("set no_new_privs"))?;
    clear_ambient_capability_set().map_err(failed("clear the ambient capabilities"))?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, sets).map_err(failed("drop the capabilities"))
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    /// If the process has no capabilities, only `no_new_privs` changes.
    #[test]
    fn drops_all_capabilities_of_the_thread() {
        let status = thread::spawn(|| {
            super::drop_capabilities().unwrap();
            fs::read_to_string("/proc/thread-self/status").unwrap()
        });
        let status = status.join().unwrap();
        for line in [
            "CapInh:\t0000000000000000",
            "CapPrm:\t0000000000000000",
            "CapEff:\t0000000000000000",
            "CapAmb:\t0000000000000000",
            "NoNewPrivs:\t1",
        ] {
            assert!(status.contains(line), "{line} is not in\n{status}");
        }
    }
}
