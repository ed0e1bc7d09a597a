//! Calls to systemd: org.freedesktop.systemd1(5). polkit permits them: `dbus/host/10-wakevirt-host.rules`.

mod jobs;
mod properties;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::time::Instant;
use wakevirt_service::bus::{Address, Backoff};
use wakevirt_service::logs::quoted;
use zbus::Connection;
use zbus::wire::Type;

/// How long calls are repeated while the bus or systemd restarts.
const RETRY: Duration = Duration::from_secs(3);
/// systemd's name on the bus.
const NAME: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// Why systemd did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// A call failed.
    #[error("systemd cannot {action}: {source}")]
    Call {
        /// What systemd was asked for.
        action: String,
        /// The cause.
        source: zbus::Error,
    },
    /// A limit has no effect.
    #[error(
        "{property} has no effect on {unit}: {file} contains {}; the {controller} controller of cgroup v2 might be disabled or in use by cgroup v1",
        quoted(found)
    )]
    NoEffect {
        /// The property.
        property: &'static str,
        /// The unit.
        unit: String,
        /// The file that shows the effect.
        file: String,
        /// Its content, or the reason why it cannot be read.
        found: String,
        /// The cgroup controller.
        controller: &'static str,
    },
    /// A unit did not start.
    #[error("{unit} is {state}; see `systemctl status {unit}` and `journalctl --unit={unit}`")]
    Failed {
        /// The unit.
        unit: String,
        /// Its state.
        state: String,
    },
    /// A unit did not start in time.
    #[error("{unit} did not start in time; see `systemctl status {unit}`")]
    Slow {
        /// The unit.
        unit: String,
    },
}

/// systemd. Connects to the bus when it is needed, and again after the connection is lost.
#[derive(Debug)]
pub struct Systemd {
    bus: Address,
    connection: Mutex<Option<Connection>>,
    /// The mount point of cgroup v2.
    cgroups: PathBuf,
}

impl Systemd {
    /// Uses the systemd on this bus.
    #[must_use]
    pub fn new(bus: Address) -> Self {
        Self { bus, connection: Mutex::new(None), cgroups: PathBuf::from("/sys/fs/cgroup") }
    }

    /// Makes a call. Repeats it if the bus or systemd is not available, for a short time: each call can be repeated.
    async fn call<B, R>(&self, target: (&str, &str, &str), body: &B, action: &str) -> Result<R, SystemdError>
    where
        B: Serialize + Type + Sync,
        R: DeserializeOwned + Type,
    {
        let start = Instant::now();
        let mut backoff = Backoff::new();
        loop {
            match self.try_call(target, body).await {
                Err(error) if is_unavailable(&error) && start.elapsed() < RETRY => {
                    *self.connection.lock().await = None;
                    backoff.wait().await;
                }
                result => {
                    return result.map_err(|source| SystemdError::Call { action: action.to_owned(), source });
                }
            }
        }
    }

    async fn try_call<B, R>(&self, (path, interface, method): (&str, &str, &str), body: &B) -> zbus::Result<R>
    where
        B: Serialize + Type + Sync,
        R: DeserializeOwned + Type,
    {
        let bus = self.connect().await?;
        let reply = bus.call_method(Some(NAME), path, Some(interface), method, body).await?;
        reply.body().deserialize()
    }

    /// Calls systemd's main object.
    async fn manage<B, R>(&self, method: &str, body: &B, action: &str) -> Result<R, SystemdError>
    where
        B: Serialize + Type + Sync,
        R: DeserializeOwned + Type,
    {
        self.call((MANAGER_PATH, MANAGER, method), body, action).await
    }

    async fn connect(&self) -> zbus::Result<Connection> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = connection.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        Ok(connection.insert(self.bus.connect(None).await?).clone())
    }
}

/// Whether the bus or systemd is not available, for example because it restarts.
fn is_unavailable(error: &zbus::Error) -> bool {
    use zbus::fdo::Error::{Disconnected, NameHasNoOwner, NoReply, NoServer, ServiceUnknown, Timeout};
    match error {
        zbus::Error::InputOutput(_) | zbus::Error::Handshake(_) => true,
        zbus::Error::FDO(error) => matches!(
            **error,
            Disconnected(_) | NameHasNoOwner(_) | NoReply(_) | NoServer(_) | ServiceUnknown(_) | Timeout(_)
        ),
        _ => false,
    }
}
