//! The commands that fix problems, depending on how this host runs the services.

use wakevirt_service::bus::Address;

use crate::client::{Managed, Service};
use crate::quoting::{quote, toml_string};
use crate::verbs::allow;
use crate::verbs::caller::Caller;
use crate::verbs::doctor::observe::Observations;
use crate::verbs::units::Unit;

/// The unit of a service, in the service manager that runs it.
#[must_use]
pub fn unit(seen: &Observations, service: Service) -> Option<&Unit> {
    let units = if is_user_service(seen, service) { seen.user_units.as_ref()? } else { &seen.units };
    units.as_ref().ok()?.get(&format!("{}.service", service.unit())).filter(|unit| unit.is_installed())
}

/// Whether the service manager of the user runs the service.
fn is_user_service(seen: &Observations, service: Service) -> bool {
    service == Service::Actor && seen.address == Address::Session
}

fn process(seen: &Observations, service: Service) -> Option<u32> {
    match service {
        Service::Capture => seen.bus.capture_process,
        Service::Actor => seen.bus.actor_process,
    }
}

/// Adds sudo(8) to a command, unless the service runs as the user.
fn as_owner(seen: &Observations, service: Service, command: &str) -> String {
    if is_user_service(seen, service) { command.to_owned() } else { seen.caller.as_root(command) }
}

/// How to control a service.
#[must_use]
pub fn managed(seen: &Observations, service: Service) -> Managed<'_> {
    Managed::new(&seen.init, &seen.address, service)
}

/// A command that starts a service now and at each boot. `None` if the init system is unknown.
#[must_use]
pub fn enable(seen: &Observations, service: Service) -> Option<String> {
    Some(as_manager(seen, service, &managed(seen, service).enable()?))
}

/// A command that restarts a service, for [`as_manager`]. `None` if the init system is unknown.
#[must_use]
pub fn restart(seen: &Observations, service: Service) -> Option<String> {
    managed(seen, service).restart()
}

/// Adds sudo(8) to a command of the init system, if it needs root.
#[must_use]
pub fn as_manager(seen: &Observations, service: Service, command: &str) -> String {
    if managed(seen, service).needs_root() { seen.caller.as_root(command) } else { command.to_owned() }
}

/// A systemctl command for a service.
#[must_use]
pub fn systemctl(seen: &Observations, service: Service, action: &str) -> String {
    let user = if is_user_service(seen, service) { "--user " } else { "" };
    as_owner(seen, service, &format!("systemctl {user}{action} {}", service.unit()))
}

/// A command that makes a running service read its configuration again. `None` if there is none.
fn reload(seen: &Observations, service: Service) -> Option<String> {
    match (unit(seen, service).is_some_and(Unit::is_active), process(seen, service)) {
        (false, Some(pid)) => Some(format!("kill -HUP {pid}")),
        _ => managed(seen, service).reload(),
    }
}

/// Adds the next command, if there is one.
#[must_use]
pub fn then(first: String, second: Option<String>) -> String {
    second.into_iter().fold(first, |first, second| format!("{first} && {second}"))
}

/// The file that the service's `--config` option names.
fn file(seen: &Observations, service: Service) -> Option<&str> {
    match service {
        Service::Capture => seen.capture_config.as_ref().ok()?.file.as_deref(),
        Service::Actor => seen.actor_config.as_ref().ok()?.file.as_deref(),
    }
}

/// The directory that the actor's `--config-dir` option names.
fn directory(seen: &Observations) -> Option<&str> {
    seen.actor_config.as_ref().ok()?.directory.as_deref()
}

/// A command that adds a table to the actor's configuration. `name` becomes part of the drop-in's file name.
#[must_use]
pub fn add_table(seen: &Observations, name: &str, lines: &[String]) -> String {
    let words: Vec<String> = lines.iter().map(|line| quote(line)).collect();
    let folder = directory(seen).map(|directory| format!("{directory}/actor.d"));
    // Only the administrator's folder is part of the package.
    let create = folder.as_ref().map(|folder| format!("mkdir -p {} && ", quote(folder))).unwrap_or_default();
    let folder = folder.unwrap_or_else(|| "/etc/wakevirt/actor.d".to_owned());
    let target = match file(seen, Service::Actor) {
        Some(file) => format!(">>{}", quote(file)),
        None => format!(">{}", quote(&format!("{folder}/50-{}.toml", escaped(name)))),
    };
    let write = format!("{create}printf '%s\\n' {} {target}", words.join(" "));
    as_owner(seen, Service::Actor, &then(write, reload(seen, Service::Actor)))
}

/// A command that shows where the actor's configuration contains a text.
#[must_use]
pub fn find_in_actor_config(seen: &Observations, text: &str) -> String {
    let places = match (file(seen, Service::Actor), directory(seen)) {
        (Some(file), _) => quote(file),
        (None, directory) => quote(directory.unwrap_or("/etc/wakevirt")),
    };
    as_owner(seen, Service::Actor, &format!("grep -rHnF -e {} {places}", quote(text)))
}

/// A command that sets a key in capture.toml, and overrides its current value.
#[must_use]
pub fn set_in_capture(seen: &Observations, key: &str, value: &str) -> String {
    let line = format!("{key} = {value}");
    let write = match file(seen, Service::Capture) {
        Some(file) => {
            let file = quote(file);
            format!(
                "sed -i {} {file} && printf '%s\\n' {} >>{file}",
                quote(&format!("/^{key} *=/d")),
                quote(&line)
            )
        }
        None => format!("printf '%s\\n' {} >/etc/wakevirt/capture.d/zz-{key}.toml", quote(&line)),
    };
    let apply = if key == "mode" { restart(seen, Service::Capture) } else { reload(seen, Service::Capture) };
    seen.caller.as_root(&then(write, apply))
}

/// A command that allows packets that meet these conditions to wake a domain.
#[must_use]
pub fn allow(seen: &Observations, domain: &str, conditions: &[String]) -> String {
    if conditions.is_empty() && seen.address == Address::Session && directory(seen).is_some() {
        return allow::command("--bus session allow", domain);
    }
    let is_standard = file(seen, Service::Actor).is_none() && directory(seen).is_none();
    if conditions.is_empty() && seen.address == Address::System && is_standard {
        let command = allow::command("allow", domain);
        return match seen.caller {
            Caller::Root => command,
            Caller::User => format!("sudo {command}"),
        };
    }
    let table = [&["[[allow]]".to_owned(), format!("domain = {}", toml_string(domain))], conditions].concat();
    add_table(seen, &format!("allow-{domain}"), &table)
}

/// A command that gives a domain an additional address.
#[must_use]
pub fn alias(seen: &Observations, domain: &str, mac: &str) -> String {
    let table = [
        "[[alias]]".to_owned(),
        format!("mac = {}", toml_string(mac)),
        format!("domain = {}", toml_string(domain)),
    ];
    add_table(seen, &format!("alias-{}", mac.replace(':', "")), &table)
}

/// A virsh(1) command, with sudo(8) if it needs root.
#[must_use]
pub fn virsh(seen: &Observations, command: &str, uri: &str) -> String {
    let is_own = uri.contains("/session") || seen.caller == Caller::Root;
    if is_own { command.to_owned() } else { Caller::User.as_root(command) }
}

/// Replaces the characters that are unusual in a file name.
fn escaped(name: &str) -> String {
    let safe = |char: char| if char.is_ascii_alphanumeric() || "-_.".contains(char) { char } else { '_' };
    name.chars().map(safe).collect()
}
