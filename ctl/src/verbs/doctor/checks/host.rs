//! The preparation of the host for its domains.

use crate::quoting::quote;
use crate::verbs::doctor::observe::Observations;
use crate::verbs::finding::Finding;

/// The unit of the service.
const UNIT: &str = "wakevirt-host.service";

/// Finds domains for which the host is not prepared, and why the service does not run.
#[must_use]
pub fn check(seen: &Observations) -> Vec<Finding> {
    let Ok(host) = &seen.host else { return Vec::new() };
    let mut findings = Vec::new();
    if let Some(problem) = &host.invalid {
        let finding =
            Finding::warning("host-config-invalid", "the configuration of wakevirt-host is invalid");
        findings.push(finding.seen(problem).advice("Correct the file, and run \"wakevirtctl host check\"."));
    }
    if host.is_configured {
        findings.extend(service(seen));
    }
    let is_wanted = |name: &str| seen.wanted_domain().is_none_or(|wanted| wanted.name == name);
    let records = &host.state.records;
    for record in records.iter().filter(|record| is_wanted(&record.name)) {
        if record.problems().next().is_none() {
            continue;
        }
        let problem = format!("the host is not fully prepared for {}", record.name);
        let finding = Finding::warning("host-not-prepared", problem).advice(advice(&record.name));
        findings.push(record.problems().fold(finding, |finding, problem| finding.seen(problem)));
    }
    // The latest failure of each domain that is not active, for example because it must not start without its CPUs.
    let mut known: Vec<&str> = records.iter().map(|record| record.name.as_str()).collect();
    for failure in host.state.failures.iter().rev() {
        let Some(name) = failure.domain.as_deref().filter(|name| is_wanted(name)) else { continue };
        if !known.contains(&name) {
            known.push(name);
            let problem = format!("the host could not be prepared for the last start of {name}");
            let finding = Finding::note("host-preparation-failed", problem).seen(&failure.message);
            findings.push(finding.advice(advice(name)));
        }
    }
    findings
}

fn advice(name: &str) -> String {
    format!("\"wakevirtctl host check {}\" finds out why.", quote(name))
}

fn service(seen: &Observations) -> Option<Finding> {
    let unit = seen.units.as_ref().ok()?.get(UNIT)?;
    if unit.is_active() {
        return None;
    }
    let problem = format!("{UNIT} is not running, although host.toml contains domains");
    let finding = Finding::warning("host-service-stopped", problem);
    if !unit.is_installed() {
        return Some(finding.advice("Install the package wakevirt-host."));
    }
    let finding = finding.seen(format!("{UNIT}: {} ({})", unit.get("ActiveState"), unit.get("SubState")));
    let finding = unit.log.iter().fold(finding, |finding, line| finding.seen(format!("log: {line}")));
    Some(finding.fix(seen.caller.as_root(&format!("systemctl enable --now {UNIT}"))))
}

#[cfg(test)]
mod tests {
    use wakevirt_host::model::{Phase, Record};
    use wakevirt_host::state::{Failure, State};

    use super::*;
    use crate::verbs::doctor::observe::host::Preparation;
    use crate::verbs::units::parse;

    fn record(name: &str, failures: &[&str]) -> Record {
        let failures = failures.iter().map(|failure| (*failure).to_owned()).collect();
        Record { failures, ..Record::new(name, Phase::Started, core::time::Duration::ZERO) }
    }

    fn found(host: Preparation, units: &str) -> Vec<&'static str> {
        let mut seen = Observations::nothing();
        seen.host = Ok(host);
        seen.units = Ok(parse(units));
        check(&seen).iter().map(|finding| finding.check).collect()
    }

    #[test]
    fn reports_failures_of_each_domain() {
        let failure = |name: &str, message: &str| Failure {
            domain: Some(name.to_owned()),
            part: None,
            time: 1,
            message: message.to_owned(),
        };
        let state = State {
            records: vec![record("a", &["no pages"]), record("b", &[])],
            failures: vec![
                failure("a", "no pages"),
                failure("c", "old"),
                failure("c", "new"),
                failure("b", "old"),
            ],
            ..State::default()
        };
        let mut seen = Observations::nothing();
        seen.host = Ok(Preparation { state, ..Preparation::default() });
        let findings = check(&seen);
        let shown: Vec<_> = findings.iter().map(|it| (it.check, it.evidence.join(" "))).collect();
        let expected = [("host-not-prepared", "no pages"), ("host-preparation-failed", "new")];
        assert_eq!(shown, expected.map(|(check, evidence)| (check, evidence.to_owned())));
    }

    #[test]
    fn reports_a_stopped_service_only_if_it_is_configured() {
        let host = |is_configured| Preparation { is_configured, ..Preparation::default() };
        let unit = |state: &str| format!("Id={UNIT}\nLoadState=loaded\nActiveState={state}\n");
        assert_eq!(found(host(true), &unit("failed")), ["host-service-stopped"]);
        assert_eq!(found(host(true), &unit("active")), [""; 0]);
        assert_eq!(found(host(false), &unit("inactive")), [""; 0]);
        let invalid = Preparation { invalid: Some("line 3".to_owned()), ..Preparation::default() };
        assert_eq!(found(invalid, ""), ["host-config-invalid"]);
    }
}
