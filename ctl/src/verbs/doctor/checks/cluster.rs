//! Virtual machines of KubeVirt: the connection, permissions and addresses.
//!
//! In a pod, doctor cannot change anything: the configuration is a ConfigMap, and Kubernetes manages the services.

use std::collections::{BTreeMap, BTreeSet};

use crate::client::Domain;
use crate::verbs::doctor::checks::rules;
use crate::verbs::doctor::observe::Observations;
use crate::verbs::doctor::observe::config::Rule;
use crate::verbs::finding::Finding;

/// The maximum number of virtual machines in a list.
const MAX_LISTED: usize = 10;
/// The page to which the advice refers.
const PAGE: &str = "/usr/share/doc/wakevirt/KUBEVIRT.md";

/// Finds reasons why packets do not start virtual machines.
#[must_use]
pub fn check(seen: &Observations) -> Vec<Finding> {
    let mut findings: Vec<Finding> = permissions(seen);
    findings.extend(configuration(seen));
    findings.extend(connections(seen));
    findings.extend(without_address(seen));
    findings.extend(duplicates(seen));
    findings
}

/// Replaces commands for a host with advice for a cluster.
#[must_use]
pub fn adapt(mut finding: Finding) -> Finding {
    if finding.check == "service-absent" || finding.check == "bus-unreachable" {
        finding.advice = Some(
            "Look at the containers: kubectl --namespace wakevirt describe pod POD, and kubectl --namespace wakevirt logs \
             POD --container CONTAINER"
                .to_owned(),
        );
    } else if finding.fix.as_ref().is_none_or(|fix| fix.starts_with("wakevirtctl doctor ")) {
        return finding;
    } else {
        finding.advice = Some(format!(
            "Change actor.toml or capture.toml in your kustomization, and apply it; see {PAGE}."
        ));
    }
    finding.fix = None;
    finding
}

fn config_rules(seen: &Observations) -> &[Rule] {
    let config = seen.actor_config.as_ref().ok().and_then(|config| config.keys.as_ref().ok());
    config.map(|config| config.allow.as_slice()).unwrap_or_default()
}

fn configuration(seen: &Observations) -> Option<Finding> {
    let error = seen.actor_config.as_ref().ok()?.keys.as_ref().err()?;
    let finding = Finding::error("configuration", "the configuration of the actor is invalid").seen(error);
    Some(finding.advice("Correct actor.toml in your kustomization, and apply it."))
}

/// A permission that Kubernetes' RBAC denies.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Denied {
    verb: String,
    resource: String,
    group: String,
}

/// Finds the permission in the API server's message: `User "…" cannot list resource "virtualmachines" in API group
/// "kubevirt.io" …`.
fn denied(message: &str) -> Option<Denied> {
    let message = message.replace("\\\"", "\"");
    let (_, rest) = message.split_once(" cannot ")?;
    let (verb, rest) = rest.split_once(" resource \"")?;
    let (resource, rest) = rest.split_once("\" in API group \"")?;
    let (group, _) = rest.split_once('"')?;
    let is_word =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-./".contains(&byte));
    let [verb, resource, group] = [verb, resource, group].map(str::to_owned);
    [&verb, &resource, &group].iter().all(|it| is_word(it)).then_some(Denied { verb, resource, group })
}

/// Names the permissions that the API server denies the actor: for the connection, or for the latest wakes.
fn permissions(seen: &Observations) -> Vec<Finding> {
    let failed = seen.bus.decisions.iter().flatten().filter(|decision| decision.outcome == "failed");
    let reasons = failed.filter_map(|decision| decision.details.reason.as_deref());
    let mut found: BTreeMap<Denied, &str> = BTreeMap::new();
    for message in errors(seen).map(|(_, error)| error).chain(reasons) {
        if let Some(denied) = denied(message) {
            found.entry(denied).or_insert(message);
        }
    }
    let finding = |(Denied { verb, resource, group }, message): (Denied, &str)| {
        let problem = format!("the API server denies the actor the verb {verb} for {resource} in {group:?}");
        Finding::error("missing-permission", problem).seen(message).advice(format!(
            "Add the verb to the Role or ClusterRole of the service account; see \"Permissions\" in {PAGE}."
        ))
    };
    found.into_iter().map(finding).collect()
}

/// The connections that failed, and the reasons.
fn errors(seen: &Observations) -> impl Iterator<Item = (&str, &str)> {
    let connections = seen.bus.actor.status().into_iter().flat_map(|status| &status.connections);
    connections.filter_map(|it| Some((it.uri.as_str(), it.error.as_deref()?)))
}

/// Reports clusters to which the actor is not connected, for a reason other than a missing permission.
fn connections(seen: &Observations) -> Vec<Finding> {
    let finding = |(uri, _): &(String, Option<String>)| {
        let error = errors(seen).find(|(other, _)| other == uri).map(|(_, error)| error);
        if error.is_some_and(|error| denied(error).is_some()) {
            return None;
        }
        let finding = Finding::error("cluster-unreachable", format!("the actor has no connection to {uri}"));
        Some(match error {
            Some(error) => finding.seen(error),
            None => finding.advice("The log of the actor contains the reason."),
        })
    };
    seen.unconnected.iter().filter_map(finding).collect()
}

/// Whether a rule names the virtual machine without a glob.
fn is_named(seen: &Observations, domain: &Domain) -> bool {
    let is_named =
        |rule: &Rule| rule.domain.as_deref().is_some_and(|it| it == domain.name || it == domain.uuid);
    config_rules(seen).iter().any(is_named)
}

/// Names the virtual machines that have no fixed address although a rule is for them, or the caller named them.
fn without_address(seen: &Observations) -> Option<Finding> {
    let is_meant = |domain: &&Domain| match &seen.wanted {
        Some(wanted) => [&domain.name, &domain.uuid].contains(&wanted),
        None => config_rules(seen).iter().any(|rule| rules::is_for(rule, domain)),
    };
    let domains = seen.domains().iter().filter(|domain| domain.macs.is_empty()).filter(is_meant);
    let names: Vec<String> = domains.map(|domain| format!("{:?}", domain.name)).collect();
    let have = match names.len() {
        0 => return None,
        1 => "has no fixed MAC address, so no packet can wake it",
        _ => "have no fixed MAC address, so no packet can wake them",
    };
    let finding = Finding::error("no-address", format!("{} {have}", listed(&names)));
    Some(finding.seen("the specification of the VirtualMachine contains no macAddress, and there is no alias").advice(
        format!(
            "KubeVirt chooses a new address for each start. Set macAddress in spec.template.spec.domain.devices.interfaces, \
             install kubemacpool, or add an alias to actor.toml; see \"MAC addresses\" in {PAGE}."
        ),
    ))
}

/// The first names, and the number of others.
fn listed(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(MAX_LISTED).map(String::as_str).collect();
    match names.len().saturating_sub(MAX_LISTED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Reports addresses that several virtual machines have. The actor does not count targets of a migration.
fn duplicates(seen: &Observations) -> Vec<Finding> {
    let mut owners: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut domains = BTreeMap::new();
    for domain in seen.domains().iter().filter(|domain| domain.state != "shut off (migrated)") {
        domains.insert(domain.name.as_str(), domain);
        for mac in &domain.macs {
            owners.entry(mac).or_default().insert(&domain.name);
        }
    }
    let named = |name: &&&str| domains.get(**name).is_some_and(|domain| is_named(seen, domain));
    let finding = |(mac, names): (&str, BTreeSet<&str>)| {
        let is_meant = |wanted: &Domain| names.contains(wanted.name.as_str());
        let selected = names.iter().filter(named).count() == 1;
        if names.len() < 2 || selected || !seen.wanted_domain().is_none_or(is_meant) {
            return None;
        }
        let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
        let problem = format!("{} have the same address, so a packet wakes none of them", listed(&names));
        let finding = Finding::error("ambiguous-address", problem).seen(format!("they all have {mac}"));
        Some(finding.advice(
            "Write a rule that names exactly one of them without a glob, or give each of them an address of its own.",
        ))
    };
    owners.into_iter().filter_map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{ActorStatus, HypervisorConnection};
    use crate::verbs::doctor::observe::bus::Reply;
    use crate::verbs::doctor::observe::config::{ActorConfig, Config};

    const FORBIDDEN: &str = "cannot list and watch the virtual machines: virtualmachines.kubevirt.io is forbidden: User \
                             \"system:serviceaccount:wakevirt:wakevirt\" cannot list resource \"virtualmachines\" in API group \
                             \"kubevirt.io\" at the cluster scope";

    fn with_error(error: Option<&str>) -> Observations {
        let connection = HypervisorConnection {
            uri: "kubevirt://".to_owned(),
            connected: false,
            last_sync: Some(0),
            error: error.map(str::to_owned),
        };
        let mut seen = Observations::nothing();
        seen.bus.actor =
            Reply::Status(ActorStatus { connections: vec![connection], ..ActorStatus::default() });
        seen.unconnected = vec![("kubevirt://".to_owned(), None)];
        seen
    }

    fn domain(name: &str, macs: &[&str]) -> Domain {
        let macs = macs.iter().map(|mac| (*mac).to_owned()).collect();
        Domain { name: name.to_owned(), macs, state: "shut off".to_owned(), ..Domain::default() }
    }

    fn with_domains(domains: Vec<Domain>, rules: &[&str]) -> Observations {
        let rule = |name: &&str| Rule { domain: Some((*name).to_owned()), ..Rule::default() };
        let keys = ActorConfig { allow: rules.iter().map(rule).collect(), ..ActorConfig::default() };
        let mut seen = Observations::nothing();
        seen.bus.domains = Ok(domains);
        seen.actor_config = Ok(Config { keys: Ok(keys), file: None, directory: None });
        seen
    }

    fn problems(seen: &Observations) -> Vec<(&'static str, String)> {
        check(seen).into_iter().map(|finding| (finding.check, finding.problem)).collect()
    }

    #[test]
    fn names_the_missing_verb() {
        let problem =
            "the API server denies the actor the verb list for virtualmachines in \"kubevirt.io\"".to_owned();
        assert_eq!(problems(&with_error(Some(FORBIDDEN))), [("missing-permission", problem)]);
        let quoted = "User \\\"x\\\" cannot update resource \\\"virtualmachines/start\\\" in API group \
                      \\\"subresources.kubevirt.io\\\" in the namespace \\\"web\\\"";
        let denied = denied(quoted).unwrap();
        assert_eq!((denied.verb.as_str(), denied.resource.as_str()), ("update", "virtualmachines/start"));
        assert_eq!(super::denied("x cannot a b resource \"c\" in API group \"d\""), None);
    }

    #[test]
    fn reports_why_there_is_no_connection() {
        for (error, evidence) in [(Some("connection refused"), vec!["connection refused"]), (None, vec![])] {
            let findings = check(&with_error(error));
            assert_eq!(findings.len(), 1);
            assert_eq!(
                (findings[0].check, &findings[0].evidence[..]),
                ("cluster-unreachable", &evidence.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>()[..])
            );
        }
    }

    #[test]
    fn names_virtual_machines_without_an_address_if_a_rule_is_for_them() {
        let domains =
            || vec![domain("web/a", &[]), domain("web/b", &["52:54:00:00:00:01"]), domain("db/c", &[])];
        let problem = "\"web/a\" has no fixed MAC address, so no packet can wake it".to_owned();
        assert_eq!(problems(&with_domains(domains(), &["web/*"])), [("no-address", problem)]);
        assert_eq!(problems(&with_domains(domains(), &["web/b"])), []);
        let seen = Observations { wanted: Some("db/c".to_owned()), ..with_domains(domains(), &[]) };
        assert_eq!(check(&seen)[0].problem, "\"db/c\" has no fixed MAC address, so no packet can wake it");
        let many: Vec<Domain> = (10..22).map(|number| domain(&format!("web/{number}"), &[])).collect();
        assert!(check(&with_domains(many, &["web/*"]))[0].problem.contains("\"web/19\" and 2 more have no"));
    }

    #[test]
    fn reports_duplicates_unless_a_rule_names_exactly_one_of_them() {
        let mac = "52:54:00:00:00:01";
        let domains = || vec![domain("web/a", &[mac]), domain("web/b", &[mac])];
        let problem = "\"web/a\", \"web/b\" have the same address, so a packet wakes none of them".to_owned();
        for rules in [&[] as &[&str], &["web/*"], &["web/a", "web/b"]] {
            assert_eq!(problems(&with_domains(domains(), rules)), [("ambiguous-address", problem.clone())]);
        }
        assert_eq!(problems(&with_domains(domains(), &["web/a", "web/*"])), []);
        let mut twins = domains();
        twins[1].state = "shut off (migrated)".to_owned();
        assert_eq!(problems(&with_domains(twins, &[])), []);
    }

    #[test]
    fn replaces_commands_for_a_host() {
        let finding = || Finding::error("not-allowed", "x");
        let adapted = adapt(finding().fix("sudo wakevirtctl allow x"));
        assert_eq!(adapted.fix, None);
        assert!(adapted.advice.unwrap().contains("kustomization"));
        assert_eq!(adapt(finding().fix("wakevirtctl doctor x")).fix.as_deref(), Some("wakevirtctl doctor x"));
        assert_eq!(adapt(finding().advice("y")).advice.as_deref(), Some("y"));
        let absent = Finding::error("service-absent", "x").advice("see INSTALL.md");
        assert!(adapt(absent).advice.unwrap().contains("kubectl"));
    }
}
