//! Wakes: who requests them, for which domain, and how they end.

use core::fmt;

use serde::{Deserialize, Serialize};
use wakevirt_protocol::MacAddr;

use super::{Domain, Id, Packet};

/// The group of users with full access to libvirt. They are allowed to wake domains.
pub const GROUP: &str = "libvirt";
/// The user ID of root. polkit(8) allows root to do everything, without evaluating a rule. The actor therefore does not
/// query polkit about root, and root can wake domains even if polkit fails.
pub(crate) const ROOT: u32 = 0;

/// What requested a wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// A packet. Its sender is not authenticated, so the rules decide.
    Packet,
    /// An authorised caller on the bus. The rules do not apply.
    Call,
    /// The `autostart` key of the configuration. The rules do not apply.
    Autostart,
}

impl Trigger {
    /// The name of the trigger in the log and on the bus.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Packet => "packet",
            Self::Call => "call",
            Self::Autostart => "autostart",
        }
    }
}

/// The domain that a caller wants to wake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WakeTarget {
    /// The domain that has this MAC address.
    Mac(MacAddr),
    /// The domain that has this name or UUID.
    Domain(String),
}

/// An authorised caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The user ID, from the credentials that the bus guarantees.
    pub user: u32,
    /// Why the caller is authorised.
    pub authority: Authority,
}

/// Why a caller is authorised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Authority {
    /// The caller is root, or the owner of the bus.
    User,
    /// The caller is a member of the `libvirt` group.
    Group,
    /// polkit authorised the caller.
    Polkit,
}

impl Authority {
    /// The name of the authority in the log and on the bus.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
            Self::Polkit => "polkit",
        }
    }
}

/// Users are shown by number. Looking up a name could require a directory service that is slow or unavailable. The name
/// of user 0 is always root.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, authority } = self;
        match authority {
            Authority::User if *user == ROOT => f.write_str("root"),
            Authority::User => write!(f, "user {user} (owner of the bus)"),
            Authority::Group => write!(f, "user {user} (member of the {GROUP} group)"),
            Authority::Polkit => write!(f, "user {user} (allowed by polkit)"),
        }
    }
}

/// What a decision is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The requested MAC address. `None` if a caller or the configuration named the domain.
    pub mac: Option<MacAddr>,
    /// The domain, and its name at the time of the decision.
    pub domain: Option<(Id, String)>,
    /// The rule that allows the wake, or whose conditions the packet does not meet, as written in the configuration.
    pub rule: Option<String>,
    /// The packet, if one requested the wake.
    pub packet: Option<Packet>,
    /// The caller, if one requested the wake.
    pub caller: Option<Caller>,
}

impl Subject {
    /// The subject of a decision about this domain, or about an address.
    #[must_use]
    pub fn new(
        mac: Option<MacAddr>,
        domain: Option<&Domain>,
        rule: Option<String>,
        packet: Option<&Packet>,
    ) -> Self {
        Self {
            mac,
            domain: domain.map(|domain| (domain.id.clone(), domain.name.clone())),
            rule,
            packet: packet.cloned(),
            caller: None,
        }
    }

    /// The same subject, requested by this caller.
    #[must_use]
    pub fn called_by(self, caller: Caller) -> Self {
        Self { caller: Some(caller), ..self }
    }

    /// What requested it.
    #[must_use]
    pub const fn trigger(&self) -> Trigger {
        match (&self.packet, &self.caller) {
            (Some(_), _) => Trigger::Packet,
            (None, Some(_)) => Trigger::Call,
            (None, None) => Trigger::Autostart,
        }
    }
}

/// How a wake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The domain was off and was started.
    Started,
    /// The domain was paused and was resumed.
    Resumed,
    /// The guest was suspended and was woken up.
    Woken,
    /// The domain was already running.
    AlreadyRunning,
    /// Neither a rule nor the domain's metadata allows the wake, or the domain is paused and the rule contains `paused
    /// = "leave"`.
    NotAllowed,
    /// The cool-down after the last successful wake has not ended.
    CoolingDown,
    /// The SecureOn password is wrong or missing.
    BadPassword,
    /// More than one domain matches.
    Ambiguous,
    /// The domain has migrated to another host.
    MigratedAway,
    /// The hypervisor was unavailable for longer than `hold`.
    Expired,
    /// The domain could not be woken.
    Failed,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 11] = [
        Self::Started,
        Self::Resumed,
        Self::Woken,
        Self::AlreadyRunning,
        Self::NotAllowed,
        Self::CoolingDown,
        Self::BadPassword,
        Self::Ambiguous,
        Self::MigratedAway,
        Self::Expired,
        Self::Failed,
    ];

    /// The name of the outcome in the log and on the bus.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Resumed => "resumed",
            Self::Woken => "woken",
            Self::AlreadyRunning => "already-running",
            Self::NotAllowed => "not-allowed",
            Self::CoolingDown => "cooling-down",
            Self::BadPassword => "bad-password",
            Self::Ambiguous => "ambiguous",
            Self::MigratedAway => "migrated-away",
            Self::Expired => "expired",
            Self::Failed => "failed",
        }
    }

    /// Whether the domain is running because of this wake.
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Started | Self::Resumed | Self::Woken)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_user_and_the_authority() {
        for (user, authority, text) in [
            (0, Authority::User, "root"),
            (1000, Authority::User, "user 1000 (owner of the bus)"),
            (1000, Authority::Group, "user 1000 (member of the libvirt group)"),
            (1000, Authority::Polkit, "user 1000 (allowed by polkit)"),
        ] {
            assert_eq!(Caller { user, authority }.to_string(), text);
        }
    }
}
