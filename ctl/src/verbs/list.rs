//! `wakevirtctl list`: the domains.

use crate::client::Client;
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Cell, Output, Style, Table, ago, timestamp};

/// The options.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// List only the domains that packets can wake
    #[arg(long)]
    allowed: bool,
}

/// Lists the domains.
///
/// # Errors
/// If the actor does not return them.
pub async fn run(arguments: &Arguments, client: &Client, output: &mut Output) -> Result<Exit, Error> {
    let mut domains = client.domains().await?;
    domains.retain(|domain| domain.allowed || !arguments.allowed);
    if output.is_json() {
        output.json(&domains)?;
        return Ok(Exit::Success);
    }
    domains.sort_by(|one, other| (&one.name, &one.connection).cmp(&(&other.name, &other.connection)));
    let terminal = output.is_terminal();
    let mut table = Table::new(&["DOMAIN", "STATE", "MAC", "ALLOWED", "LAST WAKE", "RULE"]);
    for domain in &domains {
        let last = domain.last_wake.map(|time| if terminal { ago(time) } else { timestamp(time, false) });
        let (allowed, style) = if domain.allowed { ("yes", Style::Good) } else { ("no", Style::Dim) };
        table.push(vec![
            Cell::plain(&domain.name),
            Cell::new(&domain.state, if domain.state == "running" { Style::Good } else { Style::Plain }),
            Cell::plain(domain.macs.join(" ")),
            Cell::new(allowed, style),
            Cell::plain(last.unwrap_or_default()),
            Cell::plain(domain.rule.as_deref().unwrap_or_default()),
        ]);
    }
    output.table(&table)?;
    Ok(Exit::Success)
}
