//! Whether the rules allow the domain, and name existing domains and interfaces.

use wakevirt_service::config::InterfacePattern;

use crate::client::Domain;
use crate::quoting::{quote, toml_list};
use crate::verbs::doctor::checks::{commands, nearest};
use crate::verbs::doctor::observe::Observations;
use crate::verbs::doctor::observe::config::{ActorConfig, Rule};
use crate::verbs::doctor::observe::libvirt::Machine;
use crate::verbs::doctor::observe::network::Link;
use crate::verbs::domain::matches_pattern;
use crate::verbs::finding::Finding;

/// Finds domains that no rule allows, and rules that match nothing.
#[must_use]
pub fn check(seen: &Observations) -> Vec<Finding> {
    let mut findings: Vec<Finding> = wanted(seen).into_iter().collect();
    findings.extend(nothing_allowed(seen));
    let config = seen.actor_config.as_ref().ok().and_then(|config| config.keys.as_ref().ok());
    if let Some(config) = config {
        findings.extend(config.allow.iter().filter_map(|rule| names_no_domain(seen, rule)));
        findings.extend(config.allow.iter().filter_map(|rule| names_no_interface(seen, rule)));
        findings.extend(config.allow.iter().filter_map(|rule| vlan_with_interface(seen, rule)));
    }
    findings
}

/// The actor's configuration, if it is known.
fn config(seen: &Observations) -> Option<&ActorConfig> {
    seen.actor_config.as_ref().ok()?.keys.as_ref().ok()
}

/// Whether a rule is for this domain.
#[must_use]
pub fn is_for(rule: &Rule, domain: &Domain) -> bool {
    rule.domain.as_deref().is_some_and(|pattern| matches_pattern(domain, pattern))
}

/// Whether a different rule for the same domain accepts what this rule was meant to accept. A previous command of doctor
/// may have added it.
fn is_replaced(seen: &Observations, rule: &Rule, accepts: impl Fn(&Rule) -> bool) -> bool {
    let rules = config(seen).map(|config| config.allow.as_slice()).unwrap_or_default();
    rules.iter().any(|other| other.domain == rule.domain && other != rule && accepts(other))
}

/// Reports the domain that the caller named, if it is unknown or not allowed.
fn wanted(seen: &Observations) -> Option<Finding> {
    let wanted = seen.wanted.as_deref()?;
    let Some(domain) = seen.wanted_domain() else {
        if seen.bus.domains.is_err() || !seen.unconnected.is_empty() {
            return None;
        }
        let finding =
            Finding::error("no-such-domain", format!("no known domain has the name or UUID {wanted:?}"));
        let names: Vec<&str> = seen.domains().iter().map(|domain| domain.name.as_str()).collect();
        let finding = finding.seen(format!(
            "known domains: {}",
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        ));
        return Some(match nearest::name(wanted, names) {
            Some(name) => finding.fix(format!("wakevirtctl doctor {}", quote(name))),
            None => finding.advice(
                "To use the domains of another hypervisor, add its URI to the connections key in actor.toml.",
            ),
        });
    };
    if domain.allowed {
        return None;
    }
    if domain.macs.is_empty() {
        if seen.in_cluster {
            return None;
        }
        // If virsh(1) shows the domain, a different check reports this, with a command.
        let is_shown = |machine: &Machine| machine.name == domain.name && machine.uri == domain.connection;
        let finding = || {
            let problem = format!("{:?} has no MAC address, so no packet can wake it", domain.name);
            Finding::error("no-address", problem)
                .seen("the actor lists the domain without an address")
                .advice("Add a network interface to the domain, or an alias to actor.toml.")
        };
        return (!seen.machines.iter().any(is_shown)).then(finding);
    }
    let rules = config(seen).map_or(0, |config| config.allow.len());
    let finding = Finding::error(
        "not-allowed",
        format!("no rule allows {:?}, and neither does its metadata", domain.name),
    );
    let finding = finding.seen(format!("allowed is false; rules in the configuration: {rules}"));
    Some(finding.fix(commands::allow(seen, &domain.name, &[])))
}

/// Reports that no domain is allowed.
fn nothing_allowed(seen: &Observations) -> Option<Finding> {
    let domains: Vec<&Domain> = seen.domains().iter().filter(|domain| !domain.macs.is_empty()).collect();
    let first = domains.first()?;
    if seen.wanted.is_some() || domains.iter().any(|domain| domain.allowed) {
        return None;
    }
    let names: Vec<&str> = domains.iter().map(|domain| domain.name.as_str()).take(10).collect();
    let finding = Finding::error(
        "nothing-allowed",
        "packets cannot wake any domain: neither a rule nor metadata allows one",
    );
    let finding =
        finding.seen(format!("domains: {}", names.join(", "))).fix(commands::allow(seen, &first.name, &[]));
    Some(if domains.len() > 1 {
        finding.advice("Replace the name in the command with the name of your domain.")
    } else {
        finding
    })
}

/// Reports a rule for a domain that does not exist.
fn names_no_domain(seen: &Observations, rule: &Rule) -> Option<Finding> {
    let domains = seen.bus.domains.as_ref().ok()?;
    let pattern = rule.domain.as_deref()?;
    if !seen.unconnected.is_empty() || domains.iter().any(|domain| is_for(rule, domain)) {
        return None;
    }
    let finding = Finding::warning(
        "rule-names-no-domain",
        format!("a rule is for {pattern:?}, which does not match a known domain"),
    );
    let denied = domains.iter().filter(|domain| !domain.allowed).map(|domain| domain.name.as_str());
    Some(match nearest::name(pattern, denied) {
        Some(name) => {
            let mut conditions = Vec::new();
            if !rule.interfaces.is_empty() {
                let list = toml_list(rule.interfaces.iter().map(String::as_str));
                conditions.push(format!("interfaces = {list}"));
            }
            if !rule.vlans.is_empty() {
                conditions.push(format!("vlans = {:?}", rule.vlans));
            }
            let finding = finding.seen(format!("{name:?} is similar, and no rule allows it"));
            finding.fix(commands::allow(seen, name, &conditions))
        }
        None => finding.fix(commands::find_in_actor_config(seen, pattern)).advice(
            "Correct the rule, or remove it; it does not affect other domains. The command shows where it is.",
        ),
    })
}

/// Reports a rule for interfaces that do not exist.
fn names_no_interface(seen: &Observations, rule: &Rule) -> Option<Finding> {
    let links = seen.links.as_ref().ok()?;
    let patterns: Vec<InterfacePattern> = rule.interfaces.iter().filter_map(|it| it.parse().ok()).collect();
    let exists =
        |pattern: &InterfacePattern| links.iter().any(|link| link.names().any(|name| pattern.matches(name)));
    let accepts_some = |other: &Rule| {
        let mut patterns = other.interfaces.iter().filter_map(|it| it.parse().ok());
        other.interfaces.is_empty() || patterns.any(|pattern| exists(&pattern))
    };
    if patterns.is_empty() || patterns.iter().any(exists) || is_replaced(seen, rule, accepts_some) {
        return None;
    }
    let names = || links.iter().filter(|link| !link.is_loopback()).flat_map(Link::names);
    let list = toml_list(rule.interfaces.iter().map(String::as_str));
    let finding = Finding::error(
        "rule-names-no-interface",
        format!("a rule accepts packets only on interfaces that do not exist: {list}"),
    );
    let finding = finding.seen(format!("this host has {}", names().collect::<Vec<_>>().join(", ")));
    let domain = rule.domain.as_deref()?;
    let similar: Vec<&str> = patterns.iter().filter_map(|it| nearest::name(it.text(), names())).collect();
    let all: Vec<&str> =
        seen.bus.capture.status().iter().flat_map(|it| &it.interfaces).map(String::as_str).collect();
    let wanted =
        if similar.is_empty() { all.into_iter().filter(|name| *name != "lo").collect() } else { similar };
    Some(finding.fix(commands::allow(seen, domain, &[format!("interfaces = {}", toml_list(wanted))])))
}

/// Reports a rule that names both the interface of a VLAN and its ID. On that interface, packets have no tag, because
/// the kernel has removed it.
fn vlan_with_interface(seen: &Observations, rule: &Rule) -> Option<Finding> {
    let links = seen.links.as_ref().ok()?;
    let named = |link: &&Link| link.names().any(|name| rule.interfaces.iter().any(|it| it == name));
    let (vlan, link) = links.iter().filter(named).find_map(|link| Some((link.vlan()?, link)))?;
    let (id, below) = vlan;
    if rule.vlans.is_empty() || rule.vlans.contains(&0) || rule.interfaces.iter().any(|it| it == below) {
        return None;
    }
    let accepts_untagged = |other: &Rule| {
        let is_for_link = other.interfaces.is_empty()
            || link.names().any(|it| other.interfaces.iter().any(|name| name == it));
        is_for_link && (other.vlans.is_empty() || other.vlans.contains(&0))
    };
    if is_replaced(seen, rule, accepts_untagged) {
        return None;
    }
    let domain = rule.domain.as_deref()?;
    let finding = Finding::error(
        "vlan-interface",
        format!(
            "a rule for {domain:?} accepts VLAN {id} on {}, where the kernel has removed the tag",
            link.name
        ),
    );
    let finding = finding.seen(format!("{} is VLAN {id} of {below}; its packets have no tag", link.name));
    Some(finding.fix(commands::allow(
        seen,
        domain,
        &[format!("interfaces = {}", toml_list([link.name.as_str()]))],
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::doctor::observe::config::Config;
    use crate::verbs::doctor::observe::network::parse;

    /// The output of `ip -json -details address` of iproute2 6.1 for a VLAN, reduced to what doctor reads.
    const LINKS: &str = r#"[{},
        {"ifname":"enp1s0","flags":["BROADCAST","UP","LOWER_UP"],"promiscuity":0,"addr_info":[]},
        {"ifname":"enp1s0.10","link":"enp1s0","flags":["UP"],"linkinfo":{"info_kind":"vlan","info_data":{"protocol":"802.1Q",
         "id":10,"flags":["REORDER_HDR"]}},"addr_info":[]}]"#;

    #[test]
    fn finds_a_rule_for_a_vlan_on_its_own_interface() {
        for (interfaces, vlans, found) in [
            (vec!["enp1s0.10"], vec![10], true),
            (vec!["enp1s0.10"], vec![], false),
            (vec!["enp1s0"], vec![10], false),
            (vec!["enp1s0", "enp1s0.10"], vec![10], false),
        ] {
            let interfaces = interfaces.into_iter().map(str::to_owned).collect();
            let rule = Rule { domain: Some("win11".to_owned()), interfaces, vlans };
            let keys = ActorConfig { allow: vec![rule], ..ActorConfig::default() };
            let mut seen = Observations::nothing();
            seen.links = Ok(parse(LINKS).unwrap());
            seen.actor_config = Ok(Config { keys: Ok(keys), file: None, directory: None });
            let findings = check(&seen);
            assert_eq!(
                findings.iter().any(|finding| finding.check == "vlan-interface"),
                found,
                "{findings:?}"
            );
            let fix = "printf '%s\\n' '[[allow]]' 'domain = \"win11\"' 'interfaces = [\"enp1s0.10\"]' \
                        >/etc/wakevirt/actor.d/50-allow-win11.toml && systemctl reload-or-restart wakevirt-actor";
            assert!(!found || findings[0].fix.as_deref() == Some(fix), "{findings:?}");
        }
    }
}
