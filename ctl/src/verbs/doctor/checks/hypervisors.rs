//! Whether the actor reaches libvirt.

use crate::client::Service;
use crate::verbs::doctor::checks::{commands, permissions};
use crate::verbs::doctor::observe::Observations;
use crate::verbs::finding::Finding;
use crate::verbs::units::{Unit, Units};

/// Parts of libvirt's messages when no daemon listens on its socket: ECONNREFUSED and ENOENT.
const NOT_LISTENING: [&str; 2] = ["Connection refused", "No such file or directory"];

/// The daemons whose sockets clients of the system's QEMU driver use.
const DAEMONS: [&str; 3] = ["virtqemud", "libvirtd", "virtproxyd"];

/// Finds reasons why the actor does not reach libvirt.
#[must_use]
pub fn check(seen: &Observations) -> Vec<Finding> {
    seen.unconnected.iter().map(|(uri, reason)| unconnected(seen, uri, reason.as_deref())).collect()
}

/// Reports a hypervisor to which the actor is not connected.
fn unconnected(seen: &Observations, uri: &str, reason: Option<&str>) -> Finding {
    let problem = format!("the actor has no connection to {uri}");
    let is_system = uri.starts_with("qemu:///system");
    let Some(reason) = reason else { return denied(seen, uri, problem) };
    let finding =
        Finding::error("libvirt-unreachable", problem).seen(format!("virsh --connect {uri}: {reason}"));
    if !is_system {
        return finding.advice(
            "Correct the connections key in actor.toml, or start libvirt on the host of that hypervisor.",
        );
    }
    let Ok(units) = &seen.units else { return without_units(seen, uri, finding) };
    let unit = |name: &str| units.get(name).filter(|unit| unit.is_installed());
    let daemon = daemon(units, uri);
    let (service, socket) = (format!("{daemon}.service"), format!("{daemon}.socket"));
    let Some(state) = unit(&service) else {
        if DAEMONS.iter().any(|daemon| unit(&format!("{daemon}.service")).is_some()) {
            let finding = finding.seen(format!("{service} is not installed"));
            return finding.advice(
                "Remove the mode parameter from the URI in the connections key of actor.toml: libvirt then uses the daemon that is installed.",
            );
        }
        let finding = finding.seen("neither libvirtd.service nor virtqemud.service is installed");
        return finding.fix(seen.caller.as_root("apt-get install libvirt-daemon-system"));
    };
    let masked: Vec<&str> = [&service, &socket]
        .into_iter()
        .map(String::as_str)
        .filter(|it| unit(it).is_some_and(Unit::is_masked))
        .collect();
    let unmask =
        if masked.is_empty() { String::new() } else { format!("systemctl unmask {} && ", masked.join(" ")) };
    let finding =
        finding.seen(format!("{service}: {}, {}", state.get("LoadState"), state.get("ActiveState")));
    // An active service that does not respond must be restarted.
    let start = if state.is_active() {
        format!("systemctl restart {service}")
    } else {
        format!("systemctl enable --now {socket} {service}")
    };
    finding.fix(seen.caller.as_root(&format!("{unmask}{start}")))
}

/// The daemon that serves a URI of the system's QEMU driver. If several are installed, it is the one whose units are active
/// or enabled.
#[must_use]
pub fn daemon(units: &Units, uri: &str) -> &'static str {
    let unit = |name: String| units.get(&name).filter(|unit| unit.is_installed());
    let is_installed = |daemon: &&str| unit(format!("{daemon}.service")).is_some();
    let is_used = |daemon: &&str| {
        let units = ["service", "socket"].into_iter().filter_map(|kind| unit(format!("{daemon}.{kind}")));
        units.into_iter().any(|unit| unit.is_active() || unit.get("UnitFileState") == "enabled")
    };
    let choices = choices(uri);
    let all = || choices.iter().copied();
    all()
        .find(is_used)
        .or_else(|| all().find(is_installed))
        .unwrap_or(choices.last().copied().unwrap_or("libvirtd"))
}

/// The daemons that can serve a URI of the system's QEMU driver.
fn choices(uri: &str) -> &'static [&'static str] {
    let parameters = uri.split_once('?').map_or("", |(_, parameters)| parameters);
    // libvirt's parameter selects the socket of virtqemud, or that of libvirtd, which is also virtproxyd's.
    match parameters.split('&').find_map(|it| it.strip_prefix("mode=")) {
        Some("direct") => &["virtqemud"],
        Some("legacy") => &["libvirtd", "virtproxyd"],
        _ => &["virtqemud", "libvirtd"],
    }
}

/// Adds the command that starts the daemon on a host without systemd.
fn without_units(seen: &Observations, uri: &str, finding: Finding) -> Finding {
    let choices = choices(uri);
    let defined = choices.iter().find(|daemon| seen.init.defines(daemon));
    match defined.and_then(|daemon| seen.init.enable(daemon)) {
        Some(command) => finding.fix(seen.caller.as_root(&command)),
        None => finding.advice(format!("Start {}.", choices.join(" or "))),
    }
}

/// Reports a hypervisor to which the caller can connect, but not the actor.
fn denied(seen: &Observations, uri: &str, problem: String) -> Finding {
    let finding =
        Finding::error("libvirt-denied", problem).seen(format!("virsh --connect {uri} works for this user"));
    let missing = permissions::missing(seen);
    let Some(unit) = commands::unit(seen, Service::Actor) else {
        if !missing.is_empty() {
            return permissions::add_grant(seen, finding, &missing);
        }
        return finding.advice(
            "Add the actor's user to the libvirt group, or install the polkit rule to which /usr/share/doc/wakevirt/RESTRICTED.md refers.",
        );
    };
    let groups = unit.get("SupplementaryGroups");
    let finding = finding.seen(format!("SupplementaryGroups={groups}"));
    let last = unit.log.iter().rfind(|line| line.contains("no connection to"));
    if let Some(line) = last.filter(|line| NOT_LISTENING.iter().any(|cause| line.contains(cause))) {
        return reconnecting(seen, uri, line);
    }
    let finding = last.into_iter().fold(finding, |finding, line| finding.seen(format!("log: {line}")));
    if !missing.is_empty() {
        return permissions::add_grant(seen, finding, &missing);
    }
    if groups.split_whitespace().any(|group| group == "libvirt") {
        return denied_to_group(seen, finding);
    }
    let directory = "/etc/systemd/system/wakevirt-actor.service.d";
    finding
        .fix(seen.caller.as_root(&format!(
            "mkdir -p {directory} && printf '[Service]\\nSupplementaryGroups=libvirt\\n' >{directory}/zz-libvirt.conf && systemctl \
             daemon-reload && systemctl restart wakevirt-actor"
        )))
        .advice("The group has full access to libvirt. /usr/share/doc/wakevirt/RESTRICTED.md describes how to grant fewer permissions with libvirt's access driver.")
}

/// Reports that libvirt has started, and the actor has not connected to it yet.
fn reconnecting(seen: &Observations, uri: &str, line: &str) -> Finding {
    let problem = format!("libvirt is running again, but the actor has not connected to {uri} yet");
    Finding::error("libvirt-reconnecting", problem)
        .seen(format!("log: {line}"))
        .advice("The actor tries again every few seconds. The command makes it try now.")
        .fix(commands::systemctl(seen, Service::Actor, "restart"))
}

/// Reports that libvirt denies access to the actor, although it is in the libvirt group.
fn denied_to_group(seen: &Observations, finding: Finding) -> Finding {
    let restart = commands::systemctl(seen, Service::Actor, "restart");
    finding.fix(restart).advice(
        "If this does not help, a polkit rule may deny access; see /usr/share/doc/wakevirt/RESTRICTED.md.",
    )
}

#[cfg(test)]
mod tests {
    use wakevirt_service::init::Init;

    use super::*;
    use crate::verbs::units::parse;

    /// OpenRC starts the daemon that has a definition.
    #[test]
    fn starts_the_daemon_without_systemd() {
        let root = tempfile::tempdir().unwrap();
        for directory in ["run/openrc", "etc/init.d"] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let mut seen = Observations { init: Init::below(root.path()), ..Observations::nothing() };
        seen.unconnected = vec![("qemu:///system".to_owned(), Some("Connection refused".to_owned()))];
        let finding = check(&seen).remove(0);
        assert_eq!((finding.fix, finding.advice.as_deref()), (None, Some("Start virtqemud or libvirtd.")));
        std::fs::write(root.path().join("etc/init.d/libvirtd"), "").unwrap();
        let fix = "rc-update add libvirtd default && rc-service libvirtd start";
        assert_eq!(check(&seen).remove(0).fix.as_deref(), Some(fix));
    }

    #[test]
    fn names_the_daemon_that_serves_a_connection() {
        let daemon = |units: &[(&str, &str)], uri: &str| {
            let block = |(name, state): &(&str, &str)| {
                format!("Id={name}\nLoadState=loaded\nActiveState=inactive\nUnitFileState={state}\n\n")
            };
            super::daemon(&parse(&units.iter().map(block).collect::<String>()), uri)
        };
        let libvirtd = [("libvirtd.service", "enabled")];
        let modular = [("virtqemud.service", "enabled"), ("virtproxyd.service", "disabled")];
        let both = [
            ("libvirtd.socket", "enabled"),
            ("libvirtd.service", "enabled"),
            ("virtqemud.service", "disabled"),
        ];
        for (units, uri, expected) in [
            (&[][..], "qemu:///system", "libvirtd"),
            (&libvirtd, "qemu:///system", "libvirtd"),
            (&libvirtd, "qemu:///system?mode=direct", "virtqemud"),
            (&modular, "qemu:///system", "virtqemud"),
            (&modular, "qemu:///system?mode=auto", "virtqemud"),
            (&modular, "qemu:///system?no_tty=1&mode=legacy", "virtproxyd"),
            (&both, "qemu:///system", "libvirtd"),
            (&both, "qemu:///system?mode=direct", "virtqemud"),
        ] {
            assert_eq!(daemon(units, uri), expected, "{units:?} {uri}");
        }
    }
}
