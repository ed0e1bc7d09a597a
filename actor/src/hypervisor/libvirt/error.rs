//! libvirt's errors, as errors of a hypervisor.

use virt::enumutil::Enum;
use virt::error::ErrorNumber;

use crate::hypervisor::HypervisorError;

/// Converts an error of libvirt that this action returned.
pub(super) fn failed(action: &'static str) -> impl Fn(virt::error::Error) -> HypervisorError {
    move |error| {
        let message = error.message().to_owned();
        match error.code() {
            Enum::Known(ErrorNumber::NoDomain) => HypervisorError::NoDomain { action, message },
            Enum::Known(ErrorNumber::AccessDenied) => {
                HypervisorError::Call { action, advice: access_advice(&message), message }
            }
            _ => HypervisorError::Call { action, message, advice: "" },
        }
    }
}

/// What to do where libvirt's access driver has denied a call. libvirt's message names the driver that was
/// asked, such as `secret`, but neither the permission nor the object.
fn access_advice(message: &str) -> &'static str {
    if message.contains("secret") {
        "; the domain uses a libvirt secret that the actor may not read: see \"Encrypted disks and TPMs\" in \
         docs/RESTRICTED.md"
    } else {
        "; libvirt's access driver is on, and polkit does not grant this to the actor's user: see docs/RESTRICTED.md"
    }
}
