//! Authorisation by polkit: see polkit(8), and "org.freedesktop.PolicyKit1.Authority Interface" in its reference.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::timeout;
use wakevirt_protocol::bus::Error;
use zbus::Connection;
use zbus::fdo::DBusProxy;
use zbus::message::{Flags, Header};
use zbus_polkit::policykit1::{AuthorityProxy, AuthorizationResult, CheckAuthorizationFlags, Subject};

use super::operation::Operation;
use crate::model::WakeTarget;

const NAME: &str = "org.freedesktop.PolicyKit1";
/// The maximum time for a check without a dialog, including the time that polkit needs to start.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum time for a check with a dialog, in which a user types a password.
const DIALOG_TIMEOUT: Duration = Duration::from_secs(300);

/// Why polkit does not authorise a call.
#[derive(Debug, thiserror::Error)]
pub(super) enum Denial {
    /// Only a different polkit rule can allow it.
    #[error("polkit does not allow this call; ask an administrator to add a rule to /etc/polkit-1/rules.d")]
    Denied,
    /// polkit would ask for a password, but the call does not permit a dialog.
    #[error(
        "polkit requires authentication, but the call does not permit interaction; permit it \
         (busctl --allow-interactive-authorization=yes)"
    )]
    NotInteractive,
    /// polkit would ask for a password, but the caller has no authentication agent.
    #[error(
        "polkit requires authentication, but no authentication agent is running; start one \
         (pkttyagent --process PID, with the caller's PID)"
    )]
    NoAgent,
    /// The user closed the dialog.
    #[error("the authentication dialog was dismissed; call again")]
    Dismissed,
    /// The password was wrong, or the caller has disconnected.
    #[error("the authentication failed; call again")]
    NotAuthenticated,
    /// polkit did not reply in time.
    #[error("polkit does not respond; check that polkitd is running, and try again")]
    NoReply,
    /// The dialog took too long.
    #[error("the authentication took more than {} minutes; call again", DIALOG_TIMEOUT.as_secs() / 60)]
    DialogTimeout,
    /// The call to polkit failed.
    #[error(
        "cannot query polkit: {0}; check that polkitd is running, and that org.wakevirt.policy is in \
         /usr/share/polkit-1/actions"
    )]
    Call(#[from] zbus::Error),
    /// The call has no sender.
    #[error("cannot query polkit: {0}")]
    Subject(#[from] zbus_polkit::Error),
}

impl Denial {
    /// Whether polkit itself failed, so that an administrator must act.
    pub(super) const fn is_fault(&self) -> bool {
        matches!(self, Self::NoReply | Self::Call(_))
    }
}

impl From<Denial> for Error {
    fn from(denial: Denial) -> Self {
        Self::NotAuthorized(format!("not allowed: {denial}, or call as root"))
    }
}

/// Whether polkit is running, or can be activated.
///
/// # Errors
/// [`Error::NotAuthorized`] if the bus does not respond.
pub(super) async fn is_available(connection: &Connection) -> Result<bool, Error> {
    let call = async {
        let bus = DBusProxy::new(connection).await?;
        let is_owned = bus.name_has_owner(NAME.try_into()?).await?;
        Ok(is_owned || bus.list_activatable_names().await?.iter().any(|name| *name == NAME))
    };
    call.await.map_err(|error: zbus::Error| Denial::Call(error).into())
}

/// Checks whether polkit allows the caller to perform this operation.
pub(super) async fn check(
    connection: &Connection,
    header: &Header<'_>,
    operation: Operation<'_>,
) -> Result<(), Denial> {
    let subject = Subject::new_for_message_header(header)?;
    let flags = CheckAuthorizationFlags::empty();
    let result = timeout(CHECK_TIMEOUT, check_authorization(connection, &subject, operation, flags)).await;
    let result = result.map_err(|_| Denial::NoReply)??;
    if result.is_authorized {
        return Ok(());
    }
    if !result.is_challenge {
        return Err(Denial::Denied);
    }
    if !header.primary().flags().contains(Flags::ALLOW_INTERACTIVE_AUTH) {
        return Err(Denial::NotInteractive);
    }
    let dialog = async {
        // A separate connection: calls on the other connection time out after 25 s. polkit closes the dialog when this
        // connection is closed, and also when the caller disconnects.
        let own = zbus::connection::Builder::system().build().await?;
        let flags = CheckAuthorizationFlags::ALLOW_USER_INTERACTION;
        check_authorization(&own, &subject, operation, flags).await
    };
    let result = timeout(DIALOG_TIMEOUT, dialog).await.map_err(|_| Denial::DialogTimeout)??;
    if result.is_authorized {
        Ok(())
    } else if result.is_challenge {
        Err(Denial::NoAgent)
    } else if result.details.contains_key("polkit.dismissed") {
        Err(Denial::Dismissed)
    } else {
        Err(Denial::NotAuthenticated)
    }
}

async fn check_authorization(
    connection: &Connection,
    subject: &Subject,
    operation: Operation<'_>,
    flags: CheckAuthorizationFlags,
) -> zbus::Result<AuthorizationResult> {
    let (action, details) = action(operation);
    let details = details.iter().map(|(key, value)| (*key, value.as_str())).collect();
    AuthorityProxy::new(connection).await?.check_authorization(subject, action, &details, flags, "").await
}

/// The action ID in org.wakevirt.policy, and the details for rules and for the dialog. The details contain only what
/// the caller sent, because the caller is not yet authorised to learn more.
fn action(operation: Operation<'_>) -> (&'static str, HashMap<&'static str, String>) {
    let wake = |key, value, which| {
        // polkit replaces $(key) with the detail of that name.
        let message = format!("Authentication is required to wake the virtual machine {which}.");
        ("org.wakevirt.wake", HashMap::from([(key, value), ("polkit.message", message)]))
    };
    match operation {
        Operation::Wake(WakeTarget::Mac(mac)) => wake("mac", mac.to_string(), "with the MAC address $(mac)"),
        Operation::Wake(WakeTarget::Domain(name)) => wake("domain", name.clone(), "“$(domain)”"),
        Operation::Reload => ("org.wakevirt.reload", HashMap::new()),
    }
}
