//! Error messages for failed calls to the announcer.

use wakevirt_protocol::bus::{CAPTURE_NAME, Error};
use wakevirt_service::logs::quoted;
use zbus::fdo;

/// Describes why a call to this method failed. If the bus policy denied the call, the message says what to do:
/// `org.wakevirt.Capture1.conf` allows only root, the `wakevirt-actor` user, members of the `wakevirt` group and, for
/// `Replay`, members of the `libvirt` group to call it, and the actor can run as a different user.
#[must_use]
pub fn describe(method: &str, error: &Error) -> String {
    match error {
        Error::ZBus(zbus::Error::FDO(error)) if matches!(**error, fdo::Error::AccessDenied(_)) => {
            format!(
                "the bus policy does not allow user {} to call {method} on {CAPTURE_NAME}; add the user to the \
                 wakevirt group, log in again and restart the actor",
                nix::unistd::geteuid()
            )
        }
        // The message of the inner error: for this variant, `Error` itself displays only the kind.
        Error::ZBus(error) => quoted(&error.to_string()).to_string(),
        error => quoted(&error.to_string()).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn describe_fdo(error: fdo::Error) -> String {
        describe("SetInterest", &Error::ZBus(zbus::Error::FDO(Box::new(error))))
    }

    #[test]
    fn describes_how_to_allow_a_denied_call() {
        let denied = fdo::Error::AccessDenied("Rejected send message, 1 matched rules".to_owned());
        let message = describe_fdo(denied);
        let user = nix::unistd::geteuid();
        let start = format!(
            "the bus policy does not allow user {user} to call SetInterest on org.wakevirt.Capture1; add"
        );
        assert!(message.starts_with(&start) && !message.contains("FDO"), "{message}");
    }

    #[test]
    fn describes_other_errors_with_their_message() {
        let message = describe_fdo(fdo::Error::NoReply("it has exited".to_owned()));
        assert!(message.contains("it has exited") && !message.contains("FDO"), "{message}");
        let message = describe("SetInterest", &Error::LimitExceeded("at most 5".to_owned()));
        assert!(message.contains("at most 5"), "{message}");
    }
}
