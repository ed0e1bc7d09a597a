//! A wake: who asks for it, what for, and how it ends.

use core::fmt;

use serde::{Deserialize, Serialize};
use wakevirt_protocol::MacAddr;

use super::{Domain, Id, Packet};

/// The group that may do everything with libvirt, and so may wake.
pub(crate) const GROUP: &str = "libvirt";
/// Root, who may do everything: polkit(8) allows it without looking at a rule, so it is not asked, and
/// root wakes domains also where polkit does not work.
pub(crate) const ROOT: u32 = 0;

/// Who asks for a wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// A packet, which is anonymous: the rules decide.
    Packet,
    /// A caller on the bus, who was authorised: the rules are not for them.
    Call,
}

impl Trigger {
    /// The trigger as it is told on the bus and in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Packet => "packet",
            Self::Call => "call",
        }
    }
}
/// What a caller wants to have woken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WakeTarget {
    /// The domain that has this MAC address.
    Mac(MacAddr),
    /// The domain that has this name or UUID.
    Domain(String),
}
/// Somebody who called, and may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The user ID, as the bus vouches for it.
    pub user: u32,
    /// Why they may.
    pub by: Authority,
}

/// Why a caller may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Authority {
    /// Root, or whose own bus it is.
    User,
    /// The group libvirt.
    Group,
    /// polkit says so.
    Polkit,
}

impl Authority {
    /// One word, for the fields of the log and for the bus.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
            Self::Polkit => "polkit",
        }
    }
}

/// The name of a user may come from a directory that is slow or out of reach, and is not looked up: a number is
/// always there. Root is root everywhere.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, by } = self;
        match by {
            Authority::User if *user == ROOT => f.write_str("root"),
            Authority::User => write!(f, "user {user} (owner of the bus)"),
            Authority::Group => write!(f, "user {user} (member of group {GROUP})"),
            Authority::Polkit => write!(f, "user {user} (allowed by polkit)"),
        }
    }
}
/// What a decision is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The MAC address that was to be woken; none if a caller named the domain.
    pub mac: Option<MacAddr>,
    /// The domain that is meant, and its name at that time.
    pub domain: Option<(Id, String)>,
    /// The rule that allows it, as it is written in the configuration.
    pub rule: Option<String>,
    /// The packet that asked for it; none if somebody called.
    pub packet: Option<Packet>,
    /// Who called, and why they may.
    pub caller: Option<Caller>,
}

impl Subject {
    /// A decision about this domain, or about none in particular.
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

    /// The same, asked for by this caller.
    #[must_use]
    pub fn called_by(self, caller: Caller) -> Self {
        Self { caller: Some(caller), ..self }
    }

    /// Who asked.
    #[must_use]
    pub const fn trigger(&self) -> Trigger {
        if self.packet.is_some() { Trigger::Packet } else { Trigger::Call }
    }
}
/// How a wake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The domain was off, and runs now.
    Started,
    /// It was paused, and runs now.
    Resumed,
    /// The guest had suspended itself, and was woken up.
    Woken,
    /// It ran already.
    AlreadyRunning,
    /// No rule allows it.
    NotAllowed,
    /// A wake has succeeded just before.
    CoolingDown,
    /// The password is wrong, or missing.
    BadPassword,
    /// More than one domain has the MAC address.
    Ambiguous,
    /// It runs elsewhere.
    MigratedAway,
    /// The hypervisor was away for too long.
    Expired,
    /// It could not be done.
    Failed,
}

impl Outcome {
    /// All of them.
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

    /// The outcome as it is told on the bus and in the log.
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

    /// Whether the wake has changed something: the domain runs because of it.
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
    fn is_named_with_the_authority_in_words() {
        for (user, by, words) in [
            (0, Authority::User, "root"),
            (1000, Authority::User, "user 1000 (owner of the bus)"),
            (1000, Authority::Group, "user 1000 (member of group libvirt)"),
            (1000, Authority::Polkit, "user 1000 (allowed by polkit)"),
        ] {
            assert_eq!(Caller { user, by }.to_string(), words);
        }
    }
}
