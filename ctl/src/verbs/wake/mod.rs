//! `wakevirtctl wake`: wakes domains by a call.

mod agent;

use std::time::Duration;

use clap_complete::ArgValueCandidates;
use globset::GlobBuilder;
use serde::Serialize;
use tokio::time::timeout;
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::Error as BusError;

use super::{domain, style_of};
use crate::client::{self, Client, Finished, Target};
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Cell, Output, Style};
use agent::PasswordAgent;

/// The outcome of a wake that continues after the reply.
const HELD: &str = "held";

/// The options.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Wake every domain with a name that matches: * stands for any characters, ? for one, [ab] for one of several
    #[arg(long)]
    glob: bool,

    /// Wait until each wake has ended, at most this time [default with --wait: 5min]
    ///
    /// Without the option, the program waits at most 20 s.
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "5min",
          value_parser = humantime::parse_duration)]
    wait: Option<Duration>,

    /// Do not let polkit ask for a password
    #[arg(long)]
    no_ask_password: bool,

    /// The name, UUID or MAC address of the domain; with --glob, a pattern for names
    #[arg(value_name = "DOMAIN", add = ArgValueCandidates::new(domain::candidates))]
    domain: String,
}

/// The end of a wake, or of waiting for it.
#[derive(Debug, Serialize)]
struct Ended {
    domain: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip)]
    exit: Exit,
}

/// Wakes the domains, one after another.
///
/// # Errors
/// If there is no such domain, or the output cannot be written. A wake that fails is part of the output.
pub async fn run(arguments: &Arguments, client: &Client, output: &mut Output) -> Result<Exit, Error> {
    let interactive = !arguments.no_ask_password;
    // Ends when it is dropped.
    let _agent = if interactive { PasswordAgent::start() } else { None };
    let mut exit = Exit::Success;
    for (key, name) in wanted(arguments, client).await? {
        let ended = Ended { domain: name, ..wake(&key, arguments, client).await? };
        print(&ended, output)?;
        if exit == Exit::Success {
            exit = ended.exit;
        }
    }
    Ok(exit)
}

/// The domains to wake: what identifies each, and its name.
async fn wanted(arguments: &Arguments, client: &Client) -> Result<Vec<(String, String)>, Error> {
    let text = &arguments.domain;
    if !arguments.glob {
        return Ok(vec![(text.clone(), text.clone())]);
    }
    let glob = GlobBuilder::new(text).backslash_escape(true).build();
    let glob = glob.map_err(|error| Error::Glob { text: text.clone(), reason: error.to_string() })?;
    let glob = glob.compile_matcher();
    let domains = client.domains().await?;
    let matching = domains.into_iter().filter(|domain| glob.is_match(&domain.name));
    let wanted: Vec<_> = matching.map(|domain| (domain.uuid, domain.name)).collect();
    if wanted.is_empty() {
        return Err(Error::NoSuchDomain { text: text.clone(), nearest: None });
    }
    Ok(wanted)
}

/// Wakes a domain: by its name or UUID, otherwise by its MAC address.
async fn wake(name: &str, arguments: &Arguments, client: &Client) -> Result<Ended, Error> {
    let wake = async {
        // Subscribe first: the wake can end right after the reply.
        let mut finished = if arguments.wait.is_some() { Some(client.finished().await?) } else { None };
        let outcome = call(name, client, !arguments.no_ask_password).await?;
        match &mut finished {
            Some(finished) if outcome == HELD => Ok(wait(name, finished).await),
            _ => Ok((outcome, None)),
        }
    };
    let wake = async {
        match arguments.wait {
            Some(time) => timeout(time, wake).await.map_err(|_| "the time is over"),
            None => Ok(wake.await),
        }
    };
    let result = tokio::select! {
        result = wake => result,
        _ = tokio::signal::ctrl_c() => Err("interrupted"),
    };
    let pending = |reason: &str| {
        let reason = format!("{reason}; the wake continues: \"wakevirtctl history\" shows its end");
        Ended { domain: name.to_owned(), outcome: None, reason: Some(reason), exit: Exit::Pending }
    };
    Ok(match result {
        Err(reason) => pending(reason),
        Ok(Ok((outcome, _))) if outcome == HELD => {
            let reason = "the hypervisor is unavailable, or the domain is changing its state or slow";
            Ended { outcome: Some(outcome), ..pending(reason) }
        }
        Ok(Ok((outcome, reason))) => {
            let exit = match outcome.as_str() {
                "started" | "resumed" | "woken" | "already-running" => Exit::Success,
                _ => Exit::Failure,
            };
            Ended { domain: name.to_owned(), outcome: Some(outcome), reason, exit }
        }
        Ok(Err(error)) => return Err(missing(name, error, client).await),
    })
}

async fn call(name: &str, client: &Client, interactive: bool) -> Result<String, client::Error> {
    let by_name = client.wake(Target::Domain(name), interactive).await;
    match (by_name, name.parse::<MacAddr>()) {
        (Err(client::Error::Refused(error)), Ok(mac)) if matches!(*error, BusError::NoSuchDomain(_)) => {
            client.wake(Target::Mac(&mac.to_string()), interactive).await
        }
        (result, _) => result,
    }
}

/// Waits for the end of a wake that is held, and returns the outcome and the reason.
async fn wait(name: &str, finished: &mut Finished) -> (String, Option<String>) {
    let mac = name.parse().ok().map(|mac: MacAddr| mac.to_string());
    loop {
        let Some(decision) = finished.next().await else {
            return (HELD.to_owned(), None);
        };
        let is_named =
            decision.domain.as_deref() == Some(name) || decision.details.uuid.as_deref() == Some(name);
        if is_named || (mac.is_some() && decision.mac == mac) {
            return (decision.outcome, decision.details.reason);
        }
    }
}

/// Adds the nearest name to the error for an unknown domain.
async fn missing(name: &str, error: client::Error, client: &Client) -> Error {
    let unknown =
        matches!(&error, client::Error::Refused(error) if matches!(**error, BusError::NoSuchDomain(_)));
    if unknown
        && let Ok(domains) = client.domains().await
        && let Err(error) = domain::find(&domains, name)
    {
        return error;
    }
    error.into()
}

fn print(ended: &Ended, output: &mut Output) -> Result<(), Error> {
    if output.is_json() {
        output.json(ended)?;
    } else {
        let outcome = ended.outcome.as_deref();
        let style = outcome.map_or(Style::Warning, style_of);
        let reason = ended.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        output.line(&[
            Cell::plain(format!("{}: ", ended.domain)),
            Cell::new(outcome.unwrap_or("not ended"), style),
            Cell::plain(reason),
        ])?;
    }
    Ok(output.flush()?)
}
