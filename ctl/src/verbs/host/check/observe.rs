//! What the check sees, with the privileges of its caller.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use wakevirt_host::config::{Config, Settings};
use wakevirt_host::definition::Definition;
use wakevirt_host::model::PageSize;
use wakevirt_host::records::Needs;
use wakevirt_host::sleep::Abilities;
use wakevirt_host::system::{Systemd, SystemdError};
use wakevirt_service::config::DomainPattern;

use super::super::HostError;
use super::super::guests::Guest;
use super::super::preview::Preview;
use crate::client::Client;
use crate::verbs::caller::Caller;
use crate::verbs::finding::{NotChecked, not_checked};
use crate::verbs::units::{self, Units};

/// libvirt's hook.
pub const HOOK: &str = "/etc/libvirt/hooks/qemu.d/50-wakevirt";

/// The services that run libvirt's hooks.
const LIBVIRT: [&str; 2] = ["libvirtd.service", "virtqemud.service"];

/// A domain that the configuration contains.
#[derive(Debug, Clone)]
pub struct Configured {
    /// The domain.
    pub guest: Guest,
    /// Its settings.
    pub settings: Settings,
    /// What it needs.
    pub needs: Needs,
    /// Its definition, if it is valid. Otherwise, `needs` contains the reason.
    pub definition: Option<Definition>,
    /// How it can sleep.
    pub abilities: Option<Abilities>,
}

/// libvirt's hook.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hook {
    /// The program to which the link leads.
    pub target: Option<PathBuf>,
    /// When the link was created, in microseconds since 1970.
    pub created: u64,
}

/// A service that runs libvirt's hooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// Its unit.
    pub unit: &'static str,
    /// When it last read the list of hooks: at its start, or when it was reloaded. In microseconds since 1970.
    pub read_hooks: u64,
}

/// Everything that the check has seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The host, and its active domains.
    pub preview: Preview,
    /// The domains that the configuration contains.
    pub domains: Vec<Configured>,
    /// The patterns in the configuration that match no domain.
    pub unmatched: Vec<String>,
    /// Whether the configuration contains any table.
    pub has_tables: bool,
    /// The system units.
    pub units: Units,
    /// Who runs the check.
    pub caller: Caller,
    /// Whether AppArmor is enabled.
    pub apparmor: bool,
    /// libvirt's hook.
    pub hook: Hook,
    /// The running services that run libvirt's hooks.
    pub daemons: Vec<Daemon>,
    /// The page sizes of the hugetlbfs that are mounted.
    pub mounts: BTreeSet<PageSize>,
    /// The controllers of cgroup v2, such as `cpuset cpu memory`.
    pub controllers: String,
    /// Whether ddcutil is installed.
    pub ddcutil: bool,
    /// What the check could not see.
    pub not_checked: Vec<NotChecked>,
}

impl Seen {
    /// Observes everything. `all` says whether `guests` contains all domains.
    ///
    /// # Errors
    /// If the host or a definition cannot be read.
    pub async fn gather(
        client: &Client,
        config: &Config,
        guests: &[Guest],
        all: bool,
    ) -> Result<Self, HostError> {
        let preview = Preview::read(client).await?;
        let mut unseen = Vec::new();
        let units = units::system().unwrap_or_else(|reason| {
            unseen.push(reason);
            Units::default()
        });
        let daemons = daemons(client).await.unwrap_or_else(|error| {
            let command = "systemctl status libvirtd.service virtqemud.service";
            unseen.push(not_checked("when libvirt read its hooks", error.to_string(), command));
            Vec::new()
        });
        let is_unmatched = |pattern: &&str| {
            let pattern = DomainPattern::try_from((*pattern).to_owned());
            pattern.is_ok_and(|it| !guests.iter().any(|guest| it.matches(&guest.name, guest.uuid)))
        };
        let unmatched = config.patterns().filter(|_| all).filter(is_unmatched);
        Ok(Self {
            domains: configured(&preview, config, guests)?,
            unmatched: unmatched.map(str::to_owned).collect(),
            has_tables: config.patterns().next().is_some(),
            units,
            caller: Caller::current(),
            apparmor: fs::read_to_string("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|it| it.starts_with('Y')),
            hook: hook(),
            daemons,
            mounts: mounts(
                &fs::read_to_string("/proc/mounts").unwrap_or_default(),
                preview.topology.default_page,
            ),
            controllers: fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default(),
            ddcutil: ["/usr/bin/ddcutil", "/usr/local/bin/ddcutil"]
                .iter()
                .any(|path| fs::exists(path).unwrap_or(false)),
            not_checked: unseen,
            preview,
        })
    }
}

/// The domains that the configuration contains.
fn configured(preview: &Preview, config: &Config, guests: &[Guest]) -> Result<Vec<Configured>, HostError> {
    let mut domains = Vec::new();
    for guest in guests {
        let Some(settings) = config.settings_for(&guest.name, guest.uuid) else { continue };
        let xml = guest.definition()?;
        let Some(needs) = preview.needs(config, guest, &xml) else { continue };
        domains.push(Configured {
            guest: guest.clone(),
            settings,
            needs,
            definition: Definition::read(&xml).ok(),
            abilities: Abilities::read(&xml).ok(),
        });
    }
    Ok(domains)
}

fn hook() -> Hook {
    let created = fs::symlink_metadata(HOOK).map_or(0, |link| {
        let nanoseconds = link.ctime_nsec() / 1000;
        u64::try_from(link.ctime().saturating_mul(1_000_000).saturating_add(nanoseconds)).unwrap_or(0)
    });
    Hook { target: fs::canonicalize(HOOK).ok(), created }
}

/// The page sizes of the hugetlbfs in the list of mounts: proc_mounts(5).
pub(super) fn mounts(text: &str, default: Option<PageSize>) -> BTreeSet<PageSize> {
    let size = |line: &str| {
        let mut fields = line.split(' ').skip(2);
        let (kind, options) = (fields.next()?, fields.next()?);
        let size = options.split(',').find_map(|option| option.strip_prefix("pagesize="));
        match size {
            _ if kind != "hugetlbfs" => None,
            Some(size) => kibibytes(size),
            None => default,
        }
    };
    text.lines().filter_map(size).collect()
}

/// A size such as `2M` or `1024M`.
fn kibibytes(size: &str) -> Option<PageSize> {
    let (number, unit) = size.split_at_checked(size.len().checked_sub(1)?)?;
    let factor = match unit {
        "K" => 1,
        "M" => 1 << 10,
        "G" => 1 << 20,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor).map(PageSize)
}

/// The running services that run libvirt's hooks.
async fn daemons(client: &Client) -> Result<Vec<Daemon>, SystemdError> {
    let systemd = Systemd::new(client.address().clone());
    let mut daemons = Vec::new();
    for unit in LIBVIRT {
        if systemd.property_of::<String>(unit, "Unit", "ActiveState").await? != "active" {
            continue;
        }
        // While the unit is active, its state changes only when it is reloaded. systemd forgets the times of reload
        // commands in `systemctl daemon-reload`, but not this time.
        let read_hooks = systemd.property_of(unit, "Unit", "StateChangeTimestamp").await?;
        daemons.push(Daemon { unit, read_hooks });
    }
    Ok(daemons)
}
