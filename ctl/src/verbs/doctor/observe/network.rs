//! The network interfaces, as ip-address(8) shows them to the caller.

use serde::Deserialize;

use crate::program::run;
use crate::verbs::finding::{Seen, not_checked};

/// The command that shows the interfaces.
const COMMAND: &str = "ip -details address";

/// One interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Link {
    /// Its name.
    #[serde(rename = "ifname")]
    pub name: String,
    /// Its alternative names.
    pub altnames: Vec<String>,
    /// Its flags, such as `UP` and `LOWER_UP`.
    pub flags: Vec<String>,
    /// The bridge or bond of which it is a port.
    pub master: Option<String>,
    /// The interface below a VLAN or a macvtap.
    pub link: Option<String>,
    /// The number of users that have requested promiscuous mode.
    pub promiscuity: u32,
    /// The kind of virtual interface.
    linkinfo: Info,
    /// Its addresses.
    pub addr_info: Vec<LinkAddress>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Info {
    info_kind: String,
    info_data: Data,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Data {
    id: Option<u32>,
}

/// An address of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LinkAddress {
    /// The address.
    pub local: String,
    /// Its broadcast address.
    pub broadcast: Option<String>,
}

impl Link {
    /// Whether it is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.has("UP")
    }

    /// Whether it is the loopback interface.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.has("LOOPBACK")
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|it| it == flag)
    }

    /// Whether it is a bridge.
    #[must_use]
    pub fn is_bridge(&self) -> bool {
        self.linkinfo.info_kind == "bridge"
    }

    /// Its VLAN ID, and the interface that receives the tagged frames, if it is a VLAN.
    #[must_use]
    pub fn vlan(&self) -> Option<(u32, &str)> {
        (self.linkinfo.info_kind == "vlan").then_some(())?;
        Some((self.linkinfo.info_data.id?, self.link.as_deref()?))
    }

    /// Whether it is of a kind that VMs and containers use: a TUN or tap device, a macvtap or a macvlan.
    #[must_use]
    pub fn belongs_to_vm(&self) -> bool {
        matches!(self.linkinfo.info_kind.as_str(), "tun" | "macvtap" | "macvlan")
    }

    /// All its names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.name).chain(&self.altnames).map(String::as_str)
    }
}

/// Reads all interfaces.
///
/// # Errors
/// If ip(8) is not installed or fails.
pub fn read() -> Seen<Vec<Link>> {
    let failed = |reason: String| not_checked("the network interfaces", reason, COMMAND);
    let arguments = ["-json", "-details", "address"];
    // Its directory is not in the PATH of all users.
    let output = run("ip", &arguments).or_else(|_| run("/usr/sbin/ip", &arguments)).map_err(failed)?;
    if !output.success {
        return Err(failed(output.error()));
    }
    parse(&output.stdout).map_err(|error| failed(error.to_string()))
}

/// Parses the output of `ip -json -details address`.
///
/// # Errors
/// If it is not JSON.
pub fn parse(text: &str) -> serde_json::Result<Vec<Link>> {
    let links: Vec<Link> = serde_json::from_str(text)?;
    // The program prints {} for interfaces that it does not show.
    Ok(links.into_iter().filter(|link| !link.name.is_empty()).collect())
}
