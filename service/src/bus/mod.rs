//! The message bus: its address, names on it, limits on calls, and reconnection.

mod backoff;
mod calls;
mod reconnect;
mod transport;

use core::fmt;
use core::str::FromStr;
use std::time::Duration;

use tokio::time::timeout;
use zbus::Connection;
use zbus::address::transport::Transport;
use zbus::fdo::{self, DBusProxy, RequestNameFlags, RequestNameReply};
use zbus::names::BusName;

pub use backoff::Backoff;
pub use calls::{CallLimiter, CallLimits, trusted_uids};
pub use reconnect::run_connected;

use crate::logs::quoted;

/// A message bus.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Address {
    /// The system bus.
    #[default]
    System,
    /// The session bus.
    Session,
    /// The bus at this address.
    At(zbus::Address),
}

impl Address {
    /// A description of the bus for log messages.
    fn description(&self) -> String {
        match self {
            Self::System | Self::Session => format!("the {self} bus"),
            Self::At(address) => format!("the bus at {address}"),
        }
    }
}

impl FromStr for Address {
    type Err = BusError;

    fn from_str(text: &str) -> Result<Self, BusError> {
        match text {
            "system" => Ok(Self::System),
            "session" => Ok(Self::Session),
            // A semicolon separates the addresses of a list; zbus would parse it as part of a path.
            list if list.contains(';') => Err(BusError::List(list.to_owned())),
            text => match text.parse::<zbus::Address>() {
                Ok(address) if matches!(address.transport(), Transport::Unix(_)) => Ok(Self::At(address)),
                _ => Err(BusError::Address(text.to_owned())),
            },
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::Session => f.write_str("session"),
            Self::At(address) => address.fmt(f),
        }
    }
}

/// Why the service cannot use the bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// An invalid address.
    #[error(
        "{} is not a bus address; write system, session, or an address such as unix:path=/run/dbus/system_bus_socket",
        quoted(_0)
    )]
    Address(String),
    /// More than one address.
    #[error("{} is a list of addresses; choose one", quoted(_0))]
    List(String),
    /// Another connection owns the name.
    #[error("the bus name {name} is already owned{by}; stop the other instance of the service first")]
    NameTaken {
        /// The name.
        name: String,
        /// The process and the user of the owner, if known.
        by: String,
    },
    /// The bus policy does not allow this user to own the name.
    #[error(
        "the bus policy does not allow user {user} to own {name} ({reason}): the policy file {name}.conf is missing from \
         /usr/share/dbus-1/system.d, or the bus has not read it yet (systemctl reload dbus), or the service \
         runs as the wrong user"
    )]
    NameRefused {
        /// The name.
        name: String,
        /// The user ID of this process.
        user: nix::unistd::Uid,
        /// The bus's error message.
        reason: String,
    },
    /// Any other reason why the bus did not assign the name.
    #[error("cannot own the bus name {name}: {source}")]
    RequestName {
        /// The name.
        name: String,
        /// The cause.
        source: zbus::Error,
    },
    /// An error of the bus or of the connection to it.
    #[error(transparent)]
    Bus(#[from] zbus::Error),
    /// The bus has closed the connection.
    #[error("connection to the bus lost")]
    Closed,
}

/// Requests a name. Fails if another connection owns it, without waiting in the queue.
///
/// # Errors
/// [`BusError::NameTaken`], [`BusError::NameRefused`] or [`BusError::RequestName`].
pub async fn request_name(connection: &Connection, name: &str) -> Result<(), BusError> {
    let reply = connection.request_name_with_flags(name, RequestNameFlags::DO_NOT_QUEUE).await;
    let name = name.to_owned();
    match reply {
        Ok(RequestNameReply::PrimaryOwner | RequestNameReply::AlreadyOwner) => Ok(()),
        Ok(RequestNameReply::InQueue | RequestNameReply::Exists) | Err(zbus::Error::NameTaken) => {
            let by = owner(connection, &name).await.unwrap_or_default();
            Err(BusError::NameTaken { name, by })
        }
        Err(zbus::Error::FDO(error)) => match *error {
            fdo::Error::AccessDenied(reason) => {
                Err(BusError::NameRefused { name, user: nix::unistd::geteuid(), reason })
            }
            other => Err(BusError::RequestName { name, source: zbus::Error::FDO(Box::new(other)) }),
        },
        Err(source) => Err(BusError::RequestName { name, source }),
    }
}

/// Releases the name and closes the connection. Otherwise the connection would stay open and own the name as long as a
/// handler with a clone of it is running.
pub async fn disconnect(connection: Connection, name: &str) {
    const TIMEOUT: Duration = Duration::from_secs(1);
    // Errors do not matter: a lost connection does not own a name.
    let _ = timeout(TIMEOUT, connection.release_name(name)).await;
    let _ = timeout(TIMEOUT, connection.close()).await;
}

/// The process and the user that own a name, for an error. `GetConnectionCredentials` would return both, but its reply
/// contains a file descriptor, which a connection that receives calls does not accept.
async fn owner(connection: &Connection, name: &str) -> zbus::Result<String> {
    let bus = DBusProxy::new(connection).await?;
    let process = bus.get_connection_unix_process_id(BusName::try_from(name)?).await?;
    let user = bus.get_connection_unix_user(BusName::try_from(name)?).await?;
    Ok(format!(" by process {process} of user {user}"))
}

#[cfg(test)]
mod tests;
