//! `wakevirtctl allow`: writes a rule, or adds metadata to a domain.

mod drop_in;
mod error;
pub(super) mod metadata;

use clap_complete::ArgValueCandidates;
use serde::Serialize;

use super::domain;
use crate::client::{self, Client, Domain};
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Cell, Output, Style};
use crate::quoting::quote;

pub(super) use drop_in::{DropIn, Found};
pub use error::RuleError;

/// The options.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Print the drop-in instead of writing it
    #[arg(long, conflicts_with = "in_domain")]
    print: bool,

    /// Add the permission to the domain's definition instead, with virsh(1)
    #[arg(long)]
    in_domain: bool,

    /// Accept a DOMAIN that does not match a known domain
    #[arg(long, conflicts_with = "in_domain")]
    force: bool,

    /// The name or UUID of a domain, or a glob for names, such as web-*
    #[arg(value_name = "DOMAIN", add = ArgValueCandidates::new(domain::candidates))]
    domain: String,
}

/// Returns the command that runs `allow` or `forbid` for a domain, quoted for a shell.
pub(super) fn command(verb: &str, domain: &str) -> String {
    let end = if domain.starts_with('-') { "-- " } else { "" };
    format!("wakevirtctl {verb} {end}{}", quote(domain))
}

/// What was done, as JSON.
#[derive(Debug, Serialize)]
struct Allowed<'a> {
    domain: &'a str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<bool>,
    domains: Vec<String>,
}

/// Allows the domain.
///
/// # Errors
/// If nothing matches, the file cannot be written, or the actor rejects the change, which is then undone.
pub async fn run(arguments: &Arguments, client: &Client, output: &mut Output) -> Result<Exit, Error> {
    let text = &arguments.domain;
    if arguments.in_domain {
        return in_domain(text, client, output).await;
    }
    let drop_in = DropIn::new(text, client.address())?;
    let mut allowed = Allowed {
        domain: text,
        outcome: "printed",
        file: Some(drop_in.path().display().to_string()),
        content: Some(drop_in.content()),
        applied: None,
        domains: Vec::new(),
    };
    if arguments.print {
        print_content(&allowed, output)?;
        return Ok(Exit::Success);
    }
    drop_in.check_access("allow")?;
    allowed.domains = names(text, arguments.force, client).await?;
    let found = drop_in.found()?;
    allowed.outcome = match found {
        Found::Edited => return Err(RuleError::Edited(drop_in.path().to_owned()).into()),
        Found::Written => "unchanged",
        Found::Absent => {
            drop_in.write()?;
            "written"
        }
    };
    match apply(text, &drop_in, client).await {
        Ok(applied) => allowed.applied = Some(applied),
        Err(error) => {
            if found == Found::Absent {
                drop_in.remove()?;
            }
            return Err(error.into());
        }
    }
    print(&allowed, &drop_in, output)?;
    Ok(Exit::Success)
}

/// The names of the domains that match.
async fn names(text: &str, force: bool, client: &Client) -> Result<Vec<String>, RuleError> {
    let domains = match client.domains().await {
        Ok(domains) => domains,
        Err(_) if force => return Ok(Vec::new()),
        Err(error) => return Err(RuleError::Unlisted(error)),
    };
    let mut names: Vec<String> =
        domain::matching(&domains, text).into_iter().map(|domain| domain.name.clone()).collect();
    names.sort();
    if names.is_empty() && !force {
        let nearest = domain::nearest(&domains, text);
        return Err(RuleError::Unmatched { text: text.to_owned(), nearest });
    }
    Ok(names)
}

/// Makes the actor read its configuration again. Returns whether the actor is running.
pub(super) async fn reload(client: &Client) -> Result<bool, RuleError> {
    match client.reload().await {
        Ok(()) => Ok(true),
        Err(client::Error::NotRunning { .. } | client::Error::NoBus { .. }) => Ok(false),
        Err(error) => Err(RuleError::Reload(error)),
    }
}

/// Reloads the actor, and checks that it uses the rule: with `--config`, it does not read drop-ins.
async fn apply(text: &str, drop_in: &DropIn, client: &Client) -> Result<bool, RuleError> {
    if !reload(client).await? {
        return Ok(false);
    }
    let domains = client.domains().await.unwrap_or_default();
    let mut matching = domain::matching(&domains, text);
    // A domain without a MAC address is never allowed.
    matching.retain(|domain| !domain.macs.is_empty());
    if !matching.is_empty() && !matching.iter().any(|domain| domain.allowed) {
        return Err(RuleError::NotRead(drop_in.path().to_owned()));
    }
    Ok(true)
}

/// Allows each domain with this name or UUID in its metadata.
async fn in_domain(text: &str, client: &Client, output: &mut Output) -> Result<Exit, Error> {
    let domains = client.domains().await?;
    let found: Vec<&Domain> = domain::find(&domains, text)?;
    for domain in &found {
        metadata::set(domain)?;
    }
    let names: Vec<String> = found.iter().map(|domain| domain.name.clone()).collect();
    if output.is_json() {
        let set = Allowed {
            domain: text,
            outcome: "set",
            file: None,
            content: None,
            applied: None,
            domains: names,
        };
        output.json(&set)?;
        return Ok(Exit::Success);
    }
    for domain in found {
        let text = format!(": allowed by its metadata in {}", domain.connection);
        output.line(&[Cell::new(&domain.name, Style::Good), Cell::plain(text)])?;
    }
    Ok(Exit::Success)
}

fn print_content(allowed: &Allowed<'_>, output: &mut Output) -> std::io::Result<()> {
    let content = allowed.content.unwrap_or_default();
    if output.is_json() {
        return output.json(allowed);
    }
    if output.is_terminal() {
        return content.lines().try_for_each(|line| output.line(&[Cell::plain(line)]));
    }
    output.writer().write_all(content.as_bytes())
}

fn print(allowed: &Allowed<'_>, drop_in: &DropIn, output: &mut Output) -> std::io::Result<()> {
    if output.is_json() {
        return output.json(allowed);
    }
    let file = drop_in.path().display();
    let first = if allowed.outcome == "written" {
        format!("wrote {file}:")
    } else {
        format!("already allowed by {file}:")
    };
    output.line(&[Cell::plain(first)])?;
    for line in drop_in.rule().lines() {
        output.line(&[Cell::plain(format!("  {line}"))])?;
    }
    if allowed.domains.is_empty() {
        output.line(&[Cell::new("no known domain matches it yet", Style::Warning)])?;
    } else {
        output.line(&[Cell::plain(format!("it allows {}", allowed.domains.join(", ")))])?;
    }
    if allowed.applied == Some(false) {
        let note = "wakevirt-actor is not running: the rule takes effect when it starts";
        output.line(&[Cell::new(note, Style::Warning)])?;
    }
    Ok(())
}
