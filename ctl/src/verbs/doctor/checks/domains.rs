//! The domains: their addresses, and whether libvirt can start them.

use std::collections::BTreeMap;

use wakevirt_protocol::MacAddr;

use crate::client::{Domain, Packet};
use crate::quoting::quote;
use crate::verbs::doctor::checks::{commands, nearest, rules};
use crate::verbs::doctor::observe::Observations;
use crate::verbs::doctor::observe::config::Alias;
use crate::verbs::doctor::observe::libvirt::Machine;
use crate::verbs::doctor::observe::loop_back::is_test;
use crate::verbs::finding::Finding;
use crate::virsh;

/// The maximum number of misspelt addresses that doctor reports.
const MAX_MISSPELT: usize = 3;
/// The maximum number of other unknown addresses that doctor lists.
const MAX_LISTED: usize = 10;
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
    findings.extend(addresses(seen));
    findings
}

/// Finds addresses that no domain has, in packets and in aliases.
#[must_use]
pub fn addresses(seen: &Observations) -> Vec<Finding> {
    let mut findings = unknown(seen);
    findings.extend(multicast(seen));
    findings
}

/// Reports aliases with an address that no network card can have. Capture does not announce packets for them.
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
            .seen("it is a multicast, broadcast or zero address")
            .advice("Correct the alias: capture does not announce packets for such an address. The command shows where it is.")
            .fix(commands::find_in_actor_config(seen, &alias.mac))
    };
    aliases.map(finding).collect()
}

fn domain<'a>(seen: &'a Observations, machine: &Machine) -> Option<&'a Domain> {
    seen.domains().iter().find(|domain| domain.name == machine.name && domain.connection == machine.uri)
}

/// An address that no domain has, and for which packets arrived.
struct Unknown<'a> {
    mac: MacAddr,
    /// The number of packets for it that the actor has received. `None` if the actor does not report it.
    packets: Option<u64>,
    /// The sender of the latest packet, if capture remembers it.
    sender: Option<&'a str>,
    /// The ingress interface of the latest packet; empty if it is unknown.
    interface: &'a str,
}

impl Unknown<'_> {
    /// Describes the latest packet.
    fn describe(&self) -> String {
        let sender = self.sender.map(|sender| format!(" from {sender}")).unwrap_or_default();
        let count = self.packets.filter(|count| *count > 1);
        let count = count.map(|count| format!(", the latest of {count}")).unwrap_or_default();
        let on = if self.interface.is_empty() { String::new() } else { format!(" on {}", self.interface) };
        format!("packet for {}{sender}{on}{count}", self.mac)
    }

    /// The most similar address of a domain, and the number of digits in which it differs.
    fn nearest<'d>(&self, seen: &'d Observations) -> Option<(usize, MacAddr, &'d Domain)> {
        let known = seen.domains().iter().flat_map(|domain| {
            domain.macs.iter().filter_map(move |text| Some((text.parse::<MacAddr>().ok()?, domain)))
        });
        let nearest = known.map(|(known, domain)| (nearest::digits(self.mac, known), known, domain));
        nearest.min_by_key(|(digits, ..)| *digits)
    }
}

/// The addresses that no domain has, latest packet first: those that the actor reports, and those in the packets that
/// capture remembers.
fn unknown_addresses(seen: &Observations) -> Vec<Unknown<'_>> {
    let is_known =
        |mac: MacAddr| seen.domains().iter().any(|domain| domain.macs.iter().any(|it| it.parse() == Ok(mac)));
    let packets = || seen.bus.packets.iter().flatten().rev();
    let reported = seen.bus.actor.status().into_iter().flat_map(|status| &status.unknown_addresses);
    let reported = reported.filter_map(|address| {
        let mac = address.mac.parse().ok()?;
        let packet = packets().find(|packet| packet.mac.parse() == Ok(mac));
        let sender = packet.and_then(Packet::sender);
        Some(Unknown { mac, packets: Some(address.packets), sender, interface: &address.interface })
    });
    let remembered = packets().filter_map(|packet| {
        let (mac, interface) = (packet.mac.parse().ok()?, packet.interface.as_deref().unwrap_or_default());
        Some(Unknown { mac, packets: None, sender: packet.sender(), interface })
    });
    let mut unknown: Vec<Unknown<'_>> = Vec::new();
    for address in reported.chain(remembered) {
        let is_new = !unknown.iter().any(|it| it.mac == address.mac);
        if is_new && !is_known(address.mac) && !is_test(address.mac) {
            unknown.push(address);
        }
    }
    unknown
}

/// Reports packets for addresses that no domain has.
fn unknown(seen: &Observations) -> Vec<Finding> {
    if seen.bus.domains.is_err() || !seen.unconnected.is_empty() {
        return Vec::new();
    }
    let (mut findings, mut others) = (Vec::new(), Vec::new());
    for address in unknown_addresses(seen) {
        match misspelt(seen, &address).filter(|_| findings.len() < MAX_MISSPELT) {
            Some(finding) => findings.push(finding),
            None => others.push(address),
        }
    }
    findings.extend(foreign(seen, &others));
    findings
}

/// Reports an address that is similar to an address of a domain.
fn misspelt(seen: &Observations, address: &Unknown<'_>) -> Option<Finding> {
    let mac = address.mac;
    let wanted = seen.wanted_domain();
    let (_, known, domain) = address.nearest(seen).filter(|(digits, _, domain)| {
        *digits <= SIMILAR && wanted.is_none_or(|wanted| wanted.uuid == domain.uuid)
    })?;
    let finding = Finding::warning("unknown-address", format!("no domain has the address {mac}"))
        .seen(address.describe())
        .seen(format!("{known} of {:?} is similar", domain.name))
        .fix(commands::alias(seen, &domain.name, &mac.to_string()));
    Some(finding.advice(format!(
        "The command makes packets for {mac} wake {:?}, too. Alternatively, set the address {known} in the sender.",
        domain.name
    )))
}

/// Lists the other addresses. Packets for other machines on the network are normal.
fn foreign(seen: &Observations, addresses: &[Unknown<'_>]) -> Option<Finding> {
    let problem = match addresses {
        [] => return None,
        [address] => format!("no domain has the address {}", address.mac),
        _ => format!("packets arrived for {} addresses that no domain has", addresses.len()),
    };
    let mut finding = Finding::note("unknown-address", problem);
    for address in addresses.iter().take(MAX_LISTED) {
        let nearest = address
            .nearest(seen)
            .map(|(_, known, domain)| format!("; the most similar address is {known} of {:?}", domain.name));
        finding = finding.seen(format!("{}{}", address.describe(), nearest.unwrap_or_default()));
    }
    finding = match addresses.len().saturating_sub(MAX_LISTED) {
        0 => finding,
        1 => finding.seen("1 more address"),
        more => finding.seen(format!("{more} more addresses")),
    };
    Some(finding.advice(
        "If an address belongs to a passed-through network card, run doctor for its domain: wakevirtctl doctor DOMAIN",
    ))
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
        let fix = virsh::redefine(&other.connection, &other.name, Some(&format!("/{mac}/d")));
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
        // libvirt reports a new definition to the actor, but not a device that `attach-interface --config` adds.
        let interface = format!(
            "<interface type=\"{kind}\"><source {kind}=\"{source}\"/><model type=\"virtio\"/></interface>"
        );
        let edit = format!("s|</devices>|{interface}</devices>|");
        let command = virsh::redefine(&machine.uri, name, Some(&edit));
        return Some(finding.fix(commands::virsh(seen, &command, &machine.uri)));
    }
    let finding = Finding::error(
        "passed-through-card",
        format!("{name:?} has a passed-through network card, but no alias with its address"),
    );
    let mut finding = finding.seen(format!("<hostdev> {}", machine.devices.join(", ")));
    let on_host = machine.devices.iter().find_map(|device| host_address(device));
    let address = unknown_addresses(seen).into_iter().find(|address| address.mac.is_unicast());
    if let Some(address) = &address {
        finding = finding.seen(address.describe());
    }
    let mac = on_host.or_else(|| address.map(|address| address.mac.to_string()));
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
    let finding = finding.seen("virsh dominfo: Persistent: no");
    Some(finding.fix(commands::virsh(seen, &virsh::redefine(&machine.uri, name, None), &machine.uri)))
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
