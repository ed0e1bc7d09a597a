//! Identifies callers, and decides what they are allowed to do.
//!
//! On the system bus, polkit decides if it is available. Otherwise, the decision is based on the caller's user and
//! groups, as the bus reports them. On a session bus, the user who owns the bus is allowed to do everything, as with
//! other services there.

mod check_limit;
mod operation;
mod polkit;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use nix::unistd::Group;
use wakevirt_protocol::bus::Error;
use wakevirt_service::logs::{Quota, kind};
use zbus::Connection;
use zbus::fdo::{ConnectionCredentials, DBusProxy};
use zbus::message::Header;

use crate::model::{Authority, Caller, ROOT};
use check_limit::CheckLimit;
pub use operation::Operation;
use polkit::Denial;

/// Authorises callers.
#[derive(Debug, Clone)]
pub struct Authorizer {
    owner: Option<u32>,
    /// The group whose members can wake domains if polkit is not available.
    group: Option<&'static str>,
    /// `None` while there is no bus.
    bus: Option<Connection>,
    limit: CheckLimit,
    /// The limit for log lines about polkit failures.
    fault_log: Arc<Mutex<Quota>>,
}

impl Authorizer {
    /// Authorises callers on a session bus that belongs to `owner`, or on the system bus if `owner` is `None`. Without
    /// polkit, members of the group can wake domains on the system bus.
    #[must_use]
    pub fn new(owner: Option<u32>, group: Option<&'static str>) -> Self {
        let fault_log = Arc::new(Mutex::new(Quota::per_minute(3)));
        Self { owner, group, bus: None, limit: CheckLimit::default(), fault_log }
    }

    /// A copy that calls the bus and polkit on this connection. Do not use the connection that receives the callers'
    /// calls: replies would queue behind those calls there.
    #[must_use]
    pub fn with_connection(&self, bus: &Connection) -> Self {
        Self { bus: Some(bus.clone()), ..self.clone() }
    }

    /// Authorises the operation and returns the caller. This can take minutes if the caller permits polkit to ask for a
    /// password.
    ///
    /// # Errors
    /// [`Error::NotAuthorized`] and [`Error::LimitExceeded`] say what to do. If the caller cannot be identified, or
    /// polkit cannot be queried, the operation is denied.
    pub async fn authorize(&self, header: &Header<'_>, operation: Operation<'_>) -> Result<Caller, Error> {
        let connection = self.bus.as_ref().ok_or_else(|| self.denial(operation))?;
        let credentials = credentials(connection, header).await.ok_or_else(|| self.denial(operation))?;
        let user = credentials.unix_user_id().ok_or_else(|| self.denial(operation))?;
        let authority = if user == ROOT || self.owner == Some(user) {
            Authority::User
        } else if self.owner.is_none() && polkit::is_available(connection).await? {
            let _slot = self.limit.acquire(user)?;
            let check = polkit::check(connection, header, operation).await;
            check.inspect_err(|denial| self.log(denial, user))?;
            Authority::Polkit
        } else if matches!(operation, Operation::Wake(_))
            && is_member(&credentials, group_id(self.group).await)
        {
            Authority::Group
        } else {
            return Err(self.denial(operation));
        };
        Ok(Caller { user, authority })
    }

    /// The error for a caller that is denied without polkit.
    fn denial(&self, operation: Operation<'_>) -> Error {
        Error::NotAuthorized(match (operation, self.group) {
            (Operation::Wake(_), Some(group)) => format!(
                "not allowed: only root and members of the {group} group can wake domains; add the user to the \
                 group (usermod --append --groups {group} USER, as root) and log in again"
            ),
            (Operation::Wake(_), None) => "not allowed: only root can wake domains; call as root".to_owned(),
            (Operation::Reload, _) => {
                "not allowed: only root can reload the configuration; call as root".to_owned()
            }
        })
    }

    fn log(&self, denial: &Denial, user: u32) {
        if !denial.is_fault() {
            tracing::debug!("denied a call from user {user}: {denial}");
            return;
        }
        // Any user can cause this log line.
        let mut quota = self.fault_log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(suppressed) = quota.take(Instant::now()) {
            let suppressed = (suppressed > 0).then_some(suppressed);
            tracing::warn!(
                MESSAGE_ID = kind::AUTHORIZATION_FAILED,
                WAKEVIRT_CALLER = user,
                WAKEVIRT_SUPPRESSED = suppressed,
                "denied a call from user {user}: {denial}"
            );
        }
    }
}

/// The caller's credentials, as the bus reports them.
async fn credentials(connection: &Connection, header: &Header<'_>) -> Option<ConnectionCredentials> {
    let sender = header.sender()?;
    let call = async {
        DBusProxy::new(connection).await?.get_connection_credentials(sender.to_owned().into()).await
    };
    // Debug level: a caller that disconnects immediately causes this error.
    let log = |error: &_| {
        tracing::debug!("denied a call from {sender}: the bus does not report its credentials: {error}");
    };
    call.await.inspect_err(log).ok()
}

/// The ID of the group, if it exists.
async fn group_id(name: Option<&'static str>) -> Option<u32> {
    let name = name?;
    // A blocking task: the group database can be on the network.
    let group = tokio::task::spawn_blocking(|| Group::from_name(name)).await;
    group.ok().and_then(Result::ok).flatten().map(|group| group.gid.as_raw())
}

fn is_member(credentials: &ConnectionCredentials, group: Option<u32>) -> bool {
    let is_in = |group| credentials.unix_group_ids().is_some_and(|groups| groups.contains(&group));
    group.is_some_and(is_in)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_members_of_the_group() {
        let user = |uid| ConnectionCredentials::default().set_unix_user_id(uid);
        assert!(is_member(&user(1000).add_unix_group_id(1000).add_unix_group_id(7), Some(7)));
        assert!(!is_member(&user(1000).add_unix_group_id(1000), Some(7)));
        assert!(!is_member(&user(1000), Some(7)));
        assert!(!is_member(&user(1000).add_unix_group_id(1000), None), "the group does not exist");
        // The bus does not report groups.
        assert!(!is_member(&ConnectionCredentials::default(), Some(7)));
        assert!(!is_member(&ConnectionCredentials::default(), None));
    }
}
