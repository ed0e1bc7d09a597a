//! Who calls, and what they may do.
//!
//! On the system bus polkit decides, where there is one; else it is the user and the groups that the bus
//! vouches for. On a user's own bus that user may everything, as elsewhere in the session.

mod limit;
mod polkit;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use nix::unistd::Group;
use wakevirt_protocol::bus::Error;
use wakevirt_service::logs::Quota;
use zbus::Connection;
use zbus::fdo::{ConnectionCredentials, DBusProxy};
use zbus::message::Header;

use crate::model::{Authority, Caller, GROUP, ROOT, WakeTarget};
use limit::Questions;
use polkit::Refusal;

/// What somebody wants to have done.
#[derive(Debug, Clone, Copy)]
pub enum Action<'a> {
    /// A domain woken.
    Wake(&'a WakeTarget),
    /// The configuration read again.
    Reload,
}

/// Lets callers through who may.
#[derive(Debug, Clone)]
pub struct Gate {
    owner: Option<u32>,
    /// `None` before there is a bus.
    bus: Option<Connection>,
    questions: Questions,
    /// Lines about a polkit that does not work.
    faults: Arc<Mutex<Quota>>,
}

impl Gate {
    /// The gate of a bus that is this user's own; the system's is nobody's.
    #[must_use]
    pub fn new(owner: Option<u32>) -> Self {
        let faults = Quota::per_minute(3);
        Self { owner, bus: None, questions: Questions::default(), faults: Arc::new(Mutex::new(faults)) }
    }

    /// This gate, which asks the bus and polkit about callers on this connection. It is not the one on which
    /// they call: there the answers would come behind the calls.
    #[must_use]
    pub fn asking(&self, bus: &Connection) -> Self {
        Self { bus: Some(bus.clone()), ..self.clone() }
    }

    /// Makes sure that the caller may have this done. That can take minutes, where the caller lets polkit
    /// ask for a password.
    ///
    /// # Errors
    /// [`Error::NotAuthorized`] and [`Error::LimitExceeded`] say what to do. What cannot be found out is a
    /// refusal.
    pub async fn admit(&self, header: &Header<'_>, action: Action<'_>) -> Result<Caller, Error> {
        let connection = self.bus.as_ref().ok_or_else(|| refusal(action))?;
        let credentials = credentials(connection, header).await.ok_or_else(|| refusal(action))?;
        let user = credentials.unix_user_id().ok_or_else(|| refusal(action))?;
        let by = if user == ROOT || self.owner == Some(user) {
            Authority::User
        } else if self.owner.is_none() && polkit::is_there(connection).await? {
            let _question = self.questions.ask(user)?;
            polkit::check(connection, header, action).await.inspect_err(|refusal| self.log(refusal, user))?;
            Authority::Polkit
        } else if matches!(action, Action::Wake(_)) && is_member(&credentials, group().await) {
            Authority::Group
        } else {
            return Err(refusal(action));
        };
        Ok(Caller { user, by })
    }

    fn log(&self, refusal: &Refusal, user: u32) {
        if !refusal.is_fault() {
            tracing::debug!("a call of user {user} is refused: {refusal}");
            return;
        }
        // Anybody can cause it.
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held_back) = faults.take(Instant::now()) {
            let held_back = (held_back > 0).then_some(held_back);
            tracing::warn!(held_back, "a call of user {user} is refused: {refusal}");
        }
    }
}

/// Who the bus says the caller is.
async fn credentials(connection: &Connection, header: &Header<'_>) -> Option<ConnectionCredentials> {
    let sender = header.sender()?;
    let asked = async {
        DBusProxy::new(connection).await?.get_connection_credentials(sender.to_owned().into()).await
    };
    // Anybody can cause an error, by calling and leaving at once.
    let refused = |error: &_| {
        tracing::debug!("the bus does not tell who {sender} is, its call is refused: {error}");
    };
    asked.await.inspect_err(refused).ok()
}

/// The ID of the group, if there is one.
async fn group() -> Option<u32> {
    // The group database may be far away.
    let group = tokio::task::spawn_blocking(|| Group::from_name(GROUP)).await;
    group.ok().and_then(Result::ok).flatten().map(|group| group.gid.as_raw())
}

fn is_member(credentials: &ConnectionCredentials, group: Option<u32>) -> bool {
    let is_in = |group| credentials.unix_group_ids().is_some_and(|groups| groups.contains(&group));
    group.is_some_and(is_in)
}

/// The refusal where polkit has no say.
fn refusal(action: Action<'_>) -> Error {
    Error::NotAuthorized(match action {
        Action::Wake(_) => format!(
            "not allowed: only root and members of the group {GROUP} may wake domains; become a member \
             (usermod --append --groups {GROUP} USER, as root) and log in again"
        ),
        Action::Reload => {
            "not allowed: only root may have the configuration read again; ask for it as root".to_owned()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trusts_the_group() {
        let user = |uid| ConnectionCredentials::default().set_unix_user_id(uid);
        assert!(is_member(&user(1000).add_unix_group_id(1000).add_unix_group_id(7), Some(7)));
        assert!(!is_member(&user(1000).add_unix_group_id(1000), Some(7)));
        assert!(!is_member(&user(1000), Some(7)));
        assert!(!is_member(&user(1000).add_unix_group_id(1000), None), "there is no such group");
        // The bus does not know: nobody.
        assert!(!is_member(&ConnectionCredentials::default(), Some(7)));
        assert!(!is_member(&ConnectionCredentials::default(), None));
    }
}
