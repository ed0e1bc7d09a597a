//! How domains sleep with the host: what the configuration can select, and what a domain's definition allows.

mod abilities;
mod findings;

use serde::{Deserialize, Serialize};

pub use abilities::Abilities;
pub use findings::{findings, refusal};

/// What happens to a domain before the host sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SleepMode {
    /// The guest suspends to RAM (S3).
    Suspend,
    /// The guest writes its memory to its disk and powers off (S4).
    Hibernate,
    /// QEMU stops the guest's CPUs. The guest does not notice.
    Pause,
    /// libvirt writes the guest's memory to a file on the host, and ends QEMU (managed save).
    Save,
    /// The guest shuts down.
    Shutdown,
}

impl SleepMode {
    /// The value in `host.toml`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Suspend => "suspend",
            Self::Hibernate => "hibernate",
            Self::Pause => "pause",
            Self::Save => "save",
            Self::Shutdown => "shutdown",
        }
    }
}

/// What happens to a domain before the host shuts down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShutdownMode {
    /// As [`SleepMode::Save`].
    Save,
    /// As [`SleepMode::Shutdown`].
    Shutdown,
    /// As [`SleepMode::Hibernate`].
    Hibernate,
}

impl From<ShutdownMode> for SleepMode {
    fn from(mode: ShutdownMode) -> Self {
        match mode {
            ShutdownMode::Save => Self::Save,
            ShutdownMode::Shutdown => Self::Shutdown,
            ShutdownMode::Hibernate => Self::Hibernate,
        }
    }
}

/// What happens to the host if a domain does not sleep in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// The host does not sleep, and the domains that are asleep wake up.
    StayAwake,
    /// The host sleeps.
    Sleep,
}

impl OnFailure {
    /// The value in `host.toml`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::StayAwake => "stay-awake",
            Self::Sleep => "sleep",
        }
    }

    /// The default. A host that sleeps while a guest uses one of its PCI devices can hang.
    #[must_use]
    pub const fn default_for(abilities: &Abilities) -> Self {
        if abilities.passthrough { Self::StayAwake } else { Self::Sleep }
    }
}
