//! The bug report.

use std::fmt::Write as _;
use std::fs;

use wakevirt_service::init::Init;

use super::mask::Mask;
use super::observe::Observations;
use crate::program::run;
use crate::verbs::finding::{Diagnosis, Finding};

/// The maximum number of decisions in a report.
const MAX_DECISIONS: usize = 20;

/// Returns the report. If `masked` is set, names and addresses are replaced.
#[must_use]
pub fn text(seen: &Observations, diagnosis: &Diagnosis, masked: bool) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "wakevirt {}\n\n## Host\n\n{}", env!("CARGO_PKG_VERSION"), host(&seen.init));
    let _ = writeln!(text, "\n## Findings\n");
    for finding in &diagnosis.findings {
        describe(&mut text, finding);
    }
    if diagnosis.findings.is_empty() {
        text.push_str("none\n");
    }
    let _ = writeln!(text, "\n## Works\n\n{}", lines(diagnosis.works.iter().cloned()));
    let not_checked = diagnosis.not_checked.iter().map(|it| format!("{}: {}", it.what, it.reason));
    let _ = writeln!(text, "\n## Not checked\n\n{}", lines(not_checked));
    services(&mut text, seen);
    if !masked {
        return text;
    }
    let mut mask = Mask::default();
    mask.names(
        "domain",
        seen.domains().iter().flat_map(|domain| [domain.name.as_str(), domain.uuid.as_str()]),
    );
    mask.names("domain", seen.bus.decisions.iter().flatten().filter_map(|it| it.domain.as_deref()));
    mask.names("domain", seen.wanted.as_deref());
    mask.names(
        "host",
        fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().split_whitespace(),
    );
    mask.apply(&text)
}

fn lines(items: impl Iterator<Item = String>) -> String {
    let list: String = items.map(|item| format!("- {item}\n")).collect();
    if list.is_empty() { "none\n".to_owned() } else { list }
}

/// Describes the host, without its name.
fn host(init: &Init) -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .unwrap_or("unknown")
        .trim_matches('"');
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let first = |program: &str, argument: &str| {
        let output = run(program, &[argument]).ok().filter(|output| output.success);
        output
            .and_then(|output| output.stdout.lines().next().map(str::to_owned))
            .unwrap_or_else(|| "not installed".to_owned())
    };
    format!(
        "- system: {name}\n- kernel: {}\n- init system: {}\n- systemd: {}\n- virsh: {}\n",
        kernel.trim(),
        init.name().unwrap_or("unknown"),
        first("systemctl", "--version"),
        first("virsh", "--version")
    )
}

fn describe(text: &mut String, finding: &Finding) {
    let _ = writeln!(text, "- {:?} {}: {}", finding.severity, finding.check, finding.problem);
    for evidence in &finding.evidence {
        let _ = writeln!(text, "  - seen: {evidence}");
    }
    if let Some(fix) = &finding.fix {
        let _ = writeln!(text, "  - run: {fix}");
    }
}

/// Adds the state of the services, the domains, and the latest decisions.
fn services(text: &mut String, seen: &Observations) {
    let _ =
        writeln!(text, "\n## Services\n\n- capture: {:?}\n- actor: {:?}", seen.bus.capture, seen.bus.actor);
    for (name, unit) in seen.units.iter().flatten() {
        let _ = writeln!(
            text,
            "- {name}: {} {} {}",
            unit.get("LoadState"),
            unit.get("ActiveState"),
            unit.get("SubState")
        );
    }
    let domains = seen.domains().iter();
    let domains =
        domains.map(|it| format!("{}: {}, allowed {}, {}", it.name, it.state, it.allowed, it.macs.join(" ")));
    let _ = writeln!(text, "\n## Domains\n\n{}", lines(domains));
    let decisions = seen.bus.decisions.iter().flatten().take(MAX_DECISIONS);
    let decisions = decisions.map(|it| {
        let (domain, mac) = (it.domain.as_deref().unwrap_or("-"), it.mac.as_deref().unwrap_or("-"));
        let (interface, reason) = (it.details.interface.as_deref(), it.details.reason.as_deref());
        format!("{}: {domain} {mac} on {}: {}", it.outcome, interface.unwrap_or("-"), reason.unwrap_or("-"))
    });
    let _ = writeln!(text, "\n## Latest decisions\n\n{}", lines(decisions));
}
