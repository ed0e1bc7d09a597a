//! The units of the services and of their dependencies, as `systemctl show` prints them for the caller.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use wakevirt_service::init::Init;

use crate::program::run;
use crate::verbs::finding::{Seen, not_checked};

/// The properties that doctor reads: org.freedesktop.systemd1(5).
const PROPERTIES: &str = "Id,LoadState,ActiveState,SubState,UnitFileState,Result,NRestarts,ExecMainStatus,StatusText,\
                          DropInPaths,SupplementaryGroups,AmbientCapabilities,MainPID,FragmentPath";

/// The system units.
const SYSTEM: [&str; 24] = [
    "wakevirt-capture.service",
    "wakevirt-capture.socket",
    "wakevirt-capture-links.socket",
    "wakevirt-actor.service",
    "libvirtd.service",
    "libvirtd.socket",
    "virtqemud.service",
    "virtqemud.socket",
    "virtproxyd.service",
    "virtproxyd.socket",
    "virtnetworkd.service",
    "virtnetworkd.socket",
    "virtstoraged.service",
    "virtstoraged.socket",
    "virtnwfilterd.service",
    "virtnwfilterd.socket",
    "virtsecretd.service",
    "virtsecretd.socket",
    "dbus.service",
    "wakevirt-host.service",
    "wakevirt-host.socket",
    "wakevirt-sleep.service",
    "wakevirt-suspend.service",
    "wakevirt-shutdown.service",
];
/// The user units.
const USER: [&str; 2] = ["wakevirt-actor.service", "wakevirt-libvirtd.service"];

/// The maximum number of log lines that doctor shows.
const LOG_LINES: usize = 3;

/// How often doctor reads the units again while a service is starting. Until then, systemd does not report why the last
/// start failed.
const STARTING_READS: u32 = 20;
/// The time between these reads.
const STARTING_INTERVAL: Duration = Duration::from_millis(100);

/// One unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    properties: BTreeMap<String, String>,
    /// The latest warnings in its log, if it is the actor or is not active. Empty if the caller is not allowed to read
    /// them.
    pub log: Vec<String>,
}

impl Unit {
    /// A property; empty if it is unknown.
    #[must_use]
    pub fn get(&self, property: &str) -> &str {
        self.properties.get(property).map_or("", String::as_str)
    }

    /// Whether systemd has loaded it from a file.
    #[must_use]
    pub fn is_installed(&self) -> bool {
        !matches!(self.get("LoadState"), "" | "not-found")
    }

    /// Whether it is active.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.get("ActiveState") == "active"
    }

    /// Whether it is masked.
    #[must_use]
    pub fn is_masked(&self) -> bool {
        self.get("LoadState") == "masked"
    }

    /// Whether it is one of wakevirt's units, and systemd is starting or stopping it right now. A unit that waits for its
    /// next restart is not.
    fn is_changing(&self) -> bool {
        let state = (self.get("ActiveState"), self.get("SubState"));
        self.get("Id").starts_with("wakevirt-")
            && matches!(state, ("activating" | "deactivating", sub) if !sub.starts_with("auto-restart"))
    }

    /// A property that is a number.
    #[must_use]
    pub fn number(&self, property: &str) -> u32 {
        self.get(property).parse().unwrap_or(0)
    }
}

/// All units, by name.
pub type Units = BTreeMap<String, Unit>;

/// Reads the system units.
///
/// # Errors
/// If systemd is not running on the host.
pub fn system() -> Seen<Units> {
    read(&[], &SYSTEM)
}

/// Reads the caller's user units.
///
/// # Errors
/// If the caller has no service manager.
pub fn user() -> Seen<Units> {
    read(&["--user"], &USER)
}

fn read(options: &[&str], names: &[&str]) -> Seen<Units> {
    let init = Init::running();
    // systemctl can be installed although another init system is running.
    if let Some((name, status)) =
        init.name().zip(init.status("wakevirt-actor")).filter(|_| !init.is_systemd())
    {
        return Err(not_checked("the units of systemd", format!("{name} runs this host"), status));
    }
    let property = format!("--property={PROPERTIES}");
    let arguments = [options, &["show", &property], names].concat();
    let command = [&["systemctl"], options, &["status", "'wakevirt-*'"]].concat().join(" ");
    let failed = |reason: String| not_checked("the units", reason, &command);
    let read = || {
        let output = run("systemctl", &arguments).map_err(failed)?;
        if output.success { Ok(parse(&output.stdout)) } else { Err(failed(output.error())) }
    };
    let mut units = read()?;
    for _ in 0..STARTING_READS {
        if !units.values().any(Unit::is_changing) {
            break;
        }
        sleep(STARTING_INTERVAL);
        units = read()?;
    }
    for (name, unit) in &mut units {
        let is_own = name.starts_with("wakevirt-") && unit.is_installed();
        // Without a connection to libvirt, the actor keeps running, and logs the reason.
        if is_own && (!unit.is_active() || name == "wakevirt-actor.service") {
            unit.log = log(options, name);
        }
    }
    Ok(units)
}

/// Parses the output of `systemctl show`: one block for each unit, separated by empty lines.
#[must_use]
pub fn parse(text: &str) -> Units {
    let unit = |block: &str| {
        let pairs = block.lines().filter_map(|line| line.split_once('='));
        let properties = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Unit { properties, log: Vec::new() }
    };
    let units = text.split("\n\n").map(unit).filter(|unit| !unit.get("Id").is_empty());
    units.map(|unit| (unit.get("Id").to_owned(), unit)).collect()
}

/// The latest warnings and errors from a service, without those that systemd logs about it.
fn log(options: &[&str], unit: &str) -> Vec<String> {
    let field = if options.is_empty() { "_SYSTEMD_UNIT" } else { "_SYSTEMD_USER_UNIT" };
    let unit = format!("{field}={unit}");
    let arguments = ["--quiet", "--no-pager", "--output=cat", "--lines=40", "--priority=warning", &unit];
    let Ok(output) = run("journalctl", &arguments) else { return Vec::new() };
    let mut lines: Vec<String> = output.stdout.lines().map(str::to_owned).collect();
    lines.dedup();
    lines.split_off(lines.len().saturating_sub(LOG_LINES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_output_of_systemctl() {
        let units = parse(
            "Id=a.service\nLoadState=masked\nNRestarts=7\n\nId=b.socket\nLoadState=not-found\nStatusText=a=b\n",
        );
        assert!(units["a.service"].is_masked() && units["a.service"].number("NRestarts") == 7);
        assert!(!units["b.socket"].is_installed() && units["b.socket"].get("StatusText") == "a=b");
    }

    #[test]
    fn unit_that_waits_for_a_restart_is_not_changing() {
        let is_changing = |id: &str, active: &str, sub: &str| {
            let units = parse(&format!("Id={id}\nActiveState={active}\nSubState={sub}\n"));
            units[id].is_changing()
        };
        assert!(is_changing("wakevirt-actor.service", "activating", "start"));
        assert!(is_changing("wakevirt-actor.service", "deactivating", "stop-sigterm"));
        assert!(!is_changing("wakevirt-actor.service", "activating", "auto-restart"));
        assert!(!is_changing("wakevirt-actor.service", "active", "running"));
        assert!(!is_changing("libvirtd.service", "activating", "start"));
    }
}
