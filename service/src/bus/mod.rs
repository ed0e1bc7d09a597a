//! The message bus: which one, a name on it, and how long to wait before trying again.

mod backoff;
mod calls;
mod keep;
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
pub use calls::{Calls, Limits, trusted};
pub use keep::keep;

use crate::logs::quoted;

/// Which bus.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Address {
    /// The system bus.
    #[default]
    System,
    /// The bus of the login session.
    Session,
    /// The bus at this address.
    At(zbus::Address),
}

impl Address {
    /// Which bus this is, in words.
    fn words(&self) -> String {
        match self {
            Self::System | Self::Session => format!("the {self} bus"),
            Self::At(address) => format!("the bus at {address}"),
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "system" => Ok(Self::System),
            "session" => Ok(Self::Session),
            // A semicolon parts the addresses of a list; zbus would take it for part of a path.
            list if list.contains(';') => Err(Error::List(list.to_owned())),
            text => match text.parse::<zbus::Address>() {
                Ok(address) if matches!(address.transport(), Transport::Unix(_)) => Ok(Self::At(address)),
                _ => Err(Error::Address(text.to_owned())),
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

/// What the bus does not give.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not an address.
    #[error(
        "{} is no bus; write system, session, or an address such as unix:path=/run/dbus/system_bus_socket",
        quoted(_0)
    )]
    Address(String),
    /// More than one address.
    #[error("{} is a list of addresses; choose one of them", quoted(_0))]
    List(String),
    /// Another connection owns the name.
    #[error("the bus name {name} is taken{by}; does the service run already? Stop the other one first")]
    Taken {
        /// The name.
        name: String,
        /// Who owns it, as far as the bus tells.
        by: String,
    },
    /// The bus policy does not allow this user to own the name.
    #[error(
        "the bus does not let user {user} own {name} ({reason}): its policy file {name}.conf is missing in \
         /usr/share/dbus-1/system.d or the bus has not read it yet (systemctl reload dbus), or the service \
         runs as the wrong user"
    )]
    Refused {
        /// The name.
        name: String,
        /// The user that this process runs as, by number.
        user: nix::unistd::Uid,
        /// What the bus says.
        reason: String,
    },
    /// Something else.
    #[error("cannot own the bus name {name}: {source}")]
    Failed {
        /// The name.
        name: String,
        /// What went wrong.
        source: zbus::Error,
    },
    /// The bus, or the connection to it.
    #[error(transparent)]
    Bus(#[from] zbus::Error),
    /// The bus has closed the connection.
    #[error("the connection to the bus is lost")]
    Closed,
}

/// Owns a name, or says why not; never waits in the queue behind another owner.
///
/// # Errors
/// [`Error::Taken`], [`Error::Refused`] or [`Error::Failed`].
pub async fn own(connection: &Connection, name: &str) -> Result<(), Error> {
    let reply = connection.request_name_with_flags(name, RequestNameFlags::DO_NOT_QUEUE).await;
    let name = name.to_owned();
    match reply {
        Ok(RequestNameReply::PrimaryOwner | RequestNameReply::AlreadyOwner) => Ok(()),
        Ok(RequestNameReply::InQueue | RequestNameReply::Exists) | Err(zbus::Error::NameTaken) => {
            let by = owner(connection, &name).await.unwrap_or_default();
            Err(Error::Taken { name, by })
        }
        Err(zbus::Error::FDO(error)) => match *error {
            fdo::Error::AccessDenied(reason) => {
                Err(Error::Refused { name, user: nix::unistd::geteuid(), reason })
            }
            other => Err(Error::Failed { name, source: zbus::Error::FDO(Box::new(other)) }),
        },
        Err(source) => Err(Error::Failed { name, source }),
    }
}

/// Gives the name back and closes the connection. It would stay open, and own the name, as long as a handler
/// that still runs holds it.
pub async fn leave(connection: Connection, name: &str) {
    /// How long a bus that does not answer is waited for.
    const PATIENCE: Duration = Duration::from_secs(1);
    // A connection that is lost owns nothing any more.
    let _ = timeout(PATIENCE, connection.release_name(name)).await;
    let _ = timeout(PATIENCE, connection.close()).await;
}

/// Who owns the name, in words: the process and the user. Not by `GetConnectionCredentials`: its reply has a file
/// descriptor, which the connection that serves does not take.
async fn owner(connection: &Connection, name: &str) -> zbus::Result<String> {
    let bus = DBusProxy::new(connection).await?;
    let process = bus.get_connection_unix_process_id(BusName::try_from(name)?).await?;
    let user = bus.get_connection_unix_user(BusName::try_from(name)?).await?;
    Ok(format!(" by process {process} of user {user}"))
}

#[cfg(test)]
mod tests;
