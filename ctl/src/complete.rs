//! Completion in shells. The installed scripts run the program with `COMPLETE` in the environment.

use std::ffi::OsString;
use std::time::Duration;

use clap::CommandFactory as _;
use clap_complete::{CompleteEnv, CompletionCandidate};
use tokio::time::timeout;
use wakevirt_service::bus::Address;

use crate::client::{Client, Domain};
use crate::options::Options;

/// How long a completion waits for the services.
const TIMEOUT: Duration = Duration::from_secs(1);

/// If a shell requests completions, prints them and exits.
pub fn reply_to_shell() {
    CompleteEnv::with_factory(Options::command).complete();
}

/// The names of all domains. Empty without the right to list them, and if the actor is not running.
#[must_use]
pub fn domains() -> Vec<CompletionCandidate> {
    let bus = bus(std::env::args_os().skip(1)).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return Vec::new() };
    let listed = runtime.block_on(async { timeout(TIMEOUT, Client::new(bus).domains()).await });
    let Ok(Ok(domains)) = listed else { return Vec::new() };
    domains.into_iter().filter_map(candidate).collect()
}

/// A name with a control character would break the protocol between the program and the shell.
fn candidate(domain: Domain) -> Option<CompletionCandidate> {
    let help = domain.state.clone();
    let name = domain.name;
    (!name.contains(char::is_control)).then(|| CompletionCandidate::new(name).help(Some(help.into())))
}

/// The value of the option `--bus` on the command line that is being completed.
fn bus(arguments: impl Iterator<Item = OsString>) -> Option<Address> {
    let mut arguments = arguments.filter_map(|argument| argument.into_string().ok());
    while let Some(argument) = arguments.next() {
        let value = match argument.strip_prefix("--bus") {
            Some("") => arguments.next()?,
            Some(value) => value.strip_prefix('=')?.to_owned(),
            None => continue,
        };
        return value.parse().ok();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_bus_on_the_command_line() {
        let bus = |line: &str| bus(line.split(' ').map(OsString::from));
        assert_eq!(bus("-- wakevirtctl wake "), None);
        assert_eq!(bus("-- wakevirtctl --bus session wake "), Some(Address::Session));
        assert_eq!(bus("-- wakevirtctl --bus=session wake "), Some(Address::Session));
        assert_eq!(bus("-- wakevirtctl wake --bus"), None);
        assert_eq!(bus("-- wakevirtctl --bus nothing wake"), None);
    }
}
