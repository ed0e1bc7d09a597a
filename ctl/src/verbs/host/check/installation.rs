//! The hook, the services, and the tables of host.toml.

use std::path::Path;

use wakevirt_host::config::Settings;
use wakevirt_service::logs::quoted;

use super::observe::{HOOK, Seen};
use crate::verbs::finding::Finding;

/// The program of the hook.
const PROGRAM: &str = "/usr/sbin/wakevirt-hook";
/// The directories from which AppArmor's profile of libvirtd allows programs to run.
const ALLOWED: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Finds what prevents the preparation of the host for all domains.
#[must_use]
pub fn check(seen: &Seen) -> Vec<Finding> {
    if !seen.has_tables {
        let problem = "host.toml contains no [[domain]] table, so the host is not prepared for any domain";
        return vec![Finding::note("host-unconfigured", problem).advice(
            "wakevirt-host.toml(5) describes the tables. \"wakevirtctl host import\" proposes tables for the hooks of other projects.",
        )];
    }
    let mut findings = hook(seen);
    let uses = |wants: fn(&Settings) -> bool| seen.domains.iter().any(|domain| wants(&domain.settings));
    findings.extend(service(seen, "wakevirt-host.service"));
    for (unit, is_used) in [
        ("wakevirt-sleep.service", uses(|it| it.nosleep.is_some())),
        ("wakevirt-suspend.service", uses(|it| it.sleep.is_some())),
        ("wakevirt-shutdown.service", uses(|it| it.shutdown.is_some())),
    ] {
        if is_used {
            findings.extend(service(seen, unit));
        }
    }
    for pattern in &seen.unmatched {
        let problem = format!("match = {} in host.toml matches no domain", quoted(pattern));
        findings.push(Finding::note("host-table-unused", problem));
    }
    findings
}

fn hook(seen: &Seen) -> Vec<Finding> {
    let reload = |unit: &str| format!("systemctl reload {unit}");
    let Some(target) = &seen.hook.target else {
        let units = seen.daemons.iter().map(|daemon| format!(" && {}", reload(daemon.unit)));
        let folder = Path::new(HOOK).parent().unwrap_or(Path::new("/")).display();
        let link = format!("mkdir -p {folder} && ln -sfn {PROGRAM} {HOOK}{}", units.collect::<String>());
        let problem = format!("libvirt's hook {HOOK} does not exist, or leads to no program");
        return vec![Finding::error("host-hook-missing", problem).fix(seen.caller.as_root(&link))];
    };
    let is_allowed = target.parent().is_some_and(|parent| ALLOWED.iter().any(|it| Path::new(it) == parent));
    if seen.apparmor && !is_allowed {
        let problem =
            "AppArmor's profile of libvirtd does not allow the hook to run, and then no domain starts";
        let finding = Finding::error("host-hook-denied", problem);
        let link = format!("ln -sfn {PROGRAM} {HOOK}");
        return vec![
            finding.seen(format!("{HOOK} leads to {}", target.display())).fix(seen.caller.as_root(&link)),
        ];
    }
    let is_unread = |daemon: &&super::observe::Daemon| daemon.read_hooks < seen.hook.created;
    let unread = seen.daemons.iter().filter(is_unread);
    unread
        .map(|daemon| {
            let problem =
                format!("{} has not read the list of hooks since the hook was installed", daemon.unit);
            Finding::error("host-hook-unread", problem).fix(seen.caller.as_root(&reload(daemon.unit)))
        })
        .collect()
}

/// Finds out whether a unit is not installed, not enabled or not running.
fn service(seen: &Seen, name: &str) -> Option<Finding> {
    let unit = seen.units.get(name)?;
    let as_root = |command: String| seen.caller.as_root(&command);
    let state = format!("{name}: {} ({})", unit.get("ActiveState"), unit.get("SubState"));
    if unit.is_masked() {
        let finding = Finding::error("host-service-masked", format!("{name} is masked")).seen(state);
        let command = format!("systemctl unmask {name} && systemctl enable --now {name}");
        return Some(finding.fix(as_root(command)));
    }
    if !unit.is_installed() {
        let finding = Finding::error("host-service-absent", format!("{name} is not installed"));
        return Some(finding.advice("Install the package wakevirt-host."));
    }
    // These run only while the host goes to sleep or shuts down.
    let must_run = name != "wakevirt-suspend.service";
    let enable = as_root(format!("systemctl enable --now {name}"));
    if must_run && !unit.is_active() {
        let finding = Finding::error("host-service-stopped", format!("{name} is not running")).seen(state);
        let finding = unit.log.iter().fold(finding, |finding, line| finding.seen(format!("log: {line}")));
        return Some(finding.fix(enable));
    }
    if unit.get("UnitFileState") != "disabled" {
        return None;
    }
    let problem = format!("{name} is not enabled, so it does not run after the next boot");
    let enable = if must_run { enable } else { as_root(format!("systemctl enable {name}")) };
    Some(Finding::warning("host-service-disabled", problem).seen(state).fix(enable))
}
