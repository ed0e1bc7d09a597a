//! Fetches the SecureOn password of a packet from the announcer, if a rule requires one.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use wakevirt_protocol::Password;
use wakevirt_protocol::bus::Error;
use wakevirt_service::bus::Backoff;
use zbus::names::OwnedUniqueName;
use zbus::{Connection, fdo};

use crate::announcer::call_error::describe;
use crate::announcer::proxy::proxy;
use crate::model::Packet;

/// The maximum time for `GetSecureOn`, including retries.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A request for the password of one packet.
pub struct PasswordRequest {
    epoch: String,
    sequence: u64,
    reply: oneshot::Sender<Result<Password, String>>,
}

#[cfg(test)]
impl PasswordRequest {
    /// Replies in place of the announcer.
    pub(crate) fn reply(self, password: Result<Password, String>) {
        self.reply.send(password).unwrap();
    }
}

/// Returns the password of this packet, or the reason why it is unavailable.
pub async fn fetch_password(
    requests: mpsc::Sender<PasswordRequest>,
    packet: &Packet,
) -> Result<Password, String> {
    let unavailable = || "the announcer is unavailable".to_owned();
    let (reply, password) = oneshot::channel();
    let epoch = packet.details.epoch.clone().unwrap_or_default();
    let request = PasswordRequest { epoch, sequence: packet.sequence, reply };
    requests.send(request).await.map_err(|_| unavailable())?;
    password.await.map_err(|_| unavailable())?
}

/// Replies to requests with passwords from the announcer, until the future is dropped or the engine has exited.
pub(super) async fn run(
    connection: &Connection,
    owner: watch::Receiver<Option<OwnedUniqueName>>,
    requests: &mut mpsc::Receiver<PasswordRequest>,
) {
    while let Some(PasswordRequest { epoch, sequence, reply }) = requests.recv().await {
        let owner = owner.borrow().clone();
        let connection = connection.clone();
        // Each call runs in its own task, so that a slow call does not delay others.
        tokio::spawn(async move {
            let call = get_secure_on(&connection, owner, &epoch, sequence);
            let password = tokio::time::timeout(TIMEOUT, call).await;
            let password = password.unwrap_or_else(|_| Err("the announcer did not reply in time".to_owned()));
            // The receiver is gone if the service is exiting.
            let _ = reply.send(password);
        });
    }
}

async fn get_secure_on(
    connection: &Connection,
    owner: Option<OwnedUniqueName>,
    epoch: &str,
    sequence: u64,
) -> Result<Password, String> {
    let owner = owner.ok_or("the announcer is not running")?;
    let failed = |error: Error| describe("GetSecureOn", &error);
    let announcer = proxy(connection, owner).await.map_err(|error| failed(error.into()))?;
    let mut backoff = Backoff::new();
    let password = loop {
        match announcer.get_secure_on(epoch, sequence).await {
            // The announcer is busy with other calls: retry.
            Err(Error::ZBus(zbus::Error::FDO(error))) if matches!(*error, fdo::Error::LimitsExceeded(_)) => {
                backoff.wait().await;
            }
            result => break result.map_err(failed)?,
        }
    };
    Password::try_from(password.as_slice()).map_err(|error| error.to_string())
}
