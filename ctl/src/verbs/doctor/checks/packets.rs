//! The latest decisions, and capture's counters.

use wakevirt_protocol::explain::{ExplainedRule, Explanation, RuleKind, RuleVerdict};
use wakevirt_service::config::InterfacePattern;

use crate::client::{CaptureStatus, Decision};
use crate::output::location;
use crate::quoting::toml_list;
use crate::verbs::doctor::checks::{commands, rules};
use crate::verbs::doctor::observe::Observations;
use crate::verbs::doctor::observe::config::Rule;
use crate::verbs::doctor::observe::network::Link;
use crate::verbs::finding::Finding;
use crate::virsh;

/// The verdicts on rules that are not for the domain.
const FOR_OTHERS: [RuleVerdict; 4] =
    [RuleVerdict::Domain, RuleVerdict::Mac, RuleVerdict::Connection, RuleVerdict::NoDomain];
/// The maximum number of rules that doctor shows for a packet.
const MAX_RULES: usize = 5;

/// Finds packets that arrived, but did not wake a domain.
#[must_use]
pub fn check(seen: &Observations) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        decisions(seen).into_iter().filter_map(|decision| decided(seen, decision)).collect();
    findings.extend(seen.bus.capture.status().into_iter().flat_map(|status| counters(seen, status)));
    findings
}

/// The latest decision on a packet for each domain, unless it denied a packet that would wake the domain now.
fn decisions(seen: &Observations) -> Vec<&Decision> {
    let mut latest: Vec<&Decision> = Vec::new();
    let packets =
        seen.bus.decisions.iter().flatten().filter(|it| it.details.trigger.as_deref() == Some("packet"));
    let is_settled = |decision: &Decision| explanation(seen, decision).is_some_and(|it| it.would_wake);
    for decision in packets {
        let is_wanted =
            seen.wanted_domain().is_none_or(|wanted| decision.domain.as_ref() == Some(&wanted.name));
        if is_wanted && !latest.iter().any(|it| it.domain == decision.domain) {
            latest.push(decision);
        }
    }
    latest.retain(|decision| !is_settled(decision));
    latest
}

/// What the actor would do now with the packet of a decision that denied it.
fn explanation<'a>(seen: &'a Observations, decision: &Decision) -> Option<&'a Explanation> {
    seen.bus.explanations.get(&decision.number?)
}

/// The rules for the domain that did not allow the packet, in order of precedence.
fn denying_rules<'a>(seen: &'a Observations, decision: &Decision) -> impl Iterator<Item = &'a ExplainedRule> {
    let rules = explanation(seen, decision).into_iter().flat_map(|explanation| &explanation.rules);
    rules.filter(|rule| {
        let is_for_others = rule.verdict.is_some_and(|verdict| FOR_OTHERS.contains(&verdict));
        rule.kind == Some(RuleKind::Allow) && !is_for_others
    })
}

/// Adds the reasons why the rules did not allow the packet.
fn add_rules(seen: &Observations, decision: &Decision, finding: Finding) -> Finding {
    denying_rules(seen, decision).take(MAX_RULES).fold(finding, |finding, rule| {
        let location = location(rule.file.as_deref(), rule.line);
        let location = location.map(|location| format!(" ({location})")).unwrap_or_default();
        finding.seen(format!("rule {}{location}: {}", rule.number, rule.reason))
    })
}

/// Describes the packet, and the reason for the decision.
fn describe(decision: &Decision) -> String {
    let details = &decision.details;
    let part =
        |name: &str, value: Option<&str>| value.map(|value| format!(" {name} {value}")).unwrap_or_default();
    format!(
        "packet{}{}{}: {}: {}",
        part("for", decision.mac.as_deref()),
        part("from", details.sender()),
        part("on", details.interface.as_deref()),
        decision.outcome,
        details.reason.as_deref().unwrap_or("no reason"),
    )
}

fn decided(seen: &Observations, decision: &Decision) -> Option<Finding> {
    let name = decision.domain.as_deref()?;
    let finding = match decision.outcome.as_str() {
        "not-allowed" => denied(seen, decision, name)?,
        "bad-password" => {
            let problem = format!("a packet for {name:?} had no SecureOn password, or the wrong one");
            let sender = condition_for_sender(decision);
            let finding =
                Finding::error("denied-password", problem).fix(commands::allow(seen, name, &sender));
            finding.advice("Set the password in the sender, or run the command, which allows packets from this sender without a password.")
        }
        "cooling-down" => {
            let problem =
                format!("a packet for {name:?} arrived during the cool-down after a wake, and was ignored");
            Finding::note("cool-down", problem)
                .advice("Send another packet later, or set a shorter cool-down in actor.toml.")
        }
        "failed" => failed(seen, name)?,
        "expired" => {
            let problem = format!("a wake of {name:?} expired while libvirt was unavailable");
            Finding::note("expired", problem).advice("Send another packet when libvirt is available.")
        }
        _ => return None,
    };
    Some(add_rules(seen, decision, finding.seen(describe(decision))))
}

/// The condition of a rule that accepts packets from this sender.
fn condition_for_sender(decision: &Decision) -> Vec<String> {
    let sender = decision.details.sender();
    sender.map(|sender| format!("sources = {}", toml_list([sender]))).into_iter().collect()
}

/// Reports a packet that no rule accepted. A different check reports domains that no rule allows.
fn denied(seen: &Observations, decision: &Decision, name: &str) -> Option<Finding> {
    let domain = seen.domains().iter().find(|domain| domain.name == name).filter(|domain| domain.allowed)?;
    let config = seen.actor_config.as_ref().ok()?.keys.as_ref().ok()?;
    let denying = denying_rules(seen, decision).next();
    let number = denying.and_then(|rule| usize::try_from(rule.number).ok()?.checked_sub(1));
    let rule = number.and_then(|number| config.allow.get(number));
    let rule = rule.or_else(|| config.allow.iter().find(|rule| rules::is_for(rule, domain)))?;
    let details = &decision.details;
    let verdict = denying.and_then(|rule| rule.verdict);
    // An actor of an earlier version does not return the verdicts.
    let is_interface =
        verdict.map(|it| [RuleVerdict::Interface, RuleVerdict::InterfaceUnknown].contains(&it));
    let is_vlan = verdict.map(|it| [RuleVerdict::Vlan, RuleVerdict::VlanUnknown].contains(&it));
    if let Some(interface) = details.interface.as_deref()
        && is_interface.unwrap_or_else(|| !accepts_interface(seen, rule, interface))
    {
        return Some(denied_interface(seen, rule, name, interface));
    }
    let accepts_vlan =
        || rule.vlans.is_empty() || details.vlan.is_some_and(|vlan| rule.vlans.contains(&vlan));
    if is_vlan.unwrap_or_else(|| !accepts_vlan()) {
        let vlan = match details.vlan {
            None => "in an unknown VLAN".to_owned(),
            Some(0) => "without a VLAN tag".to_owned(),
            Some(vlan) => format!("in VLAN {vlan}"),
        };
        let problem =
            format!("the rule for {name:?} accepts VLANs {:?}, but the packet arrived {vlan}", rule.vlans);
        let condition: Vec<String> =
            details.vlan.map(|vlan| format!("vlans = [{vlan}]")).into_iter().collect();
        return Some(Finding::error("denied-vlan", problem).fix(commands::allow(seen, name, &condition)));
    }
    // A rule that allows the packet can leave a paused domain as it is: the decision has the reason.
    let problem = match verdict {
        Some(RuleVerdict::Allows) => {
            format!("the rule for {name:?} accepts the packet, but not in the state of the domain")
        }
        _ => format!("the rule for {name:?} does not accept packets from this sender"),
    };
    Some(Finding::error("denied-source", problem).fix(commands::allow(
        seen,
        name,
        &condition_for_sender(decision),
    )))
}

fn accepts_interface(seen: &Observations, rule: &Rule, interface: &str) -> bool {
    let links = seen.links.as_deref().unwrap_or_default();
    let link = links.iter().find(|link| link.name == interface);
    let names = || std::iter::once(interface).chain(link.iter().flat_map(|link| link.names()));
    let matches =
        |text: &String| text.parse::<InterfacePattern>().is_ok_and(|it| names().any(|name| it.matches(name)));
    rule.interfaces.is_empty() || rule.interfaces.iter().any(matches)
}

fn denied_interface(seen: &Observations, rule: &Rule, name: &str, interface: &str) -> Finding {
    let list = toml_list(rule.interfaces.iter().map(String::as_str));
    let links = seen.links.as_deref().unwrap_or_default();
    let link = links.iter().find(|link| link.name == interface);
    let bridge = link
        .and_then(|link| link.master.as_deref())
        .filter(|bridge| rule.interfaces.iter().any(|it| it == bridge));
    // A frame with a tag is visible on two interfaces: on the lower one with its tag, and on that of the VLAN without it.
    let is_named = |link: &Link| link.names().any(|name| rule.interfaces.iter().any(|it| it == name));
    let upper =
        links.iter().find(|link| link.vlan().is_some_and(|(_, below)| below == interface) && is_named(link));
    let lower = link.and_then(Link::vlan).filter(|(_, below)| rule.interfaces.iter().any(|it| it == below));
    let problem = format!(
        "the rule for {name:?} accepts packets only on {list}, but the packet arrived on {interface}"
    );
    let finding = Finding::error("denied-interface", problem);
    let finding = match (bridge, upper, lower) {
        (Some(bridge), ..) => finding.seen(format!(
            "{interface} is a port of {bridge}: a frame to the address of a VM that is off appears only on the port"
        )),
        (_, Some(Link { name, .. }), _) => finding.seen(format!("{name} is a VLAN of {interface}")),
        (.., Some((id, below))) => finding.seen(format!("{interface} is VLAN {id} of {below}")),
        _ => finding,
    };
    finding.fix(commands::allow(seen, name, &[format!("interfaces = {}", toml_list([interface]))]))
}

/// Reports a domain that libvirt could not wake.
fn failed(seen: &Observations, name: &str) -> Option<Finding> {
    let machine = seen.machines.iter().find(|machine| machine.name == name);
    if let Some(machine) = machine.filter(|machine| machine.saved) {
        let finding =
            Finding::error("managed-save", format!("libvirt cannot restore the saved state of {name:?}"));
        let remove = virsh::command(&machine.uri, &["managedsave-remove", name]);
        let finding = finding.seen("virsh dominfo: Managed save: yes").fix(commands::virsh(
            seen,
            &remove,
            &machine.uri,
        ));
        return Some(finding.advice(
            "The guest then boots as if after a power failure, and loses all data that it had not yet written to its disk.",
        ));
    }
    let domain = seen
        .domains()
        .iter()
        .find(|domain| domain.name == name)
        .filter(|domain| domain.state != "running")?;
    let finding = Finding::error("wake-failed", format!("libvirt could not wake {name:?}"));
    let start = virsh::command(&domain.connection, &["start", name]);
    let finding = finding.seen(format!("its state is {}", domain.state)).fix(commands::virsh(
        seen,
        &start,
        &domain.connection,
    ));
    Some(finding.advice("The command starts the domain, or shows libvirt's error."))
}

/// Reports packets that were not announced or did not reach the actor.
fn counters(seen: &Observations, status: &CaptureStatus) -> Vec<Finding> {
    let counted = |check, count: u64, name: &str, problem: &str| {
        (count > 0).then(|| Finding::note(check, problem.to_owned()).seen(format!("{name} is {count}")))
    };
    let limited = counted(
        "limited",
        status.limited,
        "Limited",
        "too many magic packets arrived on an interface, and some were not announced",
    );
    let lost = seen.bus.actor.status().map_or(0, |actor| actor.lost_packets);
    [
        counted(
            "malformed",
            status.malformed,
            "Malformed",
            "some frames or datagrams contained no magic packet, or one for an address that no network card can have",
        )
        .map(|it| it.advice("Capture them with tcpdump, and read the file: wakevirtctl read --all FILE")),
        limited.map(|it| it.advice("Find the sender: wakevirtctl monitor")),
        counted("truncated", status.truncated, "Truncated", "the kernel merged datagrams, and capture searched only the beginning"),
        counted("kernel-dropped", status.kernel_dropped, "KernelDropped", "packets arrived faster than capture could read them, and the kernel dropped some"),
        counted("channel-dropped", status.channel_dropped, "ChannelDropped", "packets arrived faster than the announcer could publish them, and some were lost"),
        counted("lost", lost, "LostPackets", "the actor missed announced packets"),
    ]
    .into_iter()
    .flatten()
    .collect()
}
