//! The configuration: `actor.toml` and the command line.

mod autostart;
mod cluster;
mod options;

use core::fmt;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use toml::Spanned;
use wakevirt_service::config::{self, HumanDuration, Lines, toml_array, toml_string};
use wakevirt_service::logs::LogFilter;
use wakevirt_service::user::service_uid;

use crate::Error;
use crate::model::Program;
use crate::policy::alias::Alias;
use crate::policy::origin::Origin;
use crate::policy::rules::{MAX_URI, Metadata, Rule, Rules};
use crate::policy::{Policy, Timing};
use crate::privilege::USER;
pub use cluster::Scope;
use cluster::{Namespace, Selector};
pub use options::Options;

/// The administrator's configuration file, unless `--config` or `--config-dir` names a different one.
const FILE: &str = "/etc/wakevirt/actor.toml";
/// The maximum number of hypervisors.
const MAX_CONNECTIONS: usize = 16;
/// The maximum number of globs in all rules and aliases. Each glob takes about 10 to 75 KiB of memory.
const MAX_GLOBS: usize = 1024;
/// The minimum of `hold`: a packet that takes longer to reach the actor does not wake a domain.
const MIN_HOLD: Duration = Duration::from_secs(1);
/// The maximum of `hold`.
const MAX_HOLD: Duration = Duration::from_secs(7 * 24 * 3600);
/// The maximum of `shutdown-wait`.
const MAX_SHUTDOWN_WAIT: Duration = Duration::from_secs(24 * 3600);
/// The maximum of `cool-down`.
const MAX_COOL_DOWN: Duration = Duration::from_secs(24 * 3600);
/// The maximum number of rules, and of aliases. Each packet or domain is compared with all of them.
const MAX_TABLES: usize = 1024;

/// The configuration in effect, from files, options and defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The hypervisors' URIs (<https://libvirt.org/uri.html>).
    pub connections: Vec<String>,
    /// Which virtual machines of a cluster the actor knows.
    pub scope: Scope,
    /// Which messages are logged.
    pub log: LogFilter,
    /// The part that decisions depend on.
    pub policy: Policy,
}

impl Config {
    /// Reads the configuration files, and the passwords of the rules. Options take precedence over the files.
    ///
    /// # Errors
    /// The error names the file, and if possible the line, and says what to do.
    pub fn load(options: &Options, program: &Program) -> Result<Self, Error> {
        let mut config = Self::read(options, program)?;
        config.policy.rules.read_passwords()?;
        Ok(config)
    }

    /// Like [`Self::load`], but for `--check`. Skips the passwords that only the service can read, and returns their
    /// locations.
    ///
    /// # Errors
    /// Like [`Self::load`].
    pub fn check(options: &Options, program: &Program) -> Result<(Self, Vec<String>), Error> {
        let mut config = Self::read(options, program)?;
        let skipped = config.policy.rules.read_available_passwords()?;
        Ok((config, skipped))
    }

    fn read(options: &Options, program: &Program) -> Result<Self, Error> {
        if !options.connect.is_empty() {
            check_connections(&options.connect)
                .map_err(|problem| config::ConfigError::Option { option: "--connect", problem })?;
        }
        let owner = service_uid(USER);
        let file: ActorFile = match &options.config_dir {
            Some(directory) => config::load_directory(directory, owner)?,
            None => config::load(options.common.config.as_deref(), owner)?,
        };
        match program.is_cluster {
            true => file.check_libvirt_keys(program)?,
            false => file.check_cluster_keys(program)?,
        }
        let config = Self::new(file, options, program);
        check_uris(&config.connections, program).map_err(|problem| config::ConfigError::Option {
            option: if options.connect.is_empty() { "connections" } else { "--connect" },
            problem,
        })?;
        Ok(config)
    }

    fn new(file: ActorFile, options: &Options, program: &Program) -> Self {
        let connections = match &options.connect[..] {
            [] => file.connections.map_or_else(|| vec![program.uri.to_owned()], |it| it.0),
            uris => uris.to_vec(),
        };
        let default = Timing::default();
        let timing = Timing {
            hold: file.hold.map_or(default.hold, Into::into),
            shutdown_wait: file.shutdown_wait.map_or(default.shutdown_wait, Into::into),
            cool_down: file.cool_down.map_or(program.cool_down, Into::into),
            start_wait: file.start_wait.map_or(default.start_wait, Into::into),
        };
        let allow = file.allow.into_iter().map(Spanned::into_inner).collect();
        let namespaces = file.metadata_namespaces.unwrap_or_default().into_iter().map(|it| it.0).collect();
        let metadata = match (file.metadata.unwrap_or(true), program.is_cluster) {
            (false, _) => Metadata::Ignored,
            (true, false) => Metadata::Counts,
            (true, true) => Metadata::CountsIn(namespaces),
        };
        let rules =
            if program.is_cluster { Rules::of_cluster(allow, metadata) } else { Rules::new(allow, metadata) };
        let scope = Scope {
            namespaces: file.namespace_selector.map(|it| it.0),
            machines: file.vm_selector.map(|it| it.0),
        };
        let in_directory = options.config_dir.as_ref().map(|directory| directory.join("actor.toml"));
        let path = options.common.config.clone().or(in_directory).unwrap_or_else(|| FILE.into());
        let policy = Policy {
            rules,
            aliases: file.alias.into_iter().map(Spanned::into_inner).collect(),
            autostart: file.autostart.unwrap_or_default().into_iter().map(|it| it.0).collect(),
            timing,
            file: path,
        };
        Self { connections, scope, log: file.log.unwrap_or_default(), policy }
    }
}

impl fmt::Display for Config {
    /// Writes the configuration in the format of `actor.toml`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Policy { rules, aliases, autostart, timing, file: _ } = &self.policy;
        let shown = |duration| format!("\"{}\"", HumanDuration::from(duration));
        writeln!(f, "connections = {}", toml_array(&self.connections))?;
        for (key, selector) in
            [("namespace-selector", &self.scope.namespaces), ("vm-selector", &self.scope.machines)]
        {
            selector.iter().try_for_each(|selector| writeln!(f, "{key} = {}", toml_string(selector)))?;
        }
        writeln!(f, "metadata = {}", *rules.metadata() != Metadata::Ignored)?;
        if let Metadata::CountsIn(namespaces) = rules.metadata() {
            let namespaces: Vec<_> = namespaces.iter().cloned().collect();
            writeln!(f, "metadata-namespaces = {}", toml_array(&namespaces))?;
        }
        if !rules.is_of_cluster() {
            writeln!(f, "autostart = {}", toml_array(autostart))?;
        }
        writeln!(f, "hold = {}\nshutdown-wait = {}", shown(timing.hold), shown(timing.shutdown_wait))?;
        if rules.is_of_cluster() {
            writeln!(f, "start-wait = {}", shown(timing.start_wait))?;
        }
        write!(f, "cool-down = {}\nlog = \"{}\"", shown(timing.cool_down), self.log)?;
        rules.iter().try_for_each(|rule| {
            write!(f, "\n\n[[allow]]\n{}", rule.keys().collect::<Vec<_>>().join("\n"))
        })?;
        aliases.iter().try_for_each(|alias| write!(f, "\n\n[[alias]]\n{alias}"))
    }
}

/// The keys of one file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct ActorFile {
    connections: Option<Connections>,
    metadata: Option<bool>,
    #[serde(deserialize_with = "autostart::names")]
    autostart: Option<Vec<autostart::Name>>,
    /// The file with the key `autostart`.
    #[serde(skip)]
    autostart_file: Option<Arc<Path>>,
    #[serde(deserialize_with = "hold")]
    hold: Option<HumanDuration>,
    #[serde(deserialize_with = "shutdown_wait")]
    shutdown_wait: Option<HumanDuration>,
    #[serde(deserialize_with = "cool_down")]
    cool_down: Option<HumanDuration>,
    namespace_selector: Option<Selector>,
    vm_selector: Option<Selector>,
    #[serde(deserialize_with = "cluster::namespaces")]
    metadata_namespaces: Option<Vec<Namespace>>,
    #[serde(deserialize_with = "cluster::start_wait")]
    start_wait: Option<HumanDuration>,
    /// A key that only the program for a cluster has, and its file.
    #[serde(skip)]
    cluster_key: Option<(Arc<Path>, &'static str)>,
    log: Option<LogFilter>,
    #[serde(deserialize_with = "allow")]
    allow: Vec<Spanned<Rule>>,
    #[serde(deserialize_with = "alias")]
    alias: Vec<Spanned<Alias>>,
}

impl ActorFile {
    /// A key that only the program for a cluster has.
    fn cluster_key(&self) -> Option<&'static str> {
        let keys = [
            ("namespace-selector", self.namespace_selector.is_some()),
            ("vm-selector", self.vm_selector.is_some()),
            ("metadata-namespaces", self.metadata_namespaces.is_some()),
            ("start-wait", self.start_wait.is_some()),
        ];
        keys.into_iter().find_map(|(key, is_present)| is_present.then_some(key))
    }

    /// Rejects the key that only the program for libvirt has.
    fn check_libvirt_keys(&self, program: &Program) -> Result<(), config::ConfigError> {
        let Some(file) = &self.autostart_file else { return Ok(()) };
        let problem = format!(
            "the key autostart is for wakevirt-actor; remove it: {} does not use it, because KubeVirt starts virtual \
             machines according to their run strategy",
            program.name
        );
        Err(config::ConfigError::Limit { path: file.to_path_buf(), problem })
    }

    /// Rejects the keys that only the program for a cluster has.
    fn check_cluster_keys(&self, program: &Program) -> Result<(), config::ConfigError> {
        let key = self.cluster_key.clone().map(|(file, key)| (file, None, key));
        let in_rule = self.allow.iter().find_map(|rule| {
            let (rule, key) = (rule.get_ref(), rule.get_ref().cluster_key()?);
            rule.origin().map(|origin| (Arc::clone(&origin.file), Some(origin.line), key))
        });
        let Some((file, line, key)) = key.or(in_rule) else { return Ok(()) };
        let rule = line.map(|line| format!(" in the rule in line {line}")).unwrap_or_default();
        let problem = format!(
            "the key {key}{rule} is for wakevirt-kubevirt; remove it: {} does not use it",
            program.name
        );
        Err(config::ConfigError::Limit { path: file.to_path_buf(), problem })
    }
}

fn hold<'de, D: Deserializer<'de>>(input: D) -> Result<Option<HumanDuration>, D::Error> {
    config::duration(input, MIN_HOLD..=MAX_HOLD).map(Some)
}

fn shutdown_wait<'de, D: Deserializer<'de>>(input: D) -> Result<Option<HumanDuration>, D::Error> {
    config::duration(input, Duration::ZERO..=MAX_SHUTDOWN_WAIT).map(Some)
}

fn cool_down<'de, D: Deserializer<'de>>(input: D) -> Result<Option<HumanDuration>, D::Error> {
    config::duration(input, Duration::ZERO..=MAX_COOL_DOWN).map(Some)
}

fn allow<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<Spanned<Rule>>, D::Error> {
    let globs = config::PartLimit {
        count: |rule: &Spanned<Rule>| rule.get_ref().glob_count(),
        max: MAX_GLOBS,
        name: "globs in [[allow]] tables",
    };
    config::list_with_parts(input, MAX_TABLES, "[[allow]] tables", globs)
}

fn alias<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<Spanned<Alias>>, D::Error> {
    config::list(input, MAX_TABLES, "[[alias]] tables")
}

impl config::Layer for ActorFile {
    const SERVICE: &'static str = "actor";

    fn over(self, lower: Self) -> Self {
        Self {
            connections: self.connections.or(lower.connections),
            metadata: self.metadata.or(lower.metadata),
            autostart: self.autostart.or(lower.autostart),
            autostart_file: self.autostart_file.or(lower.autostart_file),
            hold: self.hold.or(lower.hold),
            shutdown_wait: self.shutdown_wait.or(lower.shutdown_wait),
            cool_down: self.cool_down.or(lower.cool_down),
            namespace_selector: self.namespace_selector.or(lower.namespace_selector),
            vm_selector: self.vm_selector.or(lower.vm_selector),
            metadata_namespaces: self.metadata_namespaces.or(lower.metadata_namespaces),
            start_wait: self.start_wait.or(lower.start_wait),
            cluster_key: self.cluster_key.or(lower.cluster_key),
            log: self.log.or(lower.log),
            // The log shows the first matching rule, so the administrator's rules come first.
            allow: [self.allow, lower.allow].concat(),
            alias: [self.alias, lower.alias].concat(),
        }
    }

    fn located(self, file: &Path, lines: &Lines) -> Self {
        let file: Arc<Path> = file.into();
        let origin = |span: core::ops::Range<usize>| Origin {
            file: Arc::clone(&file),
            line: lines.line_at(span.start),
        };
        let cluster_key = self.cluster_key().map(|key| (Arc::clone(&file), key));
        let autostart_file = self.autostart.is_some().then(|| Arc::clone(&file));
        let allow = self.allow.into_iter().map(|rule| {
            let span = rule.span();
            Spanned::new(span.clone(), rule.into_inner().at(origin(span)))
        });
        let alias = self.alias.into_iter().map(|alias| {
            let span = alias.span();
            Spanned::new(span.clone(), alias.into_inner().at(origin(span)))
        });
        Self { allow: allow.collect(), alias: alias.collect(), cluster_key, autostart_file, ..self }
    }

    fn check_limits(&self) -> Result<(), String> {
        for (key, tables) in [("allow", self.allow.len()), ("alias", self.alias.len())] {
            if tables > MAX_TABLES {
                return Err(format!(
                    "this file and those read before it contain more than {MAX_TABLES} [[{key}]] tables; combine some of them"
                ));
            }
        }
        let aliases = self.alias.iter().filter(|alias| alias.get_ref().is_glob()).count();
        if aliases + self.allow.iter().map(|rule| rule.get_ref().glob_count()).sum::<usize>() > MAX_GLOBS {
            return Err(format!(
                "this file and those read before it contain more than {MAX_GLOBS} globs in [[allow]] and [[alias]] tables; \
                 combine some of them"
            ));
        }
        Ok(())
    }
}

/// The `connections` key.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
struct Connections(Vec<String>);

impl TryFrom<Vec<String>> for Connections {
    type Error = String;

    fn try_from(uris: Vec<String>) -> Result<Self, Self::Error> {
        check_connections(&uris).map(|()| Self(uris))
    }
}

/// Checks that the program can use these URIs.
fn check_uris(uris: &[String], program: &Program) -> Result<(), String> {
    uris.iter().try_for_each(|uri| (program.check_uri)(uri))
}

/// Checks a list of hypervisor URIs: the list must not be empty or contain a URI twice. The URIs are not parsed.
fn check_connections(uris: &[String]) -> Result<(), String> {
    if uris.is_empty() {
        return Err("the list is empty; write at least one URI, such as \"qemu:///system\"".to_owned());
    }
    if uris.len() > MAX_CONNECTIONS {
        return Err(format!("{} connections; the maximum is {MAX_CONNECTIONS}", uris.len()));
    }
    if uris.iter().any(String::is_empty) {
        return Err("a URI is empty; write one such as \"qemu:///system\"".to_owned());
    }
    uris.iter().try_for_each(|uri| config::check_text(uri, MAX_URI))?;
    if uris.iter().collect::<BTreeSet<_>>().len() < uris.len() {
        return Err("the list contains a URI twice; write it once".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
