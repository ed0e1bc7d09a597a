//! libvirt's errors, as errors of a hypervisor.

use virt::enumutil::Enum;
use virt::error::ErrorNumber;

use wakevirt_actor::hypervisor::HypervisorError;

/// Converts the libvirt error of this action.
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

/// What to do if libvirt's access driver denied a call. libvirt's message names the kind of object, such as `secret`,
/// but neither the permission nor the object.
fn access_advice(message: &str) -> &'static str {
    if message.contains("secret") {
        "; the domain uses a libvirt secret that the actor is not allowed to read: see \"Encrypted disks and TPMs\" in \
         /usr/share/doc/wakevirt/RESTRICTED.md"
    } else {
        "; libvirt's access driver is enabled, and polkit does not grant this permission to the actor's user: see /usr/share/doc/wakevirt/RESTRICTED.md"
    }
}
