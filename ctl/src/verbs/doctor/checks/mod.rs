//! The checks: pure functions from observations to findings.

mod cluster;
mod commands;
mod daemons;
mod domains;
mod host;
mod hypervisors;
mod interfaces;
mod nearest;
mod packets;
mod permissions;
mod rules;
mod services;
mod session;

use super::observe::Observations;
use crate::verbs::finding::Finding;

/// Returns all findings, most likely cause first: ordered by severity, and then by the path of a packet.
#[must_use]
pub fn all(seen: &Observations) -> Vec<Finding> {
    let mut findings = if seen.in_cluster { in_cluster(seen) } else { on_host(seen) };
    findings.sort_by_key(|finding| finding.severity);
    findings
}

fn in_cluster(seen: &Observations) -> Vec<Finding> {
    let checks = [
        services::check,
        cluster::check,
        interfaces::check,
        domains::addresses,
        rules::check,
        packets::check,
    ];
    checks.iter().flat_map(|check| check(seen)).map(cluster::adapt).collect()
}

fn on_host(seen: &Observations) -> Vec<Finding> {
    let checks = [
        services::check,
        interfaces::check,
        session::check,
        hypervisors::check,
        daemons::check,
        permissions::check,
        domains::check,
        rules::check,
        packets::check,
        host::check,
    ];
    checks.iter().flat_map(|check| check(seen)).collect()
}
