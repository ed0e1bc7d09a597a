//! Fetching the SecureOn password of a packet from the announcer, where a rule asks for it.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use wakevirt_protocol::Password;
use wakevirt_protocol::bus::{Capture1Proxy, Error};
use wakevirt_service::bus::Backoff;
use zbus::names::OwnedUniqueName;
use zbus::proxy::CacheProperties;
use zbus::{Connection, fdo};

use crate::announcer::call_error::reason;
use crate::model::Packet;

/// How long the announcer may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A password that is asked for.
pub struct PasswordRequest {
    epoch: String,
    sequence: u64,
    answer: oneshot::Sender<Result<Password, String>>,
}

#[cfg(test)]
impl PasswordRequest {
    /// Answers in the announcer's place.
    pub(crate) fn answer(self, answer: Result<Password, String>) {
        self.answer.send(answer).unwrap();
    }
}

/// The password of this packet; the error says why it cannot be had.
pub async fn fetch_password(
    fetches: mpsc::Sender<PasswordRequest>,
    packet: &Packet,
) -> Result<Password, String> {
    let gone = || "the announcer cannot be reached".to_owned();
    let (answer, end) = oneshot::channel();
    let epoch = packet.details.epoch.clone().unwrap_or_default();
    let fetch = PasswordRequest { epoch, sequence: packet.sequence, answer };
    fetches.send(fetch).await.map_err(|_| gone())?;
    end.await.map_err(|_| gone())?
}

/// Asks the announcer for what is to be fetched, until the connection is given up.
pub(super) async fn answer(
    connection: &Connection,
    owner: watch::Receiver<Option<OwnedUniqueName>>,
    fetches: &mut mpsc::Receiver<PasswordRequest>,
) {
    while let Some(PasswordRequest { epoch, sequence, answer }) = fetches.recv().await {
        let owner = owner.borrow().clone();
        let connection = connection.clone();
        // One answer that does not come holds no other one up.
        tokio::spawn(async move {
            let asking = ask(&connection, owner, &epoch, sequence);
            let password = tokio::time::timeout(PATIENCE, asking).await;
            let password = password.unwrap_or_else(|_| Err("the announcer does not answer".to_owned()));
            // Whoever has asked has ended with the service.
            let _ = answer.send(password);
        });
    }
}

async fn ask(
    connection: &Connection,
    owner: Option<OwnedUniqueName>,
    epoch: &str,
    sequence: u64,
) -> Result<Password, String> {
    let owner = owner.ok_or("nobody announces magic packets")?;
    let failed = |error: Error| reason("GetSecureOn", &error);
    // The very connection that announced it; a call to the well-known name could start a service.
    let announcer = Capture1Proxy::builder(connection)
        .destination(owner)
        .cache_properties(CacheProperties::No)
        .build()
        .await
        .map_err(|error| failed(error.into()))?;
    let mut backoff = Backoff::new();
    let password = loop {
        match announcer.get_secure_on(epoch, sequence).await {
            // It is busy with others.
            Err(Error::ZBus(zbus::Error::FDO(error))) if matches!(*error, fdo::Error::LimitsExceeded(_)) => {
                backoff.wait().await;
            }
            answer => break answer.map_err(failed)?,
        }
    };
    Password::try_from(password.as_slice()).map_err(|error| error.to_string())
}
