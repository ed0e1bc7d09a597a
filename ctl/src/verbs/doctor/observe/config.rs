//! The configuration of the services, as they print it with `--check`.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::client::Service;
use crate::program::run;
use crate::quoting::quote;
use crate::verbs::finding::{Seen, not_checked};

/// The keys of capture.toml that doctor compares with the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CaptureConfig {
    /// How it receives packets.
    pub mode: String,
    /// The interfaces, or globs of them; `!` excludes.
    pub interfaces: Vec<String>,
}

/// The keys of actor.toml that doctor compares with the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ActorConfig {
    /// The hypervisors.
    pub connections: Vec<String>,
    /// The rules.
    pub allow: Vec<Rule>,
    /// The additional addresses.
    pub alias: Vec<Alias>,
}

/// A rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// The domain, or a glob of names.
    pub domain: Option<String>,
    /// The interfaces, or globs of them.
    pub interfaces: Vec<String>,
    /// The VLANs.
    pub vlans: Vec<u16>,
}

/// An additional address of a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Alias {
    /// The address.
    pub mac: String,
    /// The domain.
    pub domain: String,
}

/// The configuration of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config<T> {
    /// The keys, or the error of the service.
    pub keys: Result<T, String>,
    /// The file that the `--config` option names, which is read instead of the standard files.
    pub file: Option<String>,
    /// The directory that the `--config-dir` option names, which is read instead of the standard directories.
    pub directory: Option<String>,
}

/// Reads the configuration of a service: runs this program with `--check` and with the options of the running process.
///
/// # Errors
/// If the caller is not allowed to read it.
pub fn read<T: DeserializeOwned + Default>(
    service: Service,
    name: &str,
    process: Option<u32>,
) -> Seen<Config<T>> {
    let options = process.map(options).unwrap_or_default();
    let program = program(name);
    let arguments: Vec<&str> = options.iter().map(String::as_str).chain(["--check"]).collect();
    let line: Vec<String> = [name].iter().chain(&arguments).map(|word| quote(word)).collect();
    let what = format!("the configuration of {}", service.unit());
    let failed = |reason: String| not_checked(&what, reason, format!("sudo {}", line.join(" ")));
    let output = run(&program, &arguments).map_err(failed)?;
    let value = |name: &str| {
        let index = options.iter().position(|it| it == name)?;
        options.get(index + 1).cloned()
    };
    let (file, directory) = (value("--config"), value("--config-dir"));
    if output.success {
        let keys = toml::from_str(&output.stdout).map_err(|error| failed(error.to_string()))?;
        return Ok(Config { keys: Ok(keys), file, directory });
    }
    // Only root can read some files. This is not an error in the configuration.
    if output.stderr.contains("ermission denied") {
        return Err(failed(output.error()));
    }
    let error = output.error();
    let error = error.split_once(": ").map_or(error.as_str(), |(_, error)| error).to_owned();
    Ok(Config { keys: Err(error), file, directory })
}

/// The program of a service: in the directory of this program, or otherwise in PATH.
fn program(name: &str) -> String {
    let own = std::env::current_exe().unwrap_or_default();
    let beside = own.parent().unwrap_or(Path::new("/usr/bin")).join(name);
    if beside.exists() { beside.to_string_lossy().into_owned() } else { name.to_owned() }
}

/// The options of a running service that select its configuration.
fn options(process: u32) -> Vec<String> {
    let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let words = line.split(|byte| *byte == 0).skip(1).filter(|word| !word.is_empty());
    let mut words = words.map(|word| String::from_utf8_lossy(word).into_owned());
    let mut options = Vec::new();
    while let Some(word) = words.next() {
        let (name, value) =
            word.split_once('=').map_or((word.as_str(), None), |(name, value)| (name, Some(value)));
        if ["--config", "--config-dir", "--connect", "--mode", "--interface", "--listen"].contains(&name) {
            let value = value.map(str::to_owned).or_else(|| words.next());
            options.push(name.to_owned());
            options.extend(value);
        }
    }
    options
}
