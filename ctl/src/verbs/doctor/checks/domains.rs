//! The domains: their addresses, and whether libvirt can start them.

use std::collections::BTreeMap;

use wakevirt_protocol::MacAddr;

use crate::client::{Domain, Packet};
use crate::quoting::quote;
use crate::verbs::doctor::checks::{commands, nearest, rules};
use crate::verbs::doctor::finding::Finding;
use crate::verbs::doctor::observe::Observations;
use crate::verbs::doctor::observe::config::Alias;
use crate::verbs::doctor::observe::libvirt::Machine;
use crate::verbs::doctor::observe::loop_back::is_test;
use crate::virsh;

/// The maximum number of unknown addresses that doctor reports.
const MAX_UNKNOWN: usize = 3;
/// The maximum number of digits in which similar addresses differ.
const SIMILAR: usize = 2;

/// Finds reasons why a packet does not reach a domain, or why the domain cannot be started.
#[must_use]
pub fn check(seen: &Observations) -> Vec<Finding> {
    let machines = seen.machines.iter().flat_map(|machine| {
        [no_address(seen, machine), transient(seen, machine), macvtap(seen, machine), migrated(seen, machine)]
            .into_iter()
            .flatten()
    });
    let mut findings: Vec<Finding> = machines.collect();
    findings.extend(ambiguous(seen));
    findings.extend(unknown(seen));
    findings.extend(multicast(seen));
    findings
}

/// Reports aliases with an address that no network card can have. capture does not announce packets for them.
fn multicast(seen: &Observations) -> Vec<Finding> {
    let config = seen.actor_config.as_ref().ok().and_then(|config| config.keys.as_ref().ok());
    let aliases = config.into_iter().flat_map(|config| &config.alias);
    let is_multicast = |mac: &str| mac.parse().is_ok_and(|mac: MacAddr| !mac.is_unicast());
    let aliases = aliases.filter(|alias| is_multicast(&alias.mac));
    let finding = |alias: &Alias| {
        let problem = format!(
            "the alias {} for {:?} is an address that no network card can have",
            alias.mac, alias.domain
        );
        Finding::warning("multicast-address", problem)
            .seen("the lowest bit of its first octet is 1")
            .advice("Correct the alias in actor.toml. capture does not announce packets for such an address.")
    };
    aliases.map(finding).collect()
}

fn domain<'a>(seen: &'a Observations, machine: &Machine) -> Option<&'a Domain> {
    seen.domains().iter().find(|domain| domain.name == machine.name && domain.connection == machine.uri)
}

/// The packets for addresses that no domain has, newest first, one for each address.
fn unknown_packets(seen: &Observations) -> Vec<&Packet> {
    let is_known = |mac: &str| {
        seen.domains().iter().any(|domain| domain.macs.iter().any(|it| it.eq_ignore_ascii_case(mac)))
    };
    let mut unknown: Vec<&Packet> = Vec::new();
    for packet in seen.bus.packets.iter().flatten().rev() {
        if !is_known(&packet.mac) && !is_test(&packet.mac) && !unknown.iter().any(|it| it.mac == packet.mac) {
            unknown.push(packet);
        }
    }
    unknown
}

fn describe(packet: &Packet) -> String {
    let sender = packet.sender().map(|sender| format!(" from {sender}")).unwrap_or_default();
    format!("packet for {}{sender} on {}", packet.mac, packet.interface.as_deref().unwrap_or_default())
}

/// Reports packets for addresses that no domain has.
fn unknown(seen: &Observations) -> Vec<Finding> {
    if seen.bus.domains.is_err() || !seen.unconnected.is_empty() {
        return Vec::new();
    }
    unknown_packets(seen)
        .into_iter()
        .take(MAX_UNKNOWN)
        .filter_map(|packet| unknown_address(seen, packet))
        .collect()
}

fn unknown_address(seen: &Observations, packet: &Packet) -> Option<Finding> {
    let mac: MacAddr = packet.mac.parse().ok()?;
    let known = seen.domains().iter().flat_map(|domain| {
        domain.macs.iter().filter_map(move |text| Some((text.parse::<MacAddr>().ok()?, domain)))
    });
    let nearest = known
        .map(|(known, domain)| (nearest::digits(mac, known), known, domain))
        .min_by_key(|(digits, ..)| *digits);
    let finding = Finding::warning("unknown-address", format!("no domain has the address {mac}"))
        .seen(describe(packet));
    let wanted = seen.wanted_domain();
    match nearest {
        Some((digits, known, domain))
            if digits <= SIMILAR && wanted.is_none_or(|wanted| wanted.uuid == domain.uuid) =>
        {
            let finding = finding.seen(format!("{known} of {:?} is similar", domain.name));
            let finding = finding.fix(commands::alias(seen, &domain.name, &packet.mac));
            Some(finding.advice(format!(
                "The command makes packets for {mac} wake {:?}, too. Alternatively, set the address {known} in the sender.",
                domain.name
            )))
        }
        // Packets for other machines on the network are normal.
        _ => Some(Finding::note("unknown-address", finding.problem.clone()).seen(describe(packet)).advice(
            "If the address belongs to a passed-through network card, run doctor for its domain: wakevirtctl doctor DOMAIN",
        )),
    }
}

/// Reports domains that have the same address, unless the rules name exactly one of them.
fn ambiguous(seen: &Observations) -> Vec<Finding> {
    let mut owners: BTreeMap<&str, Vec<&Domain>> = BTreeMap::new();
    for domain in seen.domains() {
        for mac in &domain.macs {
            owners.entry(mac).or_default().push(domain);
        }
    }
    let concerns = |domains: &[&Domain]| {
        seen.wanted_domain().is_none_or(|wanted| domains.iter().any(|domain| domain.uuid == wanted.uuid))
    };
    owners.values_mut().for_each(|domains| domains.sort_by_key(|domain| &domain.name));
    let shared = owners.into_iter().filter(|(_, domains)| domains.len() > 1 && concerns(domains));
    let finding = |(mac, domains): (&str, Vec<&Domain>)| {
        let config = seen.actor_config.as_ref().ok().and_then(|config| config.keys.as_ref().ok());
        let is_named = |domain: &&&Domain| {
            config.is_some_and(|config| config.allow.iter().any(|rule| rules::is_for(rule, domain)))
        };
        if domains.iter().filter(is_named).count() == 1 {
            return None;
        }
        let names: Vec<String> = domains.iter().map(|domain| format!("{:?}", domain.name)).collect();
        let finding = Finding::error(
            "ambiguous-address",
            format!("{} have the same address, so a packet wakes none of them", names.join(" and ")),
        );
        let wanted = seen.wanted_domain().or_else(|| domains.first().copied())?;
        let others = domains.iter().filter(|domain| domain.uuid != wanted.uuid);
        let other = others.into_iter().next()?;
        let finding = finding.seen(format!("{} have {mac}", names.join(" and ")));
        // A rule that names exactly one of them selects it. If rules name several, one of them needs a different address.
        if domains.iter().filter(is_named).count() == 0 {
            return Some(finding.fix(commands::allow(seen, &wanted.name, &[])));
        }
        let edit = virsh::command(&other.connection, &["dumpxml", "--inactive", &other.name]);
        let define = virsh::command(&other.connection, &["define", "/dev/stdin"]);
        let fix = format!("{edit} | sed {} | {define}", quote(&format!("/{mac}/d")));
        let finding = finding.fix(commands::virsh(seen, &fix, &other.connection));
        Some(finding.advice(format!(
            "The command gives {:?} a new address, which takes effect when it next starts.",
            other.name
        )))
    };
    shared.filter_map(finding).collect()
}

/// Reports a domain without an address.
fn no_address(seen: &Observations, machine: &Machine) -> Option<Finding> {
    let domain = domain(seen, machine).filter(|domain| domain.macs.is_empty())?;
    let name = &domain.name;
    if machine.devices.is_empty() {
        let finding = Finding::error(
            "no-address",
            format!("{name:?} has no network interface, so no packet can wake it"),
        );
        let finding =
            finding.seen("its definition has no <interface> with a MAC address, and it has no alias");
        let bridge = seen.links.iter().flatten().find(|link| link.is_bridge());
        let (kind, source) = bridge.map_or(("network", "default"), |bridge| ("bridge", bridge.name.as_str()));
        let command = virsh::command(
            &machine.uri,
            &["attach-interface", name, kind, source, "--model", "virtio", "--config"],
        );
        return Some(finding.fix(commands::virsh(seen, &command, &machine.uri)));
    }
    let finding = Finding::error(
        "passed-through-card",
        format!("{name:?} has a passed-through network card, but no alias with its address"),
    );
    let mut finding = finding.seen(format!("<hostdev> {}", machine.devices.join(", ")));
    let on_host = machine.devices.iter().find_map(|device| host_address(device));
    let packet = unknown_packets(seen)
        .into_iter()
        .find(|packet| packet.mac.parse().is_ok_and(|mac: MacAddr| mac.is_unicast()));
    if let Some(packet) = packet {
        finding = finding.seen(describe(packet));
    }
    let mac = on_host.or_else(|| packet.map(|packet| packet.mac.clone()));
    Some(match mac {
        Some(mac) => finding.fix(commands::alias(seen, name, &mac)),
        None => finding.advice("Send a packet for the card's address, and run doctor again."),
    })
}

/// The address of a network card that a driver of the host currently uses.
fn host_address(device: &str) -> Option<String> {
    let directory = std::fs::read_dir(format!("/sys/bus/pci/devices/{device}/net")).ok()?;
    let interface = directory.flatten().next()?;
    Some(std::fs::read_to_string(interface.path().join("address")).ok()?.trim().to_owned())
}

/// Reports a domain that disappears when it shuts down.
fn transient(seen: &Observations, machine: &Machine) -> Option<Finding> {
    if !machine.transient {
        return None;
    }
    let name = &machine.name;
    let finding = Finding::error(
        "transient-domain",
        format!("{name:?} is transient: it disappears when it shuts down, and then cannot be woken"),
    );
    let dump = virsh::command(&machine.uri, &["dumpxml", "--inactive", name]);
    let define = virsh::command(&machine.uri, &["define", "/dev/stdin"]);
    let finding = finding.seen("virsh dominfo: Persistent: no");
    Some(finding.fix(commands::virsh(seen, &format!("{dump} | {define}"), &machine.uri)))
}

/// Reports a macvtap interface on a card that is not in promiscuous mode.
fn macvtap(seen: &Observations, machine: &Machine) -> Option<Finding> {
    let links = seen.links.as_ref().ok()?;
    let below = machine.macvtap.iter().find_map(|name| links.iter().find(|link| &link.name == name))?;
    if below.promiscuity > 0 {
        return None;
    }
    let name = &machine.name;
    let problem = format!("{name:?} uses macvtap on {}, which is not in promiscuous mode", below.name);
    let finding = Finding::warning("macvtap", problem).seen(format!("promiscuity of {} is 0", below.name));
    let finding = finding.advice(
        "While the VM is off, the card drops frames to its address. The setting lasts until the host reboots.",
    );
    Some(finding.fix(seen.caller.as_root(&format!("ip link set {} promisc on", quote(&below.name)))))
}

/// Reports a domain that has migrated to another host.
fn migrated(seen: &Observations, machine: &Machine) -> Option<Finding> {
    if machine.state != "shut off (migrated)" {
        return None;
    }
    let finding = Finding::error(
        "migrated-away",
        format!("{:?} has migrated to another host, and must be woken there", machine.name),
    );
    let start = virsh::command(&machine.uri, &["start", &machine.name]);
    let finding = finding.seen(format!("virsh domstate --reason: {}", machine.state));
    let finding = finding
        .advice("Make sure that it is not running on the other host: two VMs that use the same disk destroy the data on it.");
    Some(finding.fix(commands::virsh(seen, &start, &machine.uri)))
}
