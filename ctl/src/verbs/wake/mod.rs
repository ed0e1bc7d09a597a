//! `wakevirtctl wake`: wakes domains with a call to the actor.

mod agent;
mod guest;
mod progress;

use std::cell::RefCell;
use std::net::IpAddr;
use std::time::Duration;

use clap_complete::ArgValueCandidates;
use globset::GlobBuilder;
use humantime::format_duration;
use serde::Serialize;
use tokio::time::timeout;
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::Error as BusError;

use super::{domain, style_of};
use crate::client::{self, Client, Domain, Finished, Target};
use crate::error::Error;
use crate::exit::Exit;
use crate::output::{Cell, Output, Style};
use agent::PasswordAgent;
use guest::Answer;
use progress::Progress;

/// The outcome of a wake that continues after the reply.
const HELD: &str = "held";

/// The options.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Wake every domain whose name matches the pattern: * matches any characters, ? one character, and [ab] a or b
    #[arg(long)]
    glob: bool,

    /// Wait until the wake has ended and the guest answers, for at most this long [default without a value: 5min]
    ///
    /// A guest answers when its guest agent is connected, or when it responds at an address that it got from the DHCP
    /// server of a libvirt network. The program checks this with virsh(1), with the permissions of the caller. If the
    /// domain has neither an agent channel nor such a network, the program stops waiting when the domain is running.
    /// Without this option, it waits at most 20 s for the wake to end, and does not wait for the guest.
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "5min",
          value_parser = humantime::parse_duration)]
    wait: Option<Duration>,

    /// Do not ask for a password
    #[arg(long)]
    no_ask_password: bool,

    /// The name, UUID or MAC address of the domain; with --glob, a pattern for names
    #[arg(value_name = "DOMAIN", add = ArgValueCandidates::new(domain::candidates))]
    domain: String,
}

/// The result of a wake, or of waiting for it.
#[derive(Debug, Serialize)]
struct WakeResult {
    domain: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guest: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(skip)]
    exit: Exit,
}

impl WakeResult {
    /// A wake that has ended.
    fn ended(domain: &str, outcome: String, reason: Option<String>) -> Self {
        let exit = if is_success(&outcome) { Exit::Success } else { Exit::Failure };
        Self { domain: domain.to_owned(), outcome: Some(outcome), reason, guest: None, address: None, exit }
    }

    /// A wake, or the start of a guest, that continues without this program.
    fn pending(domain: &str, outcome: Option<String>, reason: String) -> Self {
        let reason = Some(reason);
        Self { domain: domain.to_owned(), outcome, reason, guest: None, address: None, exit: Exit::Pending }
    }

    /// Adds whether the guest answers.
    fn with_guest(self, answer: Answer) -> Self {
        match answer {
            Answer::Agent => Self { guest: Some("agent"), ..self },
            Answer::Address(address) => Self { guest: Some("address"), address: Some(address), ..self },
            Answer::Undetectable => self,
            Answer::Stopped => {
                let reason = Some("the domain stopped again before its guest answered".to_owned());
                Self { reason, exit: Exit::Failure, ..self }
            }
            Answer::Unchecked(reason) => {
                Self { reason: Some(format!("cannot check whether the guest answers: {reason}")), ..self }
            }
        }
    }

    /// What the output says in addition to the outcome.
    fn note(&self) -> Option<String> {
        match (self.guest, self.address) {
            (Some(_), Some(address)) => Some(format!("the guest answers at {address}")),
            (Some(_), None) => Some("the guest agent is connected".to_owned()),
            (None, _) => self.reason.clone(),
        }
    }
}

/// How far a wake has come while the program waits.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// The actor has not replied.
    Requested,
    /// The actor holds the wake.
    Held,
    /// The wake has ended with this outcome, and the guest is starting.
    Starting(String),
}

/// Whether the domain is running after a wake with this outcome.
fn is_success(outcome: &str) -> bool {
    matches!(outcome, "started" | "resumed" | "woken" | "already-running")
}

/// Wakes the domains, one after another.
///
/// # Errors
/// If there is no such domain, or the output cannot be written. A wake that fails is part of the output.
pub async fn run(arguments: &Arguments, client: &Client, output: &mut Output) -> Result<Exit, Error> {
    let interactive = !arguments.no_ask_password;
    // The agent stops when it is dropped.
    let agent = if interactive { PasswordAgent::start() } else { None };
    let mut exit = Exit::Success;
    for (key, name) in wanted(arguments, client).await? {
        let result = wake(&key, &name, arguments, agent.is_some(), client).await?;
        print(&result, output)?;
        if exit == Exit::Success {
            exit = result.exit;
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
        return Err(Error::NoMatch(text.clone()));
    }
    Ok(wanted)
}

/// Wakes the domain with this name or UUID, or otherwise the one with this MAC address. `asks` says whether polkit can ask
/// for a password on this terminal.
async fn wake(
    key: &str,
    name: &str,
    arguments: &Arguments,
    asks: bool,
    client: &Client,
) -> Result<WakeResult, Error> {
    let progress = Progress::new(name, asks);
    let stage = RefCell::new(Stage::Requested);
    let wake = async {
        let (outcome, reason) = request(key, arguments, client, &progress, &stage).await?;
        let result = WakeResult::ended(name, outcome, reason);
        if arguments.wait.is_none() || result.exit != Exit::Success {
            return Ok(result);
        }
        stage.replace(Stage::Starting(result.outcome.clone().unwrap_or_default()));
        let answer = match target(key, client).await {
            Ok(Some(domain)) => {
                let has_started = result.outcome.as_deref() == Some("started");
                guest::wait(&domain, has_started, &progress).await
            }
            Ok(None) => Answer::Undetectable,
            Err(error) => Answer::Unchecked(error.to_string()),
        };
        Ok(result.with_guest(answer))
    };
    let limited = async {
        match arguments.wait {
            Some(time) => {
                timeout(time, wake).await.map_err(|_| format!("timed out after {}", format_duration(time)))
            }
            None => Ok(wake.await),
        }
    };
    let result = tokio::select! {
        result = limited => result,
        never = progress.update() => never,
        _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
    };
    Ok(match result {
        Err(cause) => unfinished(name, &cause, stage.into_inner(), asks),
        Ok(Ok(WakeResult { outcome: Some(outcome), .. })) if outcome == HELD => {
            let cause = "the hypervisor is unavailable, or the domain takes a long time to start or is changing its state;";
            WakeResult::pending(name, Some(outcome), continues(cause))
        }
        Ok(Ok(result)) => result,
        Ok(Err(error)) => return Err(missing(key, error, client).await),
    })
}

/// The result if the program stops waiting in this stage.
fn unfinished(name: &str, cause: &str, stage: Stage, asks: bool) -> WakeResult {
    match stage {
        Stage::Starting(outcome) => {
            WakeResult::pending(name, Some(outcome), format!("{cause}; the guest has not answered yet"))
        }
        // The actor cancels a wake if its caller leaves before the password is typed.
        Stage::Requested if asks => {
            let cause =
                format!("{cause}; if the password is still missing, the domain is not woken; otherwise,");
            WakeResult::pending(name, None, continues(&cause))
        }
        Stage::Requested | Stage::Held => WakeResult::pending(name, None, continues(&format!("{cause};"))),
    }
}

fn continues(cause: &str) -> String {
    format!("{cause} the wake continues, and \"wakevirtctl history\" will show its outcome")
}

/// Requests the wake. With `--wait`, waits until it has ended. Returns the outcome and the reason.
async fn request(
    key: &str,
    arguments: &Arguments,
    client: &Client,
    progress: &Progress,
    stage: &RefCell<Stage>,
) -> Result<(String, Option<String>), client::Error> {
    // Subscribe before the call, because the wake can end right after the reply.
    let mut finished = if arguments.wait.is_some() { Some(client.finished().await?) } else { None };
    let outcome = call(key, client, !arguments.no_ask_password).await?;
    match &mut finished {
        Some(finished) if outcome == HELD => {
            stage.replace(Stage::Held);
            progress.show("held, waiting until the wake ends");
            Ok(wait(key, finished).await)
        }
        _ => Ok((outcome, None)),
    }
}

/// The domain that was woken. `None` unless exactly one domain matches.
async fn target(key: &str, client: &Client) -> Result<Option<Domain>, client::Error> {
    let domains = client.domains().await?;
    let found = domain::find(&domains, key).unwrap_or_default();
    Ok(if let [domain] = found.as_slice() { Some((*domain).clone()) } else { None })
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

/// Waits for a held wake to end, and returns the outcome and the reason.
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

/// Adds the most similar name to the error for an unknown domain.
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

fn print(result: &WakeResult, output: &mut Output) -> Result<(), Error> {
    if output.is_json() {
        output.json(result)?;
    } else {
        let outcome = result.outcome.as_deref();
        let style = outcome.map_or(Style::Warning, style_of);
        let note = result.note().map(|note| format!(": {note}")).unwrap_or_default();
        output.line(&[
            Cell::plain(format!("{}: ", result.domain)),
            Cell::new(outcome.unwrap_or("not ended"), style),
            Cell::plain(note),
        ])?;
    }
    Ok(output.flush()?)
}
