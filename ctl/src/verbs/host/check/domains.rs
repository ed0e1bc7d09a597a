//! The definitions of the domains, and their settings in host.toml.

use wakevirt_host::model::PageSize;
use wakevirt_host::sleep;

use super::super::guests::URI;
use super::observe::{Configured, Seen};
use crate::quoting::quote;
use crate::verbs::finding::Finding;
use crate::virsh;

/// The weight of every slice by default: systemd.resource-control(5).
const DEFAULT_WEIGHT: u64 = 100;

/// Finds what prevents or weakens the preparation of the host for this domain.
#[must_use]
pub fn check(seen: &Seen, domain: &Configured) -> Vec<Finding> {
    let name = &domain.guest.name;
    let mut findings = Vec::new();
    for failure in seen.preview.steps(&domain.guest, &domain.needs).failures {
        let finding = Finding::error("host-preparation", format!("{name}: {failure}"));
        findings.push(finding.advice(format!("\"{}\" shows the plan.", plan(name))));
    }
    pins(seen, domain, &mut findings);
    huge_pages(seen, domain, &mut findings);
    weight(seen, domain, &mut findings);
    if let Some(abilities) = &domain.abilities {
        let problems = sleep::findings(abilities, domain.settings.sleep, domain.settings.shutdown);
        findings
            .extend(problems.into_iter().map(|it| Finding::warning("host-sleep", format!("{name}: {it}"))));
    }
    if domain.settings.monitor.is_some() && !seen.ddcutil {
        let problem =
            format!("{name}: the monitor's input cannot be switched, because ddcutil is not installed");
        let finding = Finding::warning("host-ddcutil-missing", problem);
        findings.push(finding.fix(seen.caller.as_root("apt-get install ddcutil")));
    }
    findings
}

/// Finds domains that isolate the same CPUs.
#[must_use]
pub fn together(seen: &Seen) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, one) in seen.domains.iter().enumerate() {
        for other in seen.domains.iter().skip(index + 1) {
            let both = one.needs.isolated.intersection(&other.needs.isolated);
            if !both.is_empty() {
                let problem = format!(
                    "{} and {} isolate the same CPUs {both}, and share them if both run",
                    one.guest.name, other.guest.name
                );
                findings.push(Finding::warning("host-cpus-shared", problem));
            }
        }
    }
    findings
}

fn pins(seen: &Seen, domain: &Configured, findings: &mut Vec<Finding>) {
    let (name, isolated) = (&domain.guest.name, &domain.needs.isolated);
    let Some(definition) = domain.definition.as_ref().filter(|_| !isolated.is_empty()) else { return };
    let advice = format!("Add the elements that \"{}\" prints.", plan(name));
    let edit = virsh::command(URI, &["edit", name]);
    let mut warn =
        |check, problem| findings.push(Finding::warning(check, problem).advice(&advice).fix(&edit));
    match &definition.emulator {
        None => warn(
            "host-emulator-unpinned",
            format!(
                "{name} has no <emulatorpin>, so that threads of QEMU itself use its isolated CPUs {isolated}"
            ),
        ),
        Some(cpus) if !cpus.intersection(isolated).is_empty() => warn(
            "host-emulator-isolated",
            format!("<emulatorpin> of {name} contains its isolated CPUs {}", cpus.intersection(isolated)),
        ),
        Some(_) => {}
    }
    let unpinned: Vec<u32> =
        (0..definition.vcpus).filter(|vcpu| definition.pins.of(*vcpu).is_none()).collect();
    if let Some(first) = unpinned.first() {
        warn(
            "host-vcpus-unpinned",
            format!("{} vCPUs of {name} have no <vcpupin>, such as vCPU {first}", unpinned.len()),
        );
    }
    if !has_controller(seen, "cpuset") {
        findings.push(no_controller(name, "isolate", "cpuset"));
    }
}

fn huge_pages(seen: &Seen, domain: &Configured, findings: &mut Vec<Finding>) {
    let sizes = domain.needs.pages.iter().map(|pages| pages.size);
    for size in sizes.filter(|size| !seen.mounts.contains(size)) {
        let name = &domain.guest.name;
        let problem =
            format!("{name} needs huge pages of {size}, but no hugetlbfs with this page size is mounted");
        let restart = seen.daemons.first().map_or("libvirtd.service", |daemon| daemon.unit);
        let mount = mount(size, seen.preview.topology.default_page);
        let finding = Finding::error("host-hugetlbfs-missing", problem);
        let finding =
            finding.advice("libvirt finds the mount when it starts. Its restart does not stop domains.");
        findings.push(finding.fix(seen.caller.as_root(&format!("{mount} && systemctl restart {restart}"))));
    }
}

/// A command that mounts hugetlbfs.
fn mount(size: PageSize, default: Option<PageSize>) -> String {
    if default == Some(size) {
        return "systemctl start dev-hugepages.mount".to_owned();
    }
    let folder = format!("/dev/hugepages-{}", size.to_string().replace(' ', ""));
    format!("mkdir -p {folder} && mount -t hugetlbfs -o pagesize={}K hugetlbfs {folder}", size.0)
}

fn weight(seen: &Seen, domain: &Configured, findings: &mut Vec<Finding>) {
    let (name, Some(weight)) = (&domain.guest.name, domain.settings.weight) else { return };
    if !has_controller(seen, "cpu") {
        findings.push(no_controller(name, "weight", "cpu"));
    } else if weight == DEFAULT_WEIGHT {
        let problem = format!("weight = {weight} has no effect for {name}, because it is the default");
        findings.push(Finding::warning("host-weight-default", problem));
    }
}

fn has_controller(seen: &Seen, name: &str) -> bool {
    seen.controllers.split_whitespace().any(|controller| controller == name)
}

fn no_controller(name: &str, key: &str, controller: &str) -> Finding {
    let problem =
        format!("{key} has no effect for {name}: the {controller} controller of cgroup v2 is not available");
    let finding = Finding::error("host-controller-missing", problem);
    finding.advice("Boot the host with the unified hierarchy of cgroups, which is systemd's default.")
}

fn plan(name: &str) -> String {
    format!("wakevirtctl host plan {}", quote(name))
}
