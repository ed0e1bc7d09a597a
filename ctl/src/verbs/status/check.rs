//! `wakevirtctl status --check`, for the probes of containers and for monitoring.

use clap::ValueEnum;
use tokio::time::timeout;
use wakevirt_service::bus::Address;

use crate::client::{Client, Error};
use crate::exit::Exit;
use crate::report;
use crate::verbs::reading::{Reading, TIME};

/// What can be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Check {
    /// The bus accepts connections
    Bus,
    /// Capture replies on the bus
    Capture,
    /// Capture receives packets on at least one interface
    Interfaces,
    /// The actor replies on the bus
    Actor,
    /// The actor is connected to all hypervisors and knows their domains
    Sync,
    /// The actor's configuration was valid when it was last read
    Configuration,
}

const OF_CAPTURE: [Check; 2] = [Check::Capture, Check::Interfaces];
const OF_ACTOR: [Check; 3] = [Check::Actor, Check::Sync, Check::Configuration];

/// A check that failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(String);

/// Runs these checks, or all if there are none, and reports on standard error what fails.
pub(super) async fn run(checks: &[Check], client: &Client) -> Exit {
    let checks = if checks.is_empty() { Check::value_variants() } else { checks };
    if let Err(error) = connect(client).await {
        report(&error);
        return error.exit();
    }
    if checks == [Check::Bus] {
        return Exit::Success;
    }
    let reading = Reading::take(client).await;
    let mut exit = Exit::Success;
    for (of_service, error) in
        [(&OF_CAPTURE[..], reading.capture.as_ref().err()), (&OF_ACTOR, reading.actor.as_ref().err())]
    {
        if let Some(error) = error.filter(|_| checks.iter().any(|check| of_service.contains(check))) {
            report(error);
            exit = error.exit();
        }
    }
    let problems = problems(&reading, client.address());
    for (_, problem) in problems.into_iter().filter(|(check, _)| checks.contains(check)) {
        report(&Failed(problem));
        exit = if exit == Exit::Success { Exit::Failure } else { exit };
    }
    exit
}

async fn connect(client: &Client) -> Result<(), Error> {
    let no_reply = || Error::NoBus {
        address: Box::new(client.address().clone()),
        reason: "it does not reply".to_owned(),
    };
    timeout(TIME, client.connection()).await.unwrap_or_else(|_| Err(no_reply())).map(drop)
}

/// What is wrong with the services that reply.
fn problems(reading: &Reading, address: &Address) -> Vec<(Check, String)> {
    let mut problems = Vec::new();
    if let Ok(capture) = &reading.capture
        && capture.interfaces.is_empty()
    {
        problems.push((Check::Interfaces, super::NO_INTERFACE.to_owned()));
    }
    if let Ok(actor) = &reading.actor {
        let missing = actor.connections.iter().filter(|connection| !connection.connected);
        problems.extend(missing.map(|it| (Check::Sync, super::not_connected(it, address))));
        if !actor.configuration_valid {
            problems.push((Check::Configuration, super::NOT_RELOADED.to_owned()));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{ActorStatus, CaptureStatus, HypervisorConnection};

    fn checks(capture: CaptureStatus, actor: ActorStatus) -> Vec<Check> {
        let problems = problems(&Reading { capture: Ok(capture), actor: Ok(actor) }, &Address::System);
        problems.into_iter().map(|(check, _)| check).collect()
    }

    #[test]
    fn finds_what_does_not_work() {
        let connection = |connected| HypervisorConnection {
            uri: "test:///".into(),
            connected,
            last_sync: None,
            error: None,
        };
        let capture = CaptureStatus { interfaces: vec!["lo".into()], ..CaptureStatus::default() };
        let actor = ActorStatus {
            connections: vec![connection(true)],
            configuration_valid: true,
            ..ActorStatus::default()
        };
        assert_eq!(checks(capture.clone(), actor.clone()), []);
        assert_eq!(checks(CaptureStatus::default(), actor.clone()), [Check::Interfaces]);
        let lost = ActorStatus { connections: vec![connection(true), connection(false)], ..actor.clone() };
        assert_eq!(checks(capture.clone(), lost), [Check::Sync]);
        let invalid = ActorStatus { configuration_valid: false, ..actor };
        assert_eq!(checks(capture, invalid), [Check::Configuration]);
    }
}
