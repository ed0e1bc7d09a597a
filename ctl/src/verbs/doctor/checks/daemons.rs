//! libvirt's modular daemons that domains need in addition to virtqemud.

use std::collections::BTreeMap;

use crate::verbs::doctor::checks::hypervisors;
use crate::verbs::doctor::observe::Observations;
use crate::verbs::finding::Finding;
use crate::verbs::units::{Unit, Units};

/// Finds daemons that are not running and whose sockets are closed, although a domain needs them.
#[must_use]
pub fn check(seen: &Observations) -> Vec<Finding> {
    let mut needed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let Ok(units) = &seen.units else { return Vec::new() };
    let is_modular =
        |uri: &str| uri.starts_with("qemu:///system") && hypervisors::daemon(units, uri) != "libvirtd";
    for machine in seen.machines.iter().filter(|machine| is_modular(&machine.uri)) {
        for daemon in &machine.daemons {
            needed.entry(daemon).or_default().push(&machine.name);
        }
    }
    needed.into_iter().filter_map(|(daemon, domains)| closed(seen, units, daemon, &domains)).collect()
}

/// Reports a daemon to which virtqemud cannot connect. Clients start a daemon whose socket systemd has opened.
fn closed(seen: &Observations, units: &Units, daemon: &str, domains: &[&str]) -> Option<Finding> {
    let names = [format!("{daemon}.socket"), format!("{daemon}.service")];
    let installed: Vec<&Unit> =
        names.iter().filter_map(|name| units.get(name)).filter(|unit| unit.is_installed()).collect();
    if installed.iter().any(|unit| unit.is_active()) {
        return None;
    }
    let domains = domains.join(", ");
    let problem =
        format!("{daemon} is not running, and libvirt cannot start these domains without it: {domains}");
    let finding = Finding::error("libvirt-daemon-stopped", problem);
    if installed.is_empty() {
        return Some(finding.advice(format!("Install the package of libvirt that contains {daemon}.")));
    }
    let state =
        |unit: &&Unit| format!("{}: {}, {}", unit.get("Id"), unit.get("LoadState"), unit.get("ActiveState"));
    let finding = installed.iter().map(state).fold(finding, Finding::seen);
    let masked: Vec<&str> =
        installed.iter().filter(|unit| unit.is_masked()).map(|unit| unit.get("Id")).collect();
    let unmask =
        if masked.is_empty() { String::new() } else { format!("systemctl unmask {} && ", masked.join(" ")) };
    let command = format!("{unmask}systemctl enable --now {}", names.join(" "));
    Some(finding.fix(seen.caller.as_root(&command)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::doctor::observe::libvirt::Machine;
    use crate::verbs::units::parse;

    fn unit(name: &str, load: &str, active: &str) -> String {
        format!("Id={name}\nLoadState={load}\nActiveState={active}\nUnitFileState=enabled\n\n")
    }

    /// The commands for these units, with a domain that needs virtnetworkd.
    fn stopped_with(units: &[String]) -> Vec<String> {
        let machine = Machine {
            uri: "qemu:///system".to_owned(),
            name: "win11".to_owned(),
            daemons: ["virtnetworkd"].into(),
            ..Machine::default()
        };
        let units = Ok(parse(&units.concat()));
        let seen = Observations { units, machines: vec![machine], ..Observations::nothing() };
        let findings = check(&seen);
        assert!(findings.iter().all(|finding| finding.check == "libvirt-daemon-stopped"), "{findings:?}");
        findings.into_iter().map(|finding| finding.fix.unwrap_or_default()).collect()
    }

    #[test]
    fn starts_the_daemons_that_a_domain_needs() {
        let virtqemud = unit("virtqemud.service", "loaded", "active");
        let network = |load: &str, socket: &str, service: &str| {
            [
                virtqemud.clone(),
                unit("virtnetworkd.socket", load, socket),
                unit("virtnetworkd.service", "loaded", service),
            ]
        };
        let enable = "systemctl enable --now virtnetworkd.socket virtnetworkd.service";
        assert_eq!(stopped_with(&network("loaded", "active", "inactive")), [""; 0]);
        assert_eq!(stopped_with(&network("loaded", "inactive", "active")), [""; 0]);
        assert_eq!(stopped_with(&network("loaded", "inactive", "inactive")), [enable]);
        let unmask = format!("systemctl unmask virtnetworkd.socket && {enable}");
        assert_eq!(stopped_with(&network("masked", "inactive", "inactive")), [unmask]);
        assert_eq!(stopped_with(&[virtqemud]), [""]);
        // libvirtd contains the driver.
        assert_eq!(stopped_with(&[unit("libvirtd.service", "loaded", "active")]), [""; 0]);
    }
}
