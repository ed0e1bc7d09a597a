//! `doctor` finds out why a packet wakes no domain. Data flows one way: observe, check, print.

mod caller;
mod checks;
mod finding;
mod mask;
mod observe;
mod print;
mod report;

use clap_complete::ArgValueCandidates;

use super::domain;
use crate::client::Client;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;

use finding::{Finding, Severity};
use observe::Observations;
use print::Diagnosis;

/// The arguments of `doctor`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The domain that does not wake, by name or UUID
    #[arg(value_name = "DOMAIN", add = ArgValueCandidates::new(domain::candidates))]
    domain: Option<String>,

    /// Print a text for a bug report
    #[arg(long)]
    report: bool,

    /// With --report: replace names of domains and of the host, and addresses
    #[arg(long, requires = "report")]
    mask: bool,

    /// Send no packet
    ///
    /// By default, doctor sends one magic packet to this host, for an address that no network card has, and waits until
    /// capture announces it.
    #[arg(long)]
    no_test: bool,
}

/// Looks, checks and prints.
///
/// # Errors
/// If the result cannot be written.
pub async fn run(arguments: &Arguments, client: &Client, output: &mut Output) -> Result<Exit, Error> {
    let seen = Observations::gather(client, arguments.domain.as_deref(), !arguments.no_test).await;
    let diagnosis = diagnose(&seen);
    let exit = if diagnosis.healthy { Exit::Success } else { Exit::Failure };
    if arguments.report {
        output.writer().write_all(report::text(&seen, &diagnosis, arguments.mask).as_bytes())?;
    } else {
        print::print(&diagnosis, output)?;
    }
    Ok(exit)
}

fn diagnose(seen: &Observations) -> Diagnosis {
    let findings = checks::all(seen);
    let healthy = findings.iter().all(|finding| finding.severity == Severity::Note);
    Diagnosis { healthy, works: works(seen, &findings), findings, not_checked: seen.not_checked() }
}

/// What was found to work.
fn works(seen: &Observations, findings: &[Finding]) -> Vec<String> {
    let mut works = Vec::new();
    if let Some(test) = &seen.loop_back
        && let Some((time, interface)) = &test.announced
    {
        let (mac, destinations) = (&test.mac, test.destinations.join(", "));
        works.push(format!(
            "capture announced a packet for the unused address {mac}, sent to {destinations}, on {interface} after {} ms",
            time.as_millis()
        ));
    }
    let is_impossible = findings.iter().any(|finding| finding.severity == Severity::Error);
    let domains =
        seen.domains().iter().filter(|it| seen.wanted_domain().is_none_or(|wanted| wanted.uuid == it.uuid));
    for domain in domains.filter(|domain| domain.allowed && !is_impossible && !domain.macs.is_empty()) {
        let rule = domain.rule.as_deref().unwrap_or("its metadata");
        works.push(format!(
            "a packet for {} can wake {:?}, which is {} now: rule {rule}",
            domain.macs.join(" or "),
            domain.name,
            domain.state
        ));
    }
    works
}
