//! An executable in `/etc/wakevirt/host.d`, which libvirt's hook runs on a host without systemd.

use wakevirt_service::init::Init;

use super::files::NewFiles;
use super::{Arguments, NewError, check_pattern, time};
use crate::quoting::quote;

/// The executable, with NAME, DOMAINS, CONDITION, BEFORE, START, AFTER and STOP to replace.
const SKELETON: &str = include_str!("hook.sh");

/// Whether this host runs executables instead of units.
pub(super) fn is_needed() -> bool {
    !Init::running().is_systemd()
}

/// The executable, and what to do next.
pub(super) fn files(arguments: &Arguments) -> Result<NewFiles, NewError> {
    let name = &arguments.name;
    if name.contains('.') {
        return Err(NewError::ExecutableName(name.clone()));
    }
    let path = format!("/etc/wakevirt/host.d/{name}");
    let mut files = NewFiles::default();
    files.executable(&path, script(arguments)?);
    files.command("replace the example's commands", format!("editor {}", quote(&path)));
    Ok(files)
}

fn script(arguments: &Arguments) -> Result<String, NewError> {
    let (domains, condition) = match &arguments.domains {
        None => ("every domain".to_owned(), String::new()),
        Some(pattern) => {
            check_pattern(pattern)?;
            (format!("the domains whose names match {pattern}"), condition(pattern))
        }
    };
    let (start, stop) = if arguments.running { ("started", "stopped") } else { ("prepare", "release") };
    let (before, after) = time(arguments.running);
    let replacements = [
        ("@NAME@", arguments.name.as_str()),
        ("@DOMAINS@", &domains),
        ("@BEFORE@", &before.replace("`prepare-wait` in wakevirt-host.toml(5)", "two minutes")),
        ("@START@", start),
        ("@AFTER@", after),
        ("@STOP@", stop),
        ("@CONDITION@\n", &condition),
    ];
    Ok(replacements.iter().fold(SKELETON.to_owned(), |text, (from, to)| text.replace(from, to)))
}

/// The condition on the name of the domain. The shell compares the name with the pattern and runs nothing from either.
fn condition(pattern: &str) -> String {
    format!(
        "\n# Only for these domains.\ndomains={}\ncase $1 in $domains) ;; *) exit ;; esac\n\n",
        quote(pattern)
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn arguments(name: &str, domains: Option<&str>, running: bool) -> Arguments {
        let domains = domains.map(str::to_owned);
        Arguments { all: domains.is_none(), domains, running, name: name.to_owned() }
    }

    /// What the script does for a domain and an operation: it logs its message, with a function instead of logger(1).
    fn logged(arguments: &Arguments, domain: &str, operation: &str) -> String {
        let script = format!("logger() {{ shift 3; printf %s \"$*\"; }}\n{}", script(arguments).unwrap());
        let output = Command::new("sh").args(["-euc", &script, "sh", domain, operation]).output().unwrap();
        assert!(output.status.success(), "{script}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn runs_for_the_domains_and_operations() {
        let domain = r#"-it's 100% "$HOME""#;
        for (pattern, matches) in [
            (None, true),
            (Some("-it's*"), true),
            (Some("-it?s 100% \"$HOME\""), true),
            (Some("win*"), false),
        ] {
            for (running, start, stop) in [(false, "prepare", "release"), (true, "started", "stopped")] {
                let arguments = arguments("gpu", pattern, running);
                for (operation, word) in [(start, "before"), (stop, "after"), ("other", "")] {
                    let expected =
                        if matches && !word.is_empty() { format!("{word} {domain}") } else { String::new() };
                    assert_eq!(logged(&arguments, domain, operation), expected, "{pattern:?} {operation}");
                }
                assert!(!script(&arguments).unwrap().contains('@'));
            }
        }
    }

    #[test]
    fn rejects_names_and_patterns() {
        assert!(files(&arguments("a.sh", None, false)).is_err());
        assert!(files(&arguments("a", Some("a\nb"), false)).is_err());
    }
}
