//! `wakevirtctl host new`: writes a unit of the administrator's own, which runs before a domain starts and after it has
//! stopped; without systemd, an executable.

mod error;
mod executable;
mod files;

use std::path::Path;

use wakevirt_service::config::{BadGlob, glob};

use crate::error::Error;
use crate::exit::Exit;
use crate::output::Output;
use crate::quoting::{quote, toml_string, unit_word};

pub use error::NewError;
pub use files::NewFiles;

/// The directories of units, in the order of systemd.unit(5).
const UNITS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// The unit that `new` writes, with NAME, DOMAINS, TARGET, BEFORE, AFTER and CONDITION to replace.
const SKELETON: &str = include_str!("hook.service");
/// The maximum length of a name, in bytes. The name of a unit also contains the name of a domain.
const MAX_NAME: usize = 64;

/// The options.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Only for the domain with this name, or for all domains whose names match this glob
    ///
    /// The pattern is a glob of sh(1): it can contain *, ? and [...], but not {...}.
    #[arg(long = "for", value_name = "GLOB", required_unless_present = "all", conflicts_with = "all")]
    domains: Option<String>,

    /// For all domains
    #[arg(long)]
    all: bool,

    /// Run the unit while the domain runs, instead of before it starts
    ///
    /// The unit is started when the domain runs, and libvirt does not wait for it.
    #[arg(long)]
    running: bool,

    /// The name of the new unit: letters, digits, "-", "_" and "."
    #[arg(value_name = "NAME")]
    name: String,
}

/// Writes the unit and the configuration that makes wakevirt-host start it, or the executable.
///
/// # Errors
/// If the name or the pattern is invalid, or a file exists or cannot be written.
pub fn run(arguments: &Arguments, output: &mut Output) -> Result<Exit, Error> {
    check_name(&arguments.name)?;
    let files = if executable::is_needed() { executable::files(arguments)? } else { unit_files(arguments)? };
    files.write(&command(arguments))?;
    files.print(output)?;
    Ok(Exit::Success)
}

fn unit_files(arguments: &Arguments) -> Result<NewFiles, NewError> {
    let name = &arguments.name;
    let unit = format!("{name}@.service");
    if let Some(path) = UNITS.iter().map(|folder| Path::new(folder).join(&unit)).find(|path| path.exists()) {
        return Err(NewError::Exists(path));
    }
    let mut files = NewFiles::default();
    let path = format!("/etc/systemd/system/{unit}");
    files.file(&path, skeleton(arguments)?);
    let pattern = arguments.domains.as_deref().unwrap_or("*");
    let table = format!(
        "# Written by \"wakevirtctl host new\": makes wakevirt-host start {unit} for these domains.\n\
         [[domain]]\nmatch = {}\n",
        toml_string(pattern)
    );
    files.file(format!("/etc/wakevirt/host.d/50-{name}.toml"), table);
    files.command("replace the example's commands", format!("editor {}", quote(&path)));
    files.command("from now on, start it for each domain", format!("systemctl enable {}", quote(&unit)));
    files.command("read the new table", "systemctl reload-or-restart wakevirt-host".to_owned());
    Ok(files)
}

/// The command that the caller has run, quoted for a shell.
fn command(arguments: &Arguments) -> String {
    let mut words = vec!["wakevirtctl host new".to_owned(), quote(&arguments.name)];
    words.extend(arguments.domains.as_deref().map(|pattern| format!("--for={}", quote(pattern))));
    words.extend(arguments.all.then(|| "--all".to_owned()));
    words.extend(arguments.running.then(|| "--running".to_owned()));
    words.join(" ")
}

fn check_name(name: &str) -> Result<(), NewError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let starts_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    // wakevirt's own units have this prefix, and wakevirt-host can start and stop them.
    let is_own = name.starts_with("wakevirt-");
    if !starts_well || is_own || name.len() > MAX_NAME || !name.bytes().all(is_plain) {
        return Err(NewError::UnitName { name: name.to_owned(), max: MAX_NAME });
    }
    Ok(())
}

/// When the two commands run.
const fn time(running: bool) -> (&'static str, &'static str) {
    if running {
        ("When the domain runs. Nothing waits for this command.", "When the domain has stopped.")
    } else {
        (
            "Before the domain starts. libvirt waits for this command, at most `prepare-wait` in wakevirt-host.toml(5).",
            "After the domain has stopped and libvirt has released its devices.",
        )
    }
}

/// Checks a pattern for domains.
fn check_pattern(pattern: &str) -> Result<(), NewError> {
    let bad = |reason: String| NewError::Pattern { text: pattern.to_owned(), reason };
    match glob(pattern) {
        Ok(_) | Err(BadGlob::Syntax(_)) => {}
        Err(error) => return Err(bad(error.to_string())),
    }
    if pattern.is_empty() || pattern.contains(['{', '}']) || pattern.chars().any(char::is_control) {
        return Err(bad("it is empty, or contains braces or control characters".to_owned()));
    }
    Ok(())
}

/// The unit.
fn skeleton(arguments: &Arguments) -> Result<String, NewError> {
    let (domains, condition) = match &arguments.domains {
        None => ("every domain".to_owned(), String::new()),
        Some(pattern) => {
            check_pattern(pattern)?;
            (format!("the domains whose names match {pattern}"), condition(pattern))
        }
    };
    let target = if arguments.running { "wakevirt-domain@" } else { "wakevirt-prepare@" };
    let (before, after) = time(arguments.running);
    let replacements = [
        ("@NAME@", arguments.name.as_str()),
        ("@DOMAINS@", &domains),
        ("@TARGET@", target),
        ("@BEFORE@", before),
        ("@AFTER@", after),
        ("@CONDITION@\n", &condition),
    ];
    Ok(replacements.iter().fold(SKELETON.to_owned(), |text, (from, to)| text.replace(from, to)))
}

/// The condition on the name of the domain. The shell compares the name with the pattern and runs nothing from either.
fn condition(pattern: &str) -> String {
    format!(
        "# Only for these domains. `:` turns off the replacement of variables, because a name can contain `$`.\n\
         ExecCondition=:/bin/sh -c 'case $1 in $0) exit 0 ;; esac; exit 1' {} %I\n",
        unit_word(pattern)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(name: &str, domains: Option<&str>, running: bool) -> Arguments {
        let domains = domains.map(str::to_owned);
        Arguments { all: domains.is_none(), domains, running, name: name.to_owned() }
    }

    #[test]
    fn fills_in_the_skeleton() {
        for (domains, running) in [(Some("win*"), false), (None, true), (Some("it's 100%"), false)] {
            let unit = skeleton(&arguments("gpu", domains, running)).unwrap();
            let target = if running { "wakevirt-domain@" } else { "wakevirt-prepare@" };
            assert!(unit.contains(&format!("\nPartOf={target}%i.target\n")), "{unit}");
            assert!(unit.ends_with(&format!("\nWantedBy={target}.target\n")), "{unit}");
            assert_eq!(unit.matches("\nExecCondition=").count(), usize::from(domains.is_some()), "{unit}");
            for placeholder in ["@NAME@", "@DOMAINS@", "@TARGET@", "@BEFORE@", "@AFTER@", "@CONDITION@"] {
                assert!(SKELETON.contains(placeholder) && !unit.contains(placeholder), "{unit}");
            }
        }
        let unit = skeleton(&arguments("gpu", Some("it's 100%"), false)).unwrap();
        assert!(unit.contains(r#"exit 1' "it's 100%%" %I"#), "{unit}");
    }

    #[test]
    fn rejects_names_and_patterns_that_a_unit_cannot_have() {
        for name in ["", "-a", ".a", "a/b", "a@b", "wakevirt-prepare", "a b", "ä", &"a".repeat(65)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["gpu", "0", "a.b_c-d", "wakevirt"] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
        for pattern in ["", "{a,b}", "a\nb"] {
            assert!(skeleton(&arguments("a", Some(pattern), false)).is_err(), "{pattern:?}");
        }
    }

    #[test]
    fn repeats_the_command_for_root() {
        let line = command(&arguments("gpu", Some("my vm*"), true));
        assert_eq!(line, "wakevirtctl host new gpu --for='my vm*' --running");
        assert_eq!(command(&arguments("gpu", None, false)), "wakevirtctl host new gpu --all");
    }
}
