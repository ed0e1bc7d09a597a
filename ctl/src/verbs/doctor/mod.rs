//! `wakevirtctl doctor`: finds out why a packet does not wake a domain. Data flows in one direction: observe, check, print.

mod checks;
mod mask;
mod observe;
mod report;

use clap_complete::ArgValueCandidates;

use super::domain;
use super::finding::{Diagnosis, Finding, Severity, print};
use crate::client::Client;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;

use observe::Observations;

/// The options.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The domain that does not wake, by name or UUID
    #[arg(value_name = "DOMAIN", add = ArgValueCandidates::new(domain::candidates))]
    domain: Option<String>,

    /// Print a bug report
    #[arg(long)]
    report: bool,

    /// With --report: replace the names of domains and of the host, and all addresses
    #[arg(long, requires = "report")]
    mask: bool,

    /// Do not send a test packet
    ///
    /// By default, doctor sends a magic packet for an unused address to this host, and waits until capture announces it.
    #[arg(long)]
    no_test: bool,
}

/// Observes the host, checks the observations, and prints the diagnosis.
///
/// # Errors
/// If the output cannot be written.
pub async fn run(arguments: &Arguments, client: &Client, output: &mut Output) -> Result<Exit, Error> {
    let seen = Observations::gather(client, arguments.domain.as_deref(), !arguments.no_test).await;
    let diagnosis = diagnose(&seen);
    let exit = if diagnosis.healthy { Exit::Success } else { Exit::Failure };
    if arguments.report {
        output.writer().write_all(report::text(&seen, &diagnosis, arguments.mask).as_bytes())?;
    } else {
        print(&diagnosis, next_step(&diagnosis), output)?;
    }
    Ok(exit)
}

fn diagnose(seen: &Observations) -> Diagnosis {
    let findings = checks::all(seen);
    let works = works(seen, &findings);
    Diagnosis::new(findings, works, seen.not_checked())
}

/// What to do after this diagnosis.
fn next_step(diagnosis: &Diagnosis) -> &'static str {
    if diagnosis.healthy {
        "doctor found no problem; if a packet still does not wake a domain, send the packet and run doctor again, which \
         then finds out why"
    } else if diagnosis.findings.iter().any(|finding| finding.fix.is_some()) {
        "run the first command that fixes a problem, and then run doctor again"
    } else {
        "follow the advice, and then run doctor again"
    }
}

/// What works.
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
    let has_errors = findings.iter().any(|finding| finding.severity == Severity::Error);
    let domains =
        seen.domains().iter().filter(|it| seen.wanted_domain().is_none_or(|wanted| wanted.uuid == it.uuid));
    for domain in domains.filter(|domain| domain.allowed && !has_errors && !domain.macs.is_empty()) {
        let rule = domain.rule.as_deref().unwrap_or("its metadata");
        // A rule is written as its keys. The first one names the domain or the address.
        let condition = if rule.matches(" = ").count() > 1 {
            ", if the packet meets the conditions of the rule"
        } else {
            ""
        };
        works.push(format!(
            "a packet for {} can wake {:?}, which is {} now{condition} (rule: {rule})",
            domain.macs.join(" or "),
            domain.name,
            domain.state
        ));
    }
    works
}
