//! `wakevirtctl host check`: finds out why the host cannot be prepared for its domains. Data flows in one direction:
//! observe, check, print.

mod domains;
mod installation;
mod observe;

use super::guests;
use super::preview::config;
use crate::client::Client;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;
use crate::verbs::finding::{Diagnosis, Finding, print};

use observe::Seen;

/// The options.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Check only this domain, by name or UUID
    #[arg(value_name = "DOMAIN")]
    domain: Option<String>,
}

/// Checks the host, and prints the findings.
///
/// # Errors
/// If the configuration is invalid, or the domains or the host cannot be read.
pub async fn run(arguments: &Arguments, client: &Client, output: &mut Output) -> Result<Exit, Error> {
    let config = config()?;
    let guests = match &arguments.domain {
        Some(domain) => vec![guests::find(domain)?],
        None => guests::list()?,
    };
    let seen = Seen::gather(client, &config, &guests, arguments.domain.is_none()).await?;
    let diagnosis = diagnose(&seen);
    print(&diagnosis, next_step(&diagnosis), output)?;
    Ok(if diagnosis.healthy { Exit::Success } else { Exit::Failure })
}

fn diagnose(seen: &Seen) -> Diagnosis {
    let mut findings: Vec<Finding> = installation::check(seen);
    findings.extend(domains::together(seen));
    let mut works = Vec::new();
    for domain in &seen.domains {
        let of_domain = domains::check(seen, domain);
        if of_domain.is_empty() {
            works.push(format!("the host can be prepared for {}", domain.guest.name));
        }
        findings.extend(of_domain);
    }
    findings.sort_by_key(|finding| finding.severity);
    Diagnosis::new(findings, works, seen.not_checked.clone())
}

/// What to do after this diagnosis.
const fn next_step(diagnosis: &Diagnosis) -> &'static str {
    if diagnosis.healthy {
        "start a domain, and run wakevirtctl host status"
    } else {
        "fix the first problem, and then run wakevirtctl host check again"
    }
}

#[cfg(test)]
mod tests;
