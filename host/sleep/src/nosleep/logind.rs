//! logind's inhibitor locks: org.freedesktop.login1(5), and <https://systemd.io/INHIBITOR_LOCKS/>.

use std::time::Duration;

use wakevirt_host::config::Inhibit;
use wakevirt_service::bus::Address;
use zbus::OwnedFd;
use zbus::connection::Builder;
use zbus::fdo;

use super::Lock;

/// The timeout of a call. The bus starts logind if it is not running.
const TIMEOUT: Duration = Duration::from_secs(10);
/// logind's name on the bus.
pub(super) const NAME: &str = "org.freedesktop.login1";

#[zbus::proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1"
)]
trait Manager {
    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> zbus::Result<OwnedFd>;
}

/// A lock that logind has granted. logind releases it when the descriptor is closed.
#[derive(Debug)]
pub(super) struct Held {
    /// logind's name of its mode: `block-weak` or `block`.
    pub(super) mode: &'static str,
    _descriptor: OwnedFd,
}

/// Takes a lock. Uses `block` if this version of logind does not have `block-weak`, which systemd 257 added.
///
/// The connection is closed afterwards: the lock does not depend on it, and it is the only one that can receive file
/// descriptors.
pub(super) async fn take(bus: &Address, lock: &Lock) -> zbus::Result<Held> {
    let builder = match bus {
        Address::System => Builder::system(),
        Address::Session => Builder::session(),
        Address::At(address) => Builder::address(address.clone()),
    };
    let connection = builder.method_timeout(TIMEOUT).build().await?;
    let manager = ManagerProxy::new(&connection).await?;
    let what = if lock.lid { "sleep:idle:handle-lid-switch" } else { "sleep:idle" };
    let inhibit = async |mode| {
        let descriptor = manager.inhibit(what, "wakevirt", &lock.reason, mode).await?;
        Ok(Held { mode, _descriptor: descriptor })
    };
    let held = match lock.kind {
        Inhibit::Block => inhibit("block").await,
        Inhibit::Weak => match inhibit("block-weak").await {
            Err(error) if is_invalid_argument(&error) => inhibit("block").await,
            result => result,
        },
    };
    // An error does not matter: the connection is closed anyway.
    let _ = connection.close().await;
    held
}

fn is_invalid_argument(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::MethodError(name, ..) => name.as_str() == "org.freedesktop.DBus.Error.InvalidArgs",
        zbus::Error::FDO(error) => matches!(**error, fdo::Error::InvalidArgs(_)),
        _ => false,
    }
}
