//! `wakevirtctl host status`: the domains for which the host is prepared, its values, and what failed.

mod remaining;
mod values;

use std::io;
use std::path::Path;

use serde::Serialize;
use wakevirt_host::model::{CpuSet, Phase, Record};
use wakevirt_host::state::{self, Failure};
use wakevirt_host::system::{Sysfs, System, Systemd};

use super::HostError;
use crate::client::Client;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Cell, Output, Style, Table, ago};
use crate::verbs::units;
use remaining::{Interrupt, KernelThreads, interrupts, kernel_threads};
use values::{HostValue, values};

/// The unit of the service.
const UNIT: &str = "wakevirt-host.service";

/// The options.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Arguments {}

/// The state, as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct HostStatus {
    /// The state of the service's unit; absent without systemd.
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    /// Whether the service is changing the host, so that values can differ from those that the domains need.
    changing: bool,
    domains: Vec<ShownDomain>,
    values: Vec<HostValue>,
    units: Vec<String>,
    failures: Vec<ShownFailure>,
    kernel_threads: Vec<KernelThreads>,
    interrupts: Vec<Interrupt>,
}

/// A domain for which the host is prepared.
#[derive(Debug, Serialize)]
struct ShownDomain {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<String>,
    phase: Phase,
    pages: Vec<ShownPages>,
    isolated: CpuSet,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u64>,
    failures: Vec<String>,
}

/// Huge pages of a domain.
#[derive(Debug, Serialize)]
struct ShownPages {
    /// The size of a page in KiB.
    size: u64,
    count: u64,
}

/// Something that failed.
#[derive(Debug, Serialize)]
struct ShownFailure {
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
    time: u64,
    message: String,
}

impl From<&Record> for ShownDomain {
    fn from(record: &Record) -> Self {
        let pages = record.pages.iter().map(|pages| ShownPages { size: pages.size.0, count: pages.count });
        Self {
            name: record.name.clone(),
            uuid: record.uuid.map(|uuid| uuid.to_string()),
            phase: record.phase,
            pages: pages.collect(),
            isolated: record.own_cpus(),
            weight: record.weight,
            failures: record.problems().map(str::to_owned).collect(),
        }
    }
}

impl From<Failure> for ShownFailure {
    fn from(failure: Failure) -> Self {
        let time = failure.time.saturating_mul(1_000_000);
        Self { domain: failure.domain, time, message: failure.message }
    }
}

/// Shows the state. The exit status says whether everything is as the active domains need it.
///
/// # Errors
/// If the state file or the host's values cannot be read.
pub async fn run(_arguments: &Arguments, client: &Client, output: &mut Output) -> Result<Exit, Error> {
    let status = HostStatus::read(client).await?;
    if output.is_json() {
        output.json(&status)?;
    } else {
        status.print(output)?;
    }
    Ok(if status.is_good() { Exit::Success } else { Exit::Failure })
}

impl HostStatus {
    async fn read(client: &Client) -> Result<Self, HostError> {
        let state = state::read(Path::new(state::FILE))?.unwrap_or_default();
        let system = System::new(Sysfs::default(), Systemd::new(client.address().clone()));
        let before = match state.before {
            Some(before) => before,
            None => system.topology().await?,
        };
        let now = system.current(&before).await?;
        let wanted = if state.records.is_empty() {
            wakevirt_host::desired::desired(&[], &before)
        } else {
            state.applied
        };
        let isolated =
            state.records.iter().fold(CpuSet::default(), |all, record| all.union(&record.own_cpus()));
        let service = units::system().ok().and_then(|units| {
            let unit = units.get(UNIT)?;
            Some(unit.get(if unit.is_installed() { "ActiveState" } else { "LoadState" }).to_owned())
        });
        let proc = Path::new("/proc");
        Ok(Self {
            changing: state.is_changing && service.as_deref() == Some("active"),
            service,
            domains: state.records.iter().map(ShownDomain::from).collect(),
            values: values(&before, &wanted, &now),
            units: now.units.into_iter().collect(),
            failures: state.failures.into_iter().map(ShownFailure::from).collect(),
            kernel_threads: kernel_threads(proc, &isolated),
            interrupts: interrupts(proc, &isolated),
        })
    }

    fn is_good(&self) -> bool {
        let works = self.domains.iter().all(|domain| domain.failures.is_empty());
        works && (self.changing || !self.values.iter().any(HostValue::is_wrong))
    }

    fn print(&self, output: &mut Output) -> io::Result<()> {
        let mut table = Table::default();
        let service = self.service.as_deref().unwrap_or("unknown");
        let style = if service == "active" { Style::Good } else { Style::Warning };
        table.push(vec![Cell::new("wakevirt-host", Style::Bold), Cell::new(service, style)]);
        if self.changing {
            table.push(vec![Cell::new("host", Style::Bold), Cell::plain("being changed")]);
        }
        for (name, values) in [
            (
                "kernel threads on isolated CPUs",
                self.kernel_threads.iter().map(KernelThreads::shown).collect(),
            ),
            ("interrupts on isolated CPUs", self.interrupts.iter().map(Interrupt::shown).collect::<Vec<_>>()),
        ] {
            if !values.is_empty() {
                table.push(vec![Cell::new(name, Style::Bold), Cell::plain(values.join(", "))]);
            }
        }
        output.table(&table)?;
        self.print_domains(output)?;
        self.print_values(output)?;
        if self.failures.is_empty() {
            return Ok(());
        }
        output.line(&[])?;
        let mut table = Table::new(&["TIME", "DOMAIN", "FAILURE"]);
        for failure in self.failures.iter().rev() {
            table.push(vec![
                Cell::plain(ago(failure.time)),
                Cell::plain(failure.domain.as_deref().unwrap_or_default()),
                Cell::new(&failure.message, Style::Bad),
            ]);
        }
        output.table(&table)
    }

    fn print_domains(&self, output: &mut Output) -> io::Result<()> {
        output.line(&[])?;
        if self.domains.is_empty() {
            return output.line(&[Cell::plain("no active domain for which the host is prepared")]);
        }
        let mut table = Table::new(&["DOMAIN", "STATE", "HUGE PAGES", "CPUS", "WEIGHT", "FAILURE"]);
        for domain in &self.domains {
            let pages = domain
                .pages
                .iter()
                .map(|it| format!("{} of {}", it.count, wakevirt_host::model::PageSize(it.size)));
            let state = match domain.phase {
                Phase::Prepared => "prepared",
                Phase::Started => "started",
            };
            table.push(vec![
                Cell::plain(&domain.name),
                Cell::plain(state),
                Cell::plain(pages.collect::<Vec<_>>().join(", ")),
                Cell::plain(domain.isolated.to_string()),
                Cell::plain(domain.weight.map(|weight| weight.to_string()).unwrap_or_default()),
                Cell::new(domain.failures.join("; "), Style::Bad),
            ]);
        }
        output.table(&table)
    }

    fn print_values(&self, output: &mut Output) -> io::Result<()> {
        let mut table = Table::new(&["VALUE", "BEFORE", "WANTED", "NOW"]);
        for value in self.values.iter().filter(|value| value.is_changed()) {
            let style = if value.is_wrong() { Style::Bad } else { Style::Good };
            table.push(vec![
                Cell::plain(&value.name),
                Cell::plain(&value.before),
                Cell::plain(&value.wanted),
                Cell::new(&value.now, style),
            ]);
        }
        if table.is_empty() {
            return Ok(());
        }
        output.line(&[])?;
        output.table(&table)
    }
}
