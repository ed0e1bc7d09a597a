//! Whether the actor reaches libvirt.

use crate::client::Service;
use crate::verbs::doctor::checks::{commands, permissions};
use crate::verbs::doctor::observe::Observations;
use crate::verbs::finding::Finding;
use crate::verbs::units::Unit;

/// Parts of libvirt's messages when no daemon listens on its socket: ECONNREFUSED and ENOENT.
const NOT_LISTENING: [&str; 2] = ["Connection refused", "No such file or directory"];

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
    let Ok(units) = &seen.units else { return finding.advice("Start libvirtd or virtqemud.") };
    let unit = |name: &str| units.get(name).filter(|unit| unit.is_installed());
    let daemon = if unit("virtqemud.service").is_some() { "virtqemud" } else { "libvirtd" };
    let (service, socket) = (format!("{daemon}.service"), format!("{daemon}.socket"));
    let Some(state) = unit(&service) else {
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
