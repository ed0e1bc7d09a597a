//! Who calls, and what they may do: by the credentials that the bus vouches for.

use nix::unistd::Group;
use wakevirt_protocol::bus::Error;
use zbus::Connection;
use zbus::fdo::{ConnectionCredentials, DBusProxy};
use zbus::message::Header;

/// The group that may do everything with libvirt, and so may wake.
const GROUP: &str = "libvirt";

/// Somebody who called, and may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The user ID, as the bus vouches for it.
    pub user: u32,
}

/// Makes sure that the caller may wake any domain: root, a member of the group libvirt, or `owner`, whose
/// own bus this is.
///
/// # Errors
/// [`Error::NotAuthorized`] says what to do. What cannot be found out is a refusal.
pub async fn may_wake(
    connection: &Connection,
    header: &Header<'_>,
    owner: Option<u32>,
) -> Result<Caller, Error> {
    let credentials = credentials(connection, header).await.ok_or_else(refusal)?;
    // The group database may be far away.
    let group = tokio::task::spawn_blocking(|| Group::from_name(GROUP)).await;
    let group = group.ok().and_then(Result::ok).flatten().map(|group| group.gid.as_raw());
    let user = credentials.unix_user_id().ok_or_else(refusal)?;
    if owner == Some(user) || trusted(&credentials, group) { Ok(Caller { user }) } else { Err(refusal()) }
}

/// Makes sure that the caller may have the configuration read again: root, or `owner`, whose own bus this
/// is.
///
/// # Errors
/// [`Error::NotAuthorized`] says what to do. What cannot be found out is a refusal.
pub async fn may_reload(
    connection: &Connection,
    header: &Header<'_>,
    owner: Option<u32>,
) -> Result<(), Error> {
    let credentials = credentials(connection, header).await;
    let user = credentials.and_then(|credentials| credentials.unix_user_id());
    if user == Some(0) || (user.is_some() && user == owner) {
        Ok(())
    } else {
        let text = "only root may have the configuration read again; ask for it as root".to_owned();
        Err(Error::NotAuthorized(text))
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

fn trusted(credentials: &ConnectionCredentials, group: Option<u32>) -> bool {
    let is_member = |group| credentials.unix_group_ids().is_some_and(|groups| groups.contains(&group));
    credentials.unix_user_id() == Some(0) || group.is_some_and(is_member)
}

fn refusal() -> Error {
    Error::NotAuthorized(format!(
        "only root and members of the group {GROUP} may wake domains; become a member \
         (usermod --append --groups {GROUP} USER, as root) and log in again"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trusts_root_and_the_group() {
        let user = |uid| ConnectionCredentials::default().set_unix_user_id(uid);
        assert!(trusted(&user(0), None));
        assert!(trusted(&user(0), Some(7)));
        assert!(trusted(&user(1000).add_unix_group_id(1000).add_unix_group_id(7), Some(7)));
        assert!(!trusted(&user(1000).add_unix_group_id(1000), Some(7)));
        assert!(!trusted(&user(1000), Some(7)));
        assert!(!trusted(&user(1000).add_unix_group_id(1000), None), "there is no such group");
        // The bus does not know: nobody.
        assert!(!trusted(&ConnectionCredentials::default(), Some(7)));
        assert!(!trusted(&ConnectionCredentials::default(), None));
    }
}
