//! polkit, and the permissions that it gives the actor in libvirt.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use tokio::time::timeout;
use zbus::fdo::DBusProxy;
use zbus::names::BusName;
use zbus::{Proxy, Variant};

use crate::client::{Client, Service};

/// The timeout of a call.
const TIMEOUT: Duration = Duration::from_secs(5);
/// libvirt's configuration files that can enable its access driver.
const LIBVIRT_CONFIGS: [&str; 2] = ["/etc/libvirt/libvirtd.conf", "/etc/libvirt/virtqemud.conf"];
/// The prefix of libvirt's permissions.
pub const PREFIX: &str = "org.libvirt.";
/// The permissions in libvirt that a wake can need, without [`PREFIX`]: `dbus/10-wakevirt-libvirt.rules`.
pub const PERMISSIONS: [&str; 21] = [
    "unix.manage",
    "api.connect.getattr",
    "api.connect.search-domains",
    "api.domain.getattr",
    "api.domain.read",
    "api.domain.start",
    "api.domain.suspend",
    "api.domain.pm-control",
    "api.network.getattr",
    "api.network.read",
    "api.network-port.create",
    "api.network-port.read",
    "api.network-port.getattr",
    "api.network-port.delete",
    "api.storage-pool.getattr",
    "api.storage-pool.read",
    "api.storage-vol.getattr",
    "api.storage-vol.read",
    "api.nwfilter-binding.create",
    "api.nwfilter-binding.getattr",
    "api.nwfilter-binding.delete",
];

/// What doctor knows about polkit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Polkit {
    /// Its version. `None` if it is not on the bus.
    pub version: Option<String>,
    /// The permissions among [`PERMISSIONS`] that it denies the actor. Empty if the caller is not allowed to query them.
    pub denied: Vec<&'static str>,
    /// The file that enables libvirt's access driver. `None` if the driver is disabled, or the caller is not allowed to
    /// read the file.
    pub access_driver: Option<&'static str>,
}

impl Polkit {
    /// Queries polkit. `domain` is the domain that the caller named.
    pub async fn read(client: &Client, domain: Option<&str>) -> Self {
        let access_driver = LIBVIRT_CONFIGS
            .into_iter()
            .find(|path| fs::read_to_string(path).is_ok_and(|text| text.lines().any(enables_access_driver)));
        let (version, denied) = query(client, domain).await.unwrap_or_default();
        Self { version, denied, access_driver }
    }

    /// Whether polkit is older than version 0.106, and does not read rules in JavaScript.
    #[must_use]
    pub fn is_old(&self) -> bool {
        let Some(version) = &self.version else { return false };
        let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        // Later versions have one part, such as 122.
        parts.next() == Some(0) && parts.next().is_some_and(|minor| minor < 106)
    }
}

fn enables_access_driver(line: &str) -> bool {
    let value =
        line.trim_start().strip_prefix("access_drivers").and_then(|rest| rest.trim_start().strip_prefix('='));
    value.is_some_and(|value| value.contains("\"polkit\""))
}

async fn query(client: &Client, domain: Option<&str>) -> Option<(Option<String>, Vec<&'static str>)> {
    let connection = client.connection().await.ok()?;
    let proxy = Proxy::new(
        connection,
        "org.freedesktop.PolicyKit1",
        "/org/freedesktop/PolicyKit1/Authority",
        "org.freedesktop.PolicyKit1.Authority",
    );
    let proxy = proxy.await.ok()?;
    let version = timeout(TIMEOUT, proxy.get_property::<String>("BackendVersion")).await.ok()?.ok();
    let mut denied = Vec::new();
    if version.is_some()
        && let Some(actor) = actor(client).await
    {
        for permission in PERMISSIONS {
            match timeout(TIMEOUT, is_granted(&proxy, &actor, permission, domain)).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => denied.push(permission),
                // Only root is allowed to ask about other users. An action that no package has installed is unknown.
                Ok(Err(_)) | Err(_) => break,
            }
        }
    }
    Some((version, denied))
}

/// The actor's process, as polkit's `unix-process` subject. libvirt passes the same subject. For a connection to the bus,
/// later versions of polkit also count the supplementary groups, and their answer can differ.
async fn actor(client: &Client) -> Option<HashMap<&'static str, Variant<'static>>> {
    let bus = DBusProxy::new(client.connection().await.ok()?).await.ok()?;
    let name = BusName::try_from(Service::Actor.bus_name()).ok()?;
    let pid = timeout(TIMEOUT, bus.get_connection_unix_process_id(name.clone())).await.ok()?.ok()?;
    let uid = timeout(TIMEOUT, bus.get_connection_unix_user(name)).await.ok()?.ok()?;
    let start = fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|stat| start_time(&stat))?;
    let uid = i32::try_from(uid).ok()?;
    Some(HashMap::from([("pid", pid.into()), ("start-time", start.into()), ("uid", uid.into())]))
}

/// The start time of a process, in clock ticks since boot: proc_pid_stat(5). The name of the process can contain spaces and
/// parentheses.
fn start_time(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}

/// Asks polkit whether the actor has a permission, with the details that libvirt's access driver passes.
async fn is_granted(
    polkit: &Proxy<'_>,
    actor: &HashMap<&'static str, Variant<'static>>,
    permission: &str,
    domain: Option<&str>,
) -> zbus::Result<bool> {
    let subject = ("unix-process", actor);
    let mut details = HashMap::from([("connect_driver", "QEMU")]);
    details
        .extend(domain.filter(|_| permission.starts_with("api.domain.")).map(|name| ("domain_name", name)));
    let action = format!("{PREFIX}{permission}");
    let body = (subject, action.as_str(), details, 0_u32, "");
    let (is_authorized, ..): (bool, bool, HashMap<String, String>) =
        polkit.call("CheckAuthorization", &body).await?;
    Ok(is_authorized)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_permissions_of_the_shipped_rule() {
        let rule = include_str!("../../../../../dbus/10-wakevirt-libvirt.rules");
        let actions = rule.lines().filter_map(|line| line.trim().strip_prefix("case \"")?.split('"').next());
        let permissions: Vec<&str> = actions.filter_map(|action| action.strip_prefix(PREFIX)).collect();
        assert_eq!(permissions, PERMISSIONS);
    }

    #[test]
    fn reads_the_start_time_of_a_process() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        assert_eq!(start_time(stat), Some(987_654));
        assert_eq!(start_time("42 (a) S 1"), None);
    }

    #[test]
    fn finds_a_polkit_that_does_not_read_rules() {
        for (version, is_old) in [("0.105", true), ("0.106", false), ("122", false), ("0.120", false)] {
            let polkit = Polkit { version: Some(version.to_owned()), ..Polkit::default() };
            assert_eq!(polkit.is_old(), is_old, "{version}");
        }
    }

    #[test]
    fn detects_the_access_driver() {
        assert!(enables_access_driver("access_drivers = [ \"polkit\" ]"));
        assert!(!enables_access_driver("#access_drivers = [ \"polkit\" ]"));
        assert!(!enables_access_driver("access_drivers = [ ]"));
    }
}
