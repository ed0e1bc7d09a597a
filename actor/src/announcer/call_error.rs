//! Why the announcer does not do what it is asked, in words: what the bus refuses is not told by its
//! errors alone.

use wakevirt_protocol::bus::{CAPTURE_NAME, Error};
use wakevirt_service::logs::quoted;
use zbus::fdo;

/// Why a call of this method failed; where the bus policy does not let this user call it, also what to
/// do. A user's own actor is refused so: org.wakevirt.Capture1.conf names who may call what.
#[must_use]
pub fn reason(method: &str, error: &Error) -> String {
    match error {
        Error::ZBus(zbus::Error::FDO(error)) if matches!(**error, fdo::Error::AccessDenied(_)) => {
            format!(
                "the bus does not let user {} call {method} of {CAPTURE_NAME}; add the user to the group \
                 wakevirt, log in again and restart the actor",
                nix::unistd::geteuid()
            )
        }
        // Written out here: the type that may hold any error names this one only by its kind.
        Error::ZBus(error) => quoted(&error.to_string()).to_string(),
        error => quoted(&error.to_string()).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do_and_an_error_what_it_is() {
        let denied = fdo::Error::AccessDenied("Rejected send message, 1 matched rules".to_owned());
        let reason_of = |error| reason("SetInterest", &Error::ZBus(zbus::Error::FDO(Box::new(error))));
        let refused = reason_of(denied);
        let user = nix::unistd::geteuid();
        let what = format!("the bus does not let user {user} call SetInterest of org.wakevirt.Capture1; add");
        assert!(refused.starts_with(&what) && !refused.contains("FDO"), "{refused}");
        let other = reason_of(fdo::Error::NoReply("it is gone".to_owned()));
        assert!(other.contains("it is gone") && !other.contains("FDO"), "{other}");
        let limit = reason("SetInterest", &Error::LimitExceeded("at most 5".to_owned()));
        assert!(limit.contains("at most 5"), "{limit}");
    }
}
