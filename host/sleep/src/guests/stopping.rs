//! Whether the host is shutting down.

use wakevirt_service::bus::Address;
use wakevirt_service::logs::kind;

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    #[zbus(property)]
    fn system_state(&self) -> zbus::Result<String>;
}

/// Asks systemd whether the host is shutting down. Also true if systemd does not reply: the unit that calls this is
/// almost always stopped for that reason.
pub(crate) async fn is_stopping(bus: &Address) -> bool {
    match system_state(bus).await {
        Ok(state) => {
            if state != "stopping" {
                tracing::info!(
                    MESSAGE_ID = kind::HOST_NOT_STOPPING,
                    "the host is not shutting down: nothing to do"
                );
            }
            state == "stopping"
        }
        Err(error) => {
            tracing::debug!("cannot ask systemd for its state: {error}");
            true
        }
    }
}

async fn system_state(bus: &Address) -> zbus::Result<String> {
    let connection = bus.connect(None).await?;
    ManagerProxy::new(&connection).await?.system_state().await
}
