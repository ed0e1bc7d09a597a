//! `wakevirtctl forbid`: removes what `allow` has written, and names what still allows the domain.

use clap_complete::ArgValueCandidates;
use serde::Serialize;
use wakevirt_protocol::explain::{ExplainedRule, RuleKind, RuleVerdict};

use super::allow::{DropIn, Found, RuleError, metadata, reload};
use super::domain;
use crate::client::{self, Client, Details, Domain};
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Cell, Output, Style, location};

/// The name of the rule in `ListDomains` if the metadata of the domain allows it.
const METADATA: &str = "metadata of the domain";

/// The options.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Remove the permission from the domain's definition instead, with virsh(1)
    #[arg(long)]
    in_domain: bool,

    /// Accept a DOMAIN that does not match a known domain
    #[arg(long, conflicts_with = "in_domain")]
    force: bool,

    /// The name, UUID or glob that was given to "wakevirtctl allow"
    #[arg(value_name = "DOMAIN", add = ArgValueCandidates::new(domain::candidates))]
    domain: String,
}

/// What was done, as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Forbidden<'a> {
    domain: &'a str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<bool>,
    still_allowed: Vec<StillAllowed>,
}

/// A domain that is still allowed, and the rule that allows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct StillAllowed {
    domain: String,
    rule: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

/// Removes the rule. The answer is negative if something still allows a matching domain.
///
/// # Errors
/// If the file cannot be removed, or the actor rejects the change, which is then undone.
pub async fn run(arguments: &Arguments, client: &Client, output: &mut Output) -> Result<Exit, Error> {
    let text = &arguments.domain;
    let mut forbidden =
        Forbidden { domain: text, outcome: "absent", file: None, applied: None, still_allowed: Vec::new() };
    if arguments.in_domain {
        let domains = client.domains().await?;
        for domain in domain::find(&domains, text)? {
            if metadata::remove(domain)? {
                forbidden.outcome = "removed";
            }
        }
    } else {
        let drop_in = DropIn::new(text, client.address())?;
        drop_in.check_access("forbid")?;
        forbidden.file = Some(drop_in.path().display().to_string());
        forbidden.outcome = match drop_in.found()? {
            Found::Absent => "absent",
            Found::Written => "removed",
            Found::Edited => "edited",
        };
        forbidden.applied = Some(remove(forbidden.outcome, &drop_in, client).await?);
    }
    if forbidden.applied != Some(false) {
        forbidden.still_allowed = still_allowed(arguments, forbidden.outcome, client).await?;
    }
    print(&forbidden, output)?;
    let is_done = forbidden.outcome != "edited" && forbidden.still_allowed.is_empty();
    Ok(if is_done { Exit::Success } else { Exit::Failure })
}

/// Removes the file if `allow` has written it, and reloads the actor. Returns whether the actor is running.
async fn remove(outcome: &str, drop_in: &DropIn, client: &Client) -> Result<bool, RuleError> {
    let is_written = outcome == "removed";
    if is_written {
        drop_in.remove()?;
    }
    let reloaded = reload(client).await;
    if reloaded.is_err() && is_written {
        drop_in.write()?;
    }
    reloaded
}

/// What still allows matching domains.
async fn still_allowed(
    arguments: &Arguments,
    outcome: &str,
    client: &Client,
) -> Result<Vec<StillAllowed>, Error> {
    let domains = client.domains().await?;
    let matching = domain::matching(&domains, &arguments.domain);
    if matching.is_empty() && outcome == "absent" && !arguments.force {
        let nearest = domain::nearest(&domains, &arguments.domain);
        return Err(RuleError::Unmatched { text: arguments.domain.clone(), nearest }.into());
    }
    let mut still = Vec::new();
    for domain in matching.into_iter().filter(|domain| domain.allowed) {
        still.extend(rules(domain, arguments.in_domain, client).await?);
    }
    Ok(still)
}

/// The rules that allow a domain. With `without_metadata`, its metadata is left out, because the actor may not have
/// noticed yet that it was removed.
async fn rules(
    domain: &Domain,
    without_metadata: bool,
    client: &Client,
) -> Result<Vec<StillAllowed>, client::Error> {
    let mut still: Vec<StillAllowed> = Vec::new();
    let mut is_explained = false;
    let mut push = |rule: StillAllowed| {
        if !still.contains(&rule) {
            still.push(rule);
        }
    };
    let entry = |rule: String, file, line| StillAllowed { domain: domain.name.clone(), rule, file, line };
    for mac in &domain.macs {
        let explained = client.explain(mac, &Details::new()).await?.rules;
        is_explained |= !explained.is_empty();
        let allows = explained.into_iter().filter(|rule| may_allow(rule, domain));
        let allows = allows.filter(|rule| !without_metadata || rule.kind != Some(RuleKind::Metadata));
        allows.for_each(|rule| push(entry(rule.text, rule.file, rule.line)));
    }
    // An actor of an earlier version does not explain rules.
    let listed = domain.rule.clone().filter(|_| !is_explained);
    let listed = listed.filter(|rule| !without_metadata || rule != METADATA);
    listed.into_iter().for_each(|rule| push(entry(rule, None, None)));
    Ok(still)
}

/// Whether a rule is for this domain, so that it can allow packets.
fn may_allow(rule: &ExplainedRule, domain: &Domain) -> bool {
    let is_for_others = matches!(
        rule.verdict,
        None | Some(
            RuleVerdict::Connection
                | RuleVerdict::Domain
                | RuleVerdict::Mac
                | RuleVerdict::Ambiguous
                | RuleVerdict::NoDomain
                | RuleVerdict::NoOptIn
                | RuleVerdict::Disabled
        )
    );
    !is_for_others || domain.rule.as_ref() == Some(&rule.text)
}

fn print(forbidden: &Forbidden<'_>, output: &mut Output) -> std::io::Result<()> {
    if output.is_json() {
        return output.json(forbidden);
    }
    let (text, style) = match (forbidden.file.as_deref(), forbidden.outcome) {
        (Some(file), "removed") => (format!("removed {file}"), Style::Plain),
        (Some(file), "edited") => {
            (format!("{file} was edited, so it was left unchanged; edit or remove it"), Style::Bad)
        }
        (Some(file), _) => (format!("{file} does not exist"), Style::Plain),
        (None, "removed") => ("removed wakevirt's metadata from the domain".to_owned(), Style::Plain),
        (None, _) => ("the domain has no wakevirt metadata".to_owned(), Style::Plain),
    };
    output.line(&[Cell::new(text, style)])?;
    for still in &forbidden.still_allowed {
        let detail = match location(still.file.as_deref(), still.line) {
            Some(location) => format!(", {location}"),
            None if still.rule == METADATA => "; \"wakevirtctl forbid --in-domain\" removes it".to_owned(),
            None => String::new(),
        };
        let text = format!("{} is still allowed: {}{detail}", still.domain, still.rule);
        output.line(&[Cell::new(text, Style::Warning)])?;
    }
    if forbidden.applied == Some(false) {
        let note = "wakevirt-actor is not running: the change takes effect when it starts, and other rules were not checked";
        output.line(&[Cell::new(note, Style::Warning)])?;
    }
    Ok(())
}
