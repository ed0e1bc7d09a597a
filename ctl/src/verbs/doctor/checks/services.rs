//! Both services: their units, their names on the bus, and their versions.

use wakevirt_service::bus::Address;

use crate::client::Service;
use crate::quoting::quote;
use crate::verbs::doctor::checks::{commands, permissions};
use crate::verbs::doctor::observe::bus::Reply;
use crate::verbs::doctor::observe::{Observations, PKLA};
use crate::verbs::finding::Finding;
use crate::verbs::units::Unit;

/// The minimum number of restarts of a unit that doctor reports as a loop.
const LOOP: u32 = 3;

/// Finds services that are not running, and the reasons.
#[must_use]
pub fn check(seen: &Observations) -> Vec<Finding> {
    if let Reply::NoBus(reason) = &seen.bus.actor {
        return vec![no_bus(seen, reason)];
    }
    let mut findings: Vec<Finding> =
        Service::BOTH.into_iter().filter_map(|service| service_finding(seen, service)).collect();
    findings.extend(socket(seen));
    findings.extend(versions(seen));
    findings.extend(polkit(seen));
    findings
}

/// Reports that the bus is unavailable. Without it, doctor cannot check anything else.
fn no_bus(seen: &Observations, reason: &str) -> Finding {
    let finding = Finding::error("bus-unreachable", "the message bus is unavailable").seen(reason);
    let is_defined = seen.address == Address::System && seen.init.defines("dbus");
    if let Some(start) = seen.init.start("dbus").filter(|_| is_defined) {
        return finding.fix(seen.caller.as_root(&start));
    }
    match seen.units.as_ref().ok().and_then(|units| units.get("dbus.service")) {
        Some(unit) if seen.address == Address::System => {
            let finding = finding.seen(format!("dbus.service: {}", unit.get("ActiveState")));
            finding.fix(seen.caller.as_root("systemctl start dbus.socket dbus"))
        }
        _ => finding.advice("Start the bus, or select a different one with --bus."),
    }
}

/// Why a service did not reply. `None` if it replied.
fn absence(seen: &Observations, service: Service) -> Option<String> {
    fn reason<T>(reply: &Reply<T>, service: Service) -> Option<String> {
        match reply {
            Reply::Status(_) => None,
            Reply::Absent => Some(format!("{} has no owner on the bus", service.bus_name())),
            Reply::NoBus(reason) | Reply::Failed(reason) => Some(reason.clone()),
        }
    }
    match service {
        Service::Capture => reason(&seen.bus.capture, service),
        Service::Actor => reason(&seen.bus.actor, service),
    }
}

fn service_finding(seen: &Observations, service: Service) -> Option<Finding> {
    let absent = absence(seen, service);
    let name = service.unit();
    let Some(unit) = commands::unit(seen, service) else {
        return Some(without_unit(seen, service, absent?));
    };
    let state = format!(
        "{name}.service: {} ({}), {}",
        unit.get("ActiveState"),
        unit.get("SubState"),
        or_if_empty(unit.get("UnitFileState"), "unit file state unknown")
    );
    let finding = match absent {
        None => return not_enabled(seen, service, unit, state),
        Some(absent) if unit.is_active() => refused_name(seen, service, unit).seen(absent),
        Some(_) => stopped(seen, service, unit),
    };
    let finding = finding.seen(state);
    Some(unit.log.iter().fold(finding, |finding, line| finding.seen(format!("log: {line}"))))
}

/// Reports a service that is not running, and that no unit of systemd starts.
fn without_unit(seen: &Observations, service: Service, absent: String) -> Finding {
    let name = service.unit();
    if let Some(finding) = invalid(seen, service) {
        return finding.seen(absent);
    }
    let finding = Finding::error("service-absent", format!("{name} is not running")).seen(absent);
    let log = commands::managed(seen, service).log();
    let finding = log.into_iter().fold(finding, |finding, log| finding.advice(format!("Its log: {log}")));
    // With systemd, the unit is not installed.
    match commands::enable(seen, service).filter(|_| !seen.init.is_systemd()) {
        Some(command) => finding.fix(command),
        None => finding.advice(
            "Start it with the service manager of this host; see /usr/share/doc/wakevirt/INSTALL.md.",
        ),
    }
}

fn or_if_empty<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

/// Reports a service that is running, but does not start at boot.
fn not_enabled(seen: &Observations, service: Service, unit: &Unit, state: String) -> Option<Finding> {
    if unit.get("UnitFileState") != "disabled" {
        return None;
    }
    let problem = format!("{} is running, but does not start at boot", service.unit());
    let finding = Finding::warning("unit-not-enabled", problem).seen(state);
    Some(finding.fix(commands::systemctl(seen, service, "enable")))
}

/// Reports that the bus does not allow the service to own its name.
fn refused_name(seen: &Observations, service: Service, unit: &Unit) -> Finding {
    let (name, unit_name) = (service.bus_name(), service.unit());
    let finding = Finding::error("bus-policy", format!("{unit_name} is running, but is not on the bus"));
    let finding = match unit.get("StatusText") {
        "" => finding,
        status => finding.seen(format!("status: {status}")),
    };
    match seen.policies.iter().find(|path| path.ends_with(&format!("/{name}.conf"))) {
        Some(path) => {
            let finding = finding.seen(format!("{path} exists"));
            let fix = format!("systemctl reload dbus && systemctl restart {unit_name}");
            finding.fix(seen.caller.as_root(&fix))
        }
        None => finding
            .seen(format!("{name}.conf is neither in /usr/share/dbus-1/system.d nor in /etc/dbus-1/system.d"))
            .fix(seen.caller.as_root("apt-get install --reinstall wakevirt"))
            .advice("If wakevirt was built from source, run make install again."),
    }
}

/// Reports a unit that is not active.
fn stopped(seen: &Observations, service: Service, unit: &Unit) -> Finding {
    let name = service.unit();
    if unit.is_masked() {
        let fix = format!("systemctl unmask {name} && systemctl enable --now {name}");
        return Finding::error("unit-masked", format!("{name} is masked, so it cannot be started"))
            .fix(seen.caller.as_root(&fix));
    }
    if let Some(finding) = broken(seen, service, unit) {
        return finding;
    }
    if unit.log.iter().any(|line| line.contains("the bus policy does not allow")) {
        return refused_name(seen, service, unit);
    }
    let restarts = unit.number("NRestarts");
    if restarts >= LOOP || unit.get("SubState") == "auto-restart" {
        let problem = match restarts {
            0 => format!("{name} keeps exiting"),
            1 => format!("{name} keeps exiting; systemd has restarted it once"),
            _ => format!("{name} keeps exiting; systemd has restarted it {restarts} times"),
        };
        return drop_ins(seen, service, unit, Finding::error("unit-restart-loop", problem));
    }
    if unit.get("ActiveState") == "failed" {
        let problem =
            format!("{name} has failed ({}, status {})", unit.get("Result"), unit.get("ExecMainStatus"));
        return drop_ins(seen, service, unit, Finding::error("unit-failed", problem));
    }
    let check = if unit.get("UnitFileState") == "enabled" { "unit-stopped" } else { "unit-not-enabled" };
    let action = if check == "unit-stopped" { "start" } else { "enable --now" };
    Finding::error(check, format!("{name} is not running")).fix(commands::systemctl(seen, service, action))
}

/// Adds a command that restarts the unit. If the administrator has changed the unit, the command reverts that first.
fn drop_ins(seen: &Observations, service: Service, unit: &Unit, finding: Finding) -> Finding {
    let own = unit.get("DropInPaths").split_whitespace().filter(|path| path.starts_with("/etc/"));
    let own: Vec<&str> = own.collect();
    if own.is_empty() {
        return finding.fix(commands::systemctl(seen, service, "restart"));
    }
    let name = service.unit();
    let fix = format!("systemctl revert {name} && systemctl restart {name}");
    let finding = finding.seen(format!("changed by {}", own.join(", ")));
    finding.fix(seen.caller.as_root(&fix)).advice("The command removes these files.")
}

/// Finds a problem that must be fixed before the unit can start.
fn broken(seen: &Observations, service: Service, unit: &Unit) -> Option<Finding> {
    let name = service.unit();
    if let Some(finding) = invalid(seen, service) {
        return Some(finding);
    }
    let restart = format!("systemctl restart {name}");
    let links = "wakevirt-capture-links.socket";
    let is_masked =
        |it: &str| seen.units.as_ref().ok().and_then(|units| units.get(it)).is_some_and(Unit::is_masked);
    let (what, fix) = match unit.get("ExecMainStatus") {
        // systemd.exec(5), "Process Exit Codes".
        "216" => ("group-missing", "systemd-sysusers wakevirt.conf"),
        "217" => ("user-missing", "systemd-sysusers wakevirt.conf"),
        "226" => ("directory-missing", "systemd-tmpfiles --create wakevirt.conf"),
        _ if service == Service::Capture && is_masked(links) => {
            ("links-masked", "systemctl unmask wakevirt-capture-links.socket")
        }
        _ => return None,
    };
    let problem = match what {
        "group-missing" => format!("a group that {name} needs, such as libvirt, does not exist"),
        "user-missing" => format!("the user of {name} does not exist"),
        "directory-missing" => format!("a directory that {name} needs does not exist"),
        _ => format!("{links} is masked, and {name} cannot detect changes to the interfaces without it"),
    };
    Some(Finding::error(what, problem).fix(seen.caller.as_root(&format!("{fix} && {restart}"))))
}

/// Reports an invalid configuration.
fn invalid(seen: &Observations, service: Service) -> Option<Finding> {
    let error = configuration_error(seen, service)?;
    let problem = format!("the configuration of {} is invalid", service.unit());
    Some(correct(seen, service, &error, Finding::error("configuration", problem).seen(&error)))
}

fn configuration_error(seen: &Observations, service: Service) -> Option<String> {
    match service {
        Service::Capture => seen.capture_config.as_ref().ok()?.keys.as_ref().err().cloned(),
        Service::Actor => seen.actor_config.as_ref().ok()?.keys.as_ref().err().cloned(),
    }
}

/// Adds a command that applies the service's suggestion to the invalid line, or comments the line out.
fn correct(seen: &Observations, service: Service, error: &str, finding: Finding) -> Finding {
    let Some((file, line)) = location(error) else {
        return finding.advice("Correct the file, and restart the service.");
    };
    let quoted = |text: &str| text.split('"').nth(1).map(str::to_owned);
    let suggestion =
        error.split_once("did you mean ").and_then(|(before, after)| Some((quoted(before)?, quoted(after)?)));
    let edit = match &suggestion {
        Some((wrong, right)) => format!("{line}s/{wrong}/{right}/"),
        None => format!("{line}s/^/# /"),
    };
    let edit = format!("sed -i {} {}", quote(&edit), quote(file));
    let fix = commands::then(edit, commands::restart(seen, service));
    let finding = finding.fix(commands::as_manager(seen, service, &fix));
    if suggestion.is_some() { finding } else { finding.advice("The command comments the line out.") }
}

/// Returns the file and the line at the start of an error: `/etc/wakevirt/actor.toml:1: …`.
fn location(error: &str) -> Option<(&str, u32)> {
    let (file, rest) = error.split_once(':')?;
    let is_path = file.starts_with('/') && !file.contains(char::is_whitespace);
    Some((file, rest.split(':').next()?.parse().ok()?)).filter(|_| is_path)
}

/// Reports a different process that uses the port.
fn socket(seen: &Observations) -> Option<Finding> {
    let unit = seen.units.as_ref().ok().and_then(|units| units.get("wakevirt-capture.socket"));
    let others = seen.port.iter().filter_map(|socket| socket.process.as_ref());
    let other = others.into_iter().find(|it| it.pid != 1 && !it.name.starts_with("wakevirt"))?;
    let problem = format!("another program uses UDP port 9: {}, process {}", other.name, other.pid);
    let stop = match &other.unit {
        Some(unit) => format!("systemctl disable --now {}", quote(unit)),
        None => format!("kill {}", other.pid),
    };
    let restart = if unit.is_some() {
        " && systemctl stop wakevirt-capture && systemctl start wakevirt-capture"
    } else {
        ""
    };
    let is_udp = seen.bus.capture.status().is_none_or(|status| status.mode == "udp");
    let finding = if is_udp {
        Finding::error("port-taken", problem)
    } else {
        Finding::warning("port-taken", problem).advice(
            "Capture receives packets from the network through packet sockets, but does not receive those of local programs.",
        )
    };
    let state = unit.map_or("not installed", |unit| unit.get("ActiveState"));
    let finding = finding.seen(format!("wakevirt-capture.socket is {state}"));
    Some(finding.fix(seen.caller.as_root(&format!("{stop}{restart}"))))
}

/// Reports services with different versions, for example after an upgrade without a restart.
fn versions(seen: &Observations) -> Option<Finding> {
    let (capture, actor) = (seen.bus.capture.status()?, seen.bus.actor.status()?);
    let own = env!("CARGO_PKG_VERSION");
    if capture.version == actor.version && actor.version == own {
        return None;
    }
    let finding = Finding::warning("version-skew", "the services and wakevirtctl have different versions");
    let finding = finding.seen(format!(
        "wakevirt-capture {}, wakevirt-actor {}, wakevirtctl {own}",
        capture.version, actor.version
    ));
    // The actor first: docs/ARCHITECTURE.md, "An upgrade restarts the actor first, then capture".
    let restart = |service| commands::restart(seen, service);
    let fix = restart(Service::Actor).map(|actor| commands::then(actor, restart(Service::Capture)));
    Some(match fix {
        Some(fix) => finding.fix(seen.caller.as_root(&fix)),
        None => finding.advice("Restart wakevirt-actor, and then wakevirt-capture."),
    })
}

/// Reports a polkit before 0.106, which does not read JavaScript rules, unless the permissions are installed in its own
/// format.
fn polkit(seen: &Observations) -> Option<Finding> {
    let version = seen.polkit.version.as_deref().filter(|_| seen.polkit.is_old())?;
    if seen.policies.iter().any(|path| path == PKLA) {
        return None;
    }
    let finding = Finding::warning("polkit-old", "polkit is too old to read wakevirt's rules");
    let finding = finding.seen(format!("polkit {version}; the rules need version 0.106 or later")).advice(
        "Packets can wake domains even without polkit. The command installs the equivalent of these rules in polkit's old format.",
    );
    Some(finding.fix(permissions::install_pkla(seen)))
}

#[cfg(test)]
mod tests {
    use wakevirt_service::init::Init;

    use super::*;
    use crate::verbs::doctor::observe::config::Config;
    use crate::verbs::units::parse;

    #[test]
    fn finds_the_location_of_a_configuration_error() {
        assert_eq!(
            location("/etc/wakevirt/actor.toml:3: unknown key"),
            Some(("/etc/wakevirt/actor.toml", 3))
        );
        assert_eq!(location("cannot read /etc/x: y"), None);
    }

    /// Returns the findings for a host with these units, as systemctl(1) shows them.
    fn with_units(text: &str) -> Vec<Finding> {
        check(&Observations { units: Ok(parse(text)), ..Observations::nothing() })
    }

    #[test]
    fn interprets_the_exit_statuses_of_systemd() {
        for (status, check, fix) in [
            (216, "group-missing", "systemd-sysusers wakevirt.conf"),
            (217, "user-missing", "systemd-sysusers wakevirt.conf"),
            (226, "directory-missing", "systemd-tmpfiles --create wakevirt.conf"),
        ] {
            let findings = with_units(&format!(
                "Id=wakevirt-actor.service\nLoadState=loaded\nActiveState=activating\nSubState=auto-restart\nNRestarts=9\n\
                 ExecMainStatus={status}\nUnitFileState=enabled\n"
            ));
            let finding = findings.iter().find(|finding| finding.check == check).unwrap();
            assert_eq!(finding.fix, Some(format!("{fix} && systemctl restart wakevirt-actor")));
        }
    }

    #[test]
    fn restarts_a_failed_unit_without_drop_ins() {
        let findings = with_units(
            "Id=wakevirt-capture.service\nLoadState=loaded\nActiveState=failed\nSubState=failed\nResult=signal\nExecMainStatus=9\n\
             UnitFileState=enabled\n",
        );
        assert_eq!(findings[0].check, "unit-failed");
        assert_eq!(findings[0].problem, "wakevirt-capture has failed (signal, status 9)");
        assert_eq!(findings[0].fix.as_deref(), Some("systemctl restart wakevirt-capture"));
    }

    /// A host on which OpenRC runs, with these services.
    fn with_openrc(services: &[&str]) -> (tempfile::TempDir, Observations) {
        let root = tempfile::tempdir().unwrap();
        for directory in ["run/openrc", "etc/init.d"] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        for service in services {
            std::fs::write(root.path().join("etc/init.d").join(service), "").unwrap();
        }
        let init = Init::below(root.path());
        (root, Observations { init, ..Observations::nothing() })
    }

    fn commands_of(seen: &Observations) -> Vec<(&'static str, String)> {
        check(seen).into_iter().map(|it| (it.check, it.fix.unwrap_or_default())).collect()
    }

    #[test]
    fn names_the_commands_of_openrc() {
        let (_root, mut seen) = with_openrc(&["dbus"]);
        let enable = |name: &str| format!("rc-update add {name} default && rc-service {name} start");
        let expected = [enable("wakevirt-capture"), enable("wakevirt-actor")];
        assert_eq!(commands_of(&seen), expected.map(|command| ("service-absent", command)));

        let error = "/etc/wakevirt/actor.toml:3: unknown key".to_owned();
        seen.actor_config = Ok(Config { keys: Err(error), file: None, directory: None });
        let fix = "sed -i '3s/^/# /' /etc/wakevirt/actor.toml && rc-service wakevirt-actor restart";
        assert_eq!(commands_of(&seen)[1], ("configuration", fix.to_owned()));

        seen.bus.actor = Reply::NoBus("no bus".to_owned());
        assert_eq!(commands_of(&seen), [("bus-unreachable", "rc-service dbus start".to_owned())]);
    }

    /// A service of the user that does not exist yet cannot be started.
    #[test]
    fn names_only_existing_services_of_the_user() {
        let (root, mut seen) = with_openrc(&[]);
        seen.address = Address::Session;
        let (_, command) = commands_of(&seen).remove(1);
        assert_eq!(command, "");
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
        let name = format!("wakevirt-session.{user}.actor");
        std::fs::write(root.path().join("etc/init.d").join(&name), "").unwrap();
        let (_, command) = commands_of(&seen).remove(1);
        assert_eq!(command, format!("rc-update add {name} default && rc-service {name} start"));
    }

    #[test]
    fn installs_a_missing_policy_file() {
        let units = "Id=wakevirt-actor.service\nLoadState=loaded\nActiveState=active\nStatusText=waiting\n";
        let findings = with_units(units);
        let finding = findings.iter().find(|finding| finding.check == "bus-policy").unwrap();
        assert_eq!(finding.fix.as_deref(), Some("apt-get install --reinstall wakevirt"));
    }
}
