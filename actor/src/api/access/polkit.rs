//! What polkit says: polkit(8), and "org.freedesktop.PolicyKit1.Authority Interface" in its reference.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::timeout;
use wakevirt_protocol::bus::Error;
use zbus::Connection;
use zbus::fdo::DBusProxy;
use zbus::message::{Flags, Header};
use zbus_polkit::policykit1::{AuthorityProxy, AuthorizationResult, CheckAuthorizationFlags, Subject};

use super::Action;
use crate::model::WakeTarget;

const NAME: &str = "org.freedesktop.PolicyKit1";
/// How long polkit may take to look at its rules; it may have to be started before.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long somebody may take to type a password.
const DIALOG: Duration = Duration::from_secs(300);

/// Why polkit does not let a call through.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// Nothing helps but another rule.
    #[error("polkit does not allow it; ask an administrator for a rule in /etc/polkit-1/rules.d")]
    Denied,
    /// A password would help, and the caller did not let polkit ask for one.
    #[error(
        "polkit asks for authentication, which the call does not allow; allow it \
         (busctl --allow-interactive-authorization=yes)"
    )]
    NotInteractive,
    /// A password would help, and nobody is there to ask for it.
    #[error(
        "polkit asks for authentication, and no agent is there that asks for the password; start one \
         (pkttyagent --process PID, with the caller's PID)"
    )]
    NoAgent,
    /// The dialog was closed.
    #[error("the authentication was dismissed; call again")]
    Dismissed,
    /// The password was wrong, or the caller has left.
    #[error("the authentication failed; call again")]
    NotAuthenticated,
    /// There is no answer.
    #[error("polkit does not answer; see `systemctl status polkit`, and try again")]
    NoAnswer,
    /// Nobody has typed a password.
    #[error("the authentication has taken more than {} minutes; call again", DIALOG.as_secs() / 60)]
    TooSlow,
    /// There is no polkit that works.
    #[error(
        "polkit cannot be asked ({0}); see `systemctl status polkit`, and whether org.wakevirt.policy is in \
         /usr/share/polkit-1/actions"
    )]
    Error(#[from] zbus::Error),
    /// The caller does not say who it is.
    #[error("polkit cannot be asked: {0}")]
    Subject(#[from] zbus_polkit::Error),
}

impl Refusal {
    /// Whether polkit does not work, so that an administrator is to look at it.
    pub(super) const fn is_fault(&self) -> bool {
        matches!(self, Self::NoAnswer | Self::Error(_))
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::NotAuthorized(format!("not allowed: {refusal}, or call as root"))
    }
}

/// Whether polkit runs, or can be started by a call.
///
/// # Errors
/// [`Error::NotAuthorized`] if the bus does not tell.
pub(super) async fn is_there(connection: &Connection) -> Result<bool, Error> {
    let asked = async {
        let bus = DBusProxy::new(connection).await?;
        let is_owned = bus.name_has_owner(NAME.try_into()?).await?;
        Ok(is_owned || bus.list_activatable_names().await?.iter().any(|name| *name == NAME))
    };
    asked.await.map_err(|error: zbus::Error| Refusal::Error(error).into())
}

/// Asks polkit whether the caller may have this done.
pub(super) async fn check(
    connection: &Connection,
    header: &Header<'_>,
    action: Action<'_>,
) -> Result<(), Refusal> {
    let subject = Subject::new_for_message_header(header)?;
    let flags = CheckAuthorizationFlags::empty();
    let answer = timeout(PATIENCE, ask(connection, &subject, action, flags)).await;
    let answer = answer.map_err(|_| Refusal::NoAnswer)??;
    if answer.is_authorized {
        return Ok(());
    }
    if !answer.is_challenge {
        return Err(Refusal::Denied);
    }
    if !header.primary().flags().contains(Flags::ALLOW_INTERACTIVE_AUTH) {
        return Err(Refusal::NotInteractive);
    }
    let dialog = async {
        // A connection of its own: calls on the other one end after 25 s, and polkit closes the dialog
        // when the connection that asked for it is gone, as it does when the caller's is.
        let own = zbus::connection::Builder::system().build().await?;
        ask(&own, &subject, action, CheckAuthorizationFlags::ALLOW_USER_INTERACTION).await
    };
    let answer = timeout(DIALOG, dialog).await.map_err(|_| Refusal::TooSlow)??;
    if answer.is_authorized {
        Ok(())
    } else if answer.is_challenge {
        Err(Refusal::NoAgent)
    } else if answer.details.contains_key("polkit.dismissed") {
        Err(Refusal::Dismissed)
    } else {
        Err(Refusal::NotAuthenticated)
    }
}

async fn ask(
    connection: &Connection,
    subject: &Subject,
    action: Action<'_>,
    flags: CheckAuthorizationFlags,
) -> zbus::Result<AuthorizationResult> {
    let (id, details) = question(action);
    let details = details.iter().map(|(key, value)| (*key, value.as_str())).collect();
    AuthorityProxy::new(connection).await?.check_authorization(subject, id, &details, flags, "").await
}

/// The action as org.wakevirt.policy has it, and what a rule and the person who is to type a password may
/// know of it. That is what the caller said: who may know more is not decided yet.
fn question(action: Action<'_>) -> (&'static str, HashMap<&'static str, String>) {
    let wake = |key, value, which| {
        // polkit puts the other detail into its message.
        let message = format!("Authentication is required to wake the virtual machine {which}.");
        ("org.wakevirt.wake", HashMap::from([(key, value), ("polkit.message", message)]))
    };
    match action {
        Action::Wake(WakeTarget::Mac(mac)) => wake("mac", mac.to_string(), "with the MAC address $(mac)"),
        Action::Wake(WakeTarget::Domain(name)) => wake("domain", name.clone(), "“$(domain)”"),
        Action::Reload => ("org.wakevirt.reload", HashMap::new()),
    }
}
