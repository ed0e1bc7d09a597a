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
            _ => match missing_daemon(&message) {
                Some(daemon) => HypervisorError::Daemon { action, daemon: daemon.to_owned(), message },
                None => HypervisorError::Call { action, message, advice: "" },
            },
        }
    }
}

/// The daemon to which libvirt's daemon could not connect, such as `virtnetworkd`: virNetSocketNewConnectUNIX() in libvirt
/// reports the path of its socket. `None` for any other message.
fn missing_daemon(message: &str) -> Option<&str> {
    let (_, path) = message.split_once("Failed to connect socket to '")?;
    let (path, _) = path.split_once("-sock'")?;
    let (_, name) = path.rsplit_once('/')?;
    let is_daemon =
        name.starts_with("virt") && name.ends_with('d') && name.bytes().all(|it| it.is_ascii_lowercase());
    is_daemon.then_some(name)
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

#[cfg(test)]
mod tests {
    use super::missing_daemon;

    #[test]
    fn names_the_daemon_whose_socket_is_missing() {
        let message = |path: &str| format!("Failed to connect socket to '{path}': No such file or directory");
        for (path, daemon) in [
            ("/var/run/libvirt/virtnetworkd-sock", Some("virtnetworkd")),
            ("/run/libvirt/virtlogd-sock", Some("virtlogd")),
            ("/run/user/1000/libvirt/virtsecretd-sock", Some("virtsecretd")),
            ("/run/libvirt/virtnetworkd-sock-ro", None),
            ("/run/libvirt/libvirt-sock", None),
            ("/run/virt x\u{1b}d-sock", None),
            ("virtnetworkd-sock", None),
        ] {
            assert_eq!(missing_daemon(&message(path)), daemon, "{path}");
        }
        assert_eq!(missing_daemon("cannot connect to virtlogd: Failed to connect socket to '"), None);
        assert_eq!(missing_daemon(""), None);
    }
}
