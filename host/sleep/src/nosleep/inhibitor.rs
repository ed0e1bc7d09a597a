//! Holds the wanted lock, and takes it again after logind or the bus restarts.

use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use wakevirt_service::bus::{Address, Backoff, BusError, run_connected};
use wakevirt_service::lifecycle;
use wakevirt_service::logs::{kind, quoted};
use zbus::Connection;
use zbus::fdo::DBusProxy;

use super::Lock;
use super::logind::{self, Held};

/// Holds the lock that `wanted` describes. Does not return while `wanted` has a sender, unless the bus cannot be used.
pub(super) async fn run(bus: &Address, mut wanted: watch::Receiver<Option<Lock>>) -> Result<(), BusError> {
    let mut held = None;
    let work = async |connection: &Connection| hold(connection, bus, &mut wanted, &mut held).await;
    // logind keeps the lock while the bus restarts.
    run_connected(bus, None, work, || ()).await
}

async fn hold(
    connection: &Connection,
    bus: &Address,
    wanted: &mut watch::Receiver<Option<Lock>>,
    held: &mut Option<Held>,
) -> Result<(), BusError> {
    let proxy = DBusProxy::new(connection).await?;
    let mut owners = proxy.receive_name_owner_changed_with_args(&[(0, logind::NAME)]).await?;
    let mut backoff = Backoff::new();
    let mut warned = false;
    loop {
        let lock = wanted.borrow_and_update().clone();
        let taken = match &lock {
            None => {
                release(held);
                true
            }
            Some(lock) => take(bus, lock, held, &mut warned).await,
        };
        if taken {
            backoff.reset();
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return Ok(()) },
            owner = owners.next() => match owner {
                // logind was restarted, or has exited. A call starts it again.
                Some(_) => {}
                None => return Err(BusError::Closed),
            },
            () = backoff.wait(), if !taken => {}
        }
    }
}

/// Takes the lock, and then releases the previous one, so that the host cannot sleep in between.
async fn take(bus: &Address, lock: &Lock, held: &mut Option<Held>, warned: &mut bool) -> bool {
    match logind::take(bus, lock).await {
        Ok(new) => {
            let new_mode = held.as_ref().is_none_or(|old| old.mode != new.mode);
            lifecycle::status(&format!("the host stays awake ({}): {}", new.mode, lock.reason));
            if new_mode || *warned {
                tracing::info!(
                    MESSAGE_ID = kind::HOST_KEPT_AWAKE,
                    "the host stays awake ({}); {}",
                    new.mode,
                    lock.reason
                );
            }
            *warned = false;
            *held = Some(new);
            true
        }
        Err(error) => {
            if std::mem::replace(warned, true) {
                tracing::debug!("logind does not grant a lock: {error}");
            } else {
                tracing::warn!(
                    MESSAGE_ID = kind::HOST_NOT_KEPT_AWAKE,
                    "the host can sleep while domains run: logind does not grant a lock: {}; retrying",
                    quoted(&error.to_string())
                );
            }
            false
        }
    }
}

fn release(held: &mut Option<Held>) {
    if held.take().is_some() {
        lifecycle::status("");
        tracing::info!(MESSAGE_ID = kind::HOST_RELEASED, "the host can sleep: no domain with nosleep runs");
    }
}
