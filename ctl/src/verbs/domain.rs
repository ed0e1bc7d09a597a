//! Domains on the command line: their completion, and the search for them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Duration;

use clap_complete::CompletionCandidate;
use tokio::time::timeout;
use wakevirt_protocol::MacAddr;
use wakevirt_service::bus::Address;
use wakevirt_service::config::glob;

use crate::client::{Client, Domain};
use crate::error::Error;

/// How long a completion waits for the services.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The minimum similarity of the suggested name, from 0 to 1.
const SIMILAR: f64 = 0.7;

/// The domains with this name, UUID or MAC address. There can be several, because hypervisors can have domains of the
/// same name.
///
/// # Errors
/// If there is none. The message suggests the most similar name.
pub fn find<'a>(domains: &'a [Domain], text: &str) -> Result<Vec<&'a Domain>, Error> {
    let named: Vec<&Domain> = domains.iter().filter(|domain| domain.name == text).collect();
    if !named.is_empty() {
        return Ok(named);
    }
    let mac = text.parse().ok().map(|mac: MacAddr| mac.to_string());
    let matches = |domain: &&Domain| {
        domain.uuid.eq_ignore_ascii_case(text) || mac.as_ref().is_some_and(|mac| domain.macs.contains(mac))
    };
    let found: Vec<&Domain> = domains.iter().filter(matches).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    Err(Error::NoSuchDomain { text: text.to_owned(), nearest: nearest(domains, text) })
}

/// The MAC addresses to which a target refers: the address itself, or those of the domains with this name or UUID. The
/// bus is needed only to look up a domain.
///
/// # Errors
/// If there is no such domain, it has no address, or the actor does not list the domains.
pub async fn addresses(target: &str, client: &Client) -> Result<Vec<MacAddr>, Error> {
    if let Ok(mac) = target.parse() {
        return Ok(vec![mac]);
    }
    let domains = client.domains().await?;
    let macs = find(&domains, target)?.into_iter().flat_map(|domain| &domain.macs);
    let macs: BTreeSet<MacAddr> = macs.filter_map(|mac| mac.parse().ok()).collect();
    if macs.is_empty() {
        return Err(Error::NoMac(target.to_owned()));
    }
    Ok(macs.into_iter().collect())
}

/// Whether a name, glob or UUID from a rule matches this domain.
#[must_use]
pub fn matches_pattern(domain: &Domain, pattern: &str) -> bool {
    pattern == domain.name
        || pattern.eq_ignore_ascii_case(&domain.uuid)
        || glob(pattern).is_ok_and(|glob| glob.is_match(&domain.name))
}

/// The domains that match a name, glob or UUID. As in the actor, the name of a domain is not read as a glob.
#[must_use]
pub fn matching<'a>(domains: &'a [Domain], pattern: &str) -> Vec<&'a Domain> {
    let is_name = domains.iter().any(|domain| domain.name == pattern);
    let matches = |domain: &&Domain| {
        if is_name { domain.name == pattern } else { matches_pattern(domain, pattern) }
    };
    domains.iter().filter(matches).collect()
}

/// The most similar name.
#[must_use]
pub fn nearest(domains: &[Domain], text: &str) -> Option<String> {
    let similarity =
        |domain: &Domain| strsim::jaro_winkler(&domain.name.to_lowercase(), &text.to_lowercase());
    let rated = domains.iter().map(|domain| (similarity(domain), domain));
    let best = rated.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.filter(|(similarity, _)| *similarity >= SIMILAR).map(|(_, domain)| domain.name.clone())
}

/// The names of all domains. Empty if the actor is not running, or the caller is not allowed to list them.
#[must_use]
pub fn candidates() -> Vec<CompletionCandidate> {
    let bus = bus(std::env::args_os().skip(1)).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return Vec::new() };
    let listed = runtime.block_on(async { timeout(TIMEOUT, Client::new(bus).domains()).await });
    let Ok(Ok(domains)) = listed else { return Vec::new() };
    domains.into_iter().filter_map(candidate).collect()
}

/// Returns `None` for a name with a control character, which would break the protocol between the program and the
/// shell.
fn candidate(domain: Domain) -> Option<CompletionCandidate> {
    let Domain { name, state, .. } = domain;
    (!name.contains(char::is_control)).then(|| CompletionCandidate::new(name).help(Some(state.into())))
}

/// The value of the `--bus` option on the command line that is being completed.
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

    #[test]
    fn matches_like_a_rule() {
        let domain =
            |name: &str| Domain { name: name.to_owned(), uuid: format!("uuid-{name}"), ..Domain::default() };
        let mut domains = vec![domain("win1"), domain("win2")];
        let names = |domains: &[Domain], pattern: &str| -> Vec<String> {
            matching(domains, pattern).into_iter().map(|domain| domain.name.clone()).collect()
        };
        assert_eq!(names(&domains, "win*"), ["win1", "win2"]);
        assert_eq!(names(&domains, "UUID-win2"), ["win2"]);
        assert_eq!(names(&domains, "win[1]"), ["win1"]);
        assert!(names(&domains, "[win1").is_empty());
        domains.push(domain("win[1]"));
        assert_eq!(names(&domains, "win[1]"), ["win[1]"]);
    }

    #[test]
    fn prefers_the_exact_name() {
        let domain = |name: &str, mac: &str| Domain {
            name: name.to_owned(),
            macs: vec![mac.to_owned()],
            ..Domain::default()
        };
        let domains =
            [domain("win11", "52:54:00:00:00:01"), domain("52:54:00:00:00:01", "52:54:00:00:00:02")];
        assert_eq!(find(&domains, "win11").unwrap(), [&domains[0]]);
        assert_eq!(find(&domains, "52:54:00:00:00:01").unwrap(), [&domains[1]]);
        assert_eq!(find(&domains, "52-54-00-00-00-02").unwrap(), [&domains[1]]);
        let error = find(&domains, "Win1").unwrap_err().to_string();
        assert!(error.contains("did you mean \"win11\"?"), "{error}");
    }
}
