//! `wakevirtctl explain`: what a packet would do, and why.

use std::net::IpAddr;

use clap_complete::ArgValueCandidates;
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::explain::{ExplainedDomain, ExplainedRule, Explanation, RuleVerdict};

use super::domain;
use crate::client::{Client, Details};
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Cell, Output, Style, Table, location};

/// The options.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The ingress interface of the packet
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,

    /// The IP address of the sender
    #[arg(long, value_name = "ADDRESS")]
    source: Option<IpAddr>,

    /// The MAC address of the sender
    #[arg(long, value_name = "MAC")]
    source_mac: Option<MacAddr>,

    /// The outermost VLAN of the frame, or 0 for none
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(0..=4094))]
    vlan: Option<u16>,

    /// Assume that the packet has a SecureOn password. The password is not checked
    #[arg(long)]
    secure_on: bool,

    /// The MAC address in the packet; or the name or UUID of a domain, to explain a packet for each of its addresses
    #[arg(value_name = "MAC|DOMAIN", add = ArgValueCandidates::new(domain::candidates))]
    target: String,
}

impl Arguments {
    /// The packet, as `Explain` expects it.
    fn details(&self) -> Details {
        let mut details = Details::new();
        details.extend(self.interface.clone().map(|name| ("interface", name.into())));
        details.extend(self.source.map(|address| ("source", address.to_string().into())));
        details.extend(self.source_mac.map(|mac| ("source-mac", mac.to_string().into())));
        details.extend(self.vlan.map(|vlan| ("vlan", vlan.into())));
        details.extend(self.secure_on.then(|| ("secureon", true.into())));
        details
    }
}

/// Explains what the packet would do. The answer is negative if no packet for these addresses would wake a domain.
///
/// # Errors
/// If there is no such domain, or the actor does not reply.
pub async fn run(arguments: &Arguments, client: &Client, output: &mut Output) -> Result<Exit, Error> {
    let mut exit = Exit::Failure;
    for (index, mac) in domain::addresses(&arguments.target, client).await?.iter().enumerate() {
        let explanation = client.explain(&mac.to_string(), &arguments.details()).await?;
        if explanation.would_wake {
            exit = Exit::Success;
        }
        if output.is_json() {
            output.json(&explanation)?;
            continue;
        }
        if index > 0 {
            output.line(&[])?;
        }
        print(&explanation, output)?;
    }
    Ok(exit)
}

fn print(it: &Explanation, output: &mut Output) -> Result<(), Error> {
    let mut table = Table::default();
    let mut row = |name: &str, value: Cell| table.push(vec![Cell::new(name, Style::Bold), value]);
    let (answer, style) = if it.would_wake { ("yes", Style::Good) } else { ("no", Style::Bad) };
    row("mac", Cell::plain(&it.mac));
    row("would wake", Cell::new(answer, style));
    row("reason", Cell::plain(&it.reason));
    if let Some(action) = it.action {
        row("action", Cell::plain(action.as_str()));
    }
    for domain in &it.domains {
        row("domain", Cell::plain(description(domain)));
    }
    for uri in &it.unavailable {
        row("unavailable", Cell::new(uri, Style::Bad));
    }
    for alias in it.aliases.iter().filter(|alias| alias.mac == it.mac) {
        row("alias", Cell::plain(format!("of {}: {}", alias.domain, alias.reason)));
    }
    output.table(&table)?;
    if !it.rules.is_empty() {
        output.line(&[])?;
        output.table(&rules(&it.rules))?;
    }
    match it.rules_omitted {
        0 => {}
        1 => output.line(&[Cell::plain("1 more rule")])?,
        omitted => output.line(&[Cell::plain(format!("{omitted} more rules"))])?,
    }
    Ok(())
}

/// Describes the domain in one line: its state, and what delays or prevents a wake.
fn description(domain: &ExplainedDomain) -> String {
    let mut parts = vec![domain.state.clone()];
    parts.extend(domain.alias.then(|| "has the address through an alias".to_owned()));
    parts.extend((!domain.selected).then(|| "not selected".to_owned()));
    parts.extend(domain.wake.map(|wake| format!("a wake is {}", wake.as_str())));
    parts.extend(domain.cool_down.map(|rest| format!("cooling down for {} s", rest.div_ceil(1_000_000))));
    format!("{} ({}) on {}", domain.name, parts.join(", "), domain.connection)
}

fn rules(rules: &[ExplainedRule]) -> Table {
    let mut table = Table::new(&["RULE", "VERDICT", "DECIDES", "LOCATION", "TEXT", "REASON"]);
    for rule in rules {
        let style = match rule.verdict {
            Some(RuleVerdict::Allows) => Style::Good,
            Some(RuleVerdict::PasswordUnchecked) => Style::Warning,
            _ => Style::Plain,
        };
        table.push(vec![
            Cell::plain(rule.number.to_string()),
            Cell::new(rule.verdict.map_or("unknown", RuleVerdict::as_str), style),
            Cell::plain(if rule.decides { "yes" } else { "" }),
            Cell::plain(location(rule.file.as_deref(), rule.line).unwrap_or_default()),
            Cell::plain(&rule.text),
            Cell::plain(&rule.reason),
        ]);
    }
    table
}
