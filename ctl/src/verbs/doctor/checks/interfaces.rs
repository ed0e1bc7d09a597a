//! Whether capture can receive: its mode, its interfaces, and the loopback test.

use wakevirt_service::config::InterfacePattern;

use crate::client::{CaptureStatus, Service};
use crate::quoting::{quote, toml_list};
use crate::verbs::doctor::checks::{commands, nearest};
use crate::verbs::doctor::observe::Observations;
use crate::verbs::doctor::observe::network::Link;
use crate::verbs::finding::Finding;
use crate::verbs::units::Unit;

/// Finds reasons why packets do not reach capture.
#[must_use]
pub fn check(seen: &Observations) -> Vec<Finding> {
    let Some(status) = seen.bus.capture.status() else { return Vec::new() };
    let mut findings: Vec<Finding> = mode(seen, status).into_iter().collect();
    if let Ok(links) = &seen.links {
        match receives_nowhere(seen, status, links) {
            Some(finding) => findings.push(finding),
            None => {
                findings.extend(missing(seen, status, links));
                findings.extend(loop_back(seen));
            }
        }
        findings.extend(bridges(seen, status, links));
    }
    findings
}

/// Reports that capture receives only datagrams.
fn mode(seen: &Observations, status: &CaptureStatus) -> Option<Finding> {
    if status.mode != "udp" {
        return None;
    }
    let problem =
        "capture receives only UDP datagrams that are sent to its ports on this host, not Ethernet frames";
    let finding = Finding::error("udp-mode", problem).seen("Mode is \"udp\"");
    let configured = seen.capture_config.as_ref().ok().and_then(|config| config.keys.as_ref().ok());
    if configured.is_some_and(|config| config.mode == "udp") {
        let fix = commands::set_in_capture(seen, "mode", "\"auto\"");
        return Some(finding.seen("the configuration contains mode = \"udp\"").fix(fix));
    }
    let Some(unit) = commands::unit(seen, Service::Capture).filter(|unit| unit.is_active()) else {
        return Some(
            finding
                .seen("the process does not have CAP_NET_RAW")
                .advice("Start the service as root, or with its unit."),
        );
    };
    let finding = finding.seen(format!("AmbientCapabilities={}", unit.get("AmbientCapabilities")));
    let directory = "/etc/systemd/system/wakevirt-capture.service.d";
    let lines = r"'[Service]\nCapabilityBoundingSet=CAP_NET_RAW\nAmbientCapabilities=CAP_NET_RAW\n'";
    let finding = match own_drop_ins(unit) {
        drop_ins if drop_ins.is_empty() => finding,
        drop_ins => finding.seen(format!("changed by {drop_ins}")),
    };
    Some(finding.fix(seen.caller.as_root(&format!(
        "mkdir -p {directory} && printf {lines} >{directory}/zz-net-raw.conf && systemctl daemon-reload && systemctl restart \
         wakevirt-capture"
    ))))
}

fn own_drop_ins(unit: &Unit) -> String {
    let paths = unit.get("DropInPaths").split_whitespace().filter(|path| path.starts_with("/etc/"));
    paths.collect::<Vec<_>>().join(", ")
}

/// The patterns that select interfaces, without those that exclude interfaces.
fn patterns(seen: &Observations) -> Vec<InterfacePattern> {
    let config = seen.capture_config.as_ref().ok().and_then(|config| config.keys.as_ref().ok());
    let entries = config.into_iter().flat_map(|config| &config.interfaces);
    entries.filter(|entry| !entry.starts_with('!')).filter_map(|entry| entry.parse().ok()).collect()
}

/// Whether one of the link's names matches.
fn matches(pattern: &InterfacePattern, link: &Link) -> bool {
    link.names().any(|name| pattern.matches(name))
}

/// Reports that capture does not receive on any interface except the loopback interface.
fn receives_nowhere(seen: &Observations, status: &CaptureStatus, links: &[Link]) -> Option<Finding> {
    let is_captured =
        |link: &&Link| status.interfaces.contains(&link.name) && link.is_up() && !link.is_loopback();
    if links.iter().any(|link| is_captured(&link)) {
        return None;
    }
    let patterns = patterns(seen);
    let selected = links.iter().filter(|link| !link.is_loopback());
    let selected: Vec<&Link> =
        selected.filter(|link| patterns.is_empty() || patterns.iter().any(|it| matches(it, link))).collect();
    let interfaces = format!("Interfaces: {}", toml_list(status.interfaces.iter().map(String::as_str)));
    let down: Vec<&str> =
        selected.iter().filter(|link| !link.is_up()).map(|link| link.name.as_str()).collect();
    if !down.is_empty() {
        let finding =
            Finding::error("interface-down", "none of the interfaces on which capture can receive is up");
        let fix: Vec<String> = down.iter().map(|name| format!("ip link set {} up", quote(name))).collect();
        let finding = finding.seen(interfaces).seen(format!("down: {}", down.join(", ")));
        return Some(finding.fix(seen.caller.as_root(&fix.join(" && "))));
    }
    let finding = Finding::error(
        "interface-none",
        "no interface of this host matches the interfaces key in capture.toml",
    );
    Some(select(seen, finding.seen(interfaces), &patterns, links))
}

/// Adds a command that selects the interfaces whose names are similar to the missing ones, or all interfaces.
fn select(seen: &Observations, finding: Finding, patterns: &[InterfacePattern], links: &[Link]) -> Finding {
    let texts: Vec<&str> = patterns.iter().map(InterfacePattern::text).collect();
    let mut finding = finding.seen(format!("interfaces = {}", toml_list(texts)));
    let names = || links.iter().filter(|link| !link.is_loopback()).flat_map(Link::names);
    let exists = |pattern: &&InterfacePattern| links.iter().any(|link| matches(pattern, link));
    let mut wanted = Vec::new();
    for pattern in patterns {
        match nearest::name(pattern.text(), names()).filter(|_| !exists(&pattern)) {
            Some(name) => {
                let link = links.iter().find(|link| link.names().any(|it| it == name));
                let link = link.map_or("", |link| link.name.as_str());
                finding = finding.seen(if link == name {
                    format!("{:?} does not exist; {name:?} is similar", pattern.text())
                } else {
                    format!(
                        "{:?} does not exist; {name:?}, an alternative name of {link}, is similar",
                        pattern.text()
                    )
                });
                wanted.push(name);
            }
            None if exists(&pattern) => wanted.push(pattern.text()),
            None => {}
        }
    }
    let all = names().collect::<Vec<_>>().join(", ");
    let value = if wanted.is_empty() { toml_list(["*"]) } else { toml_list(wanted) };
    finding.seen(format!("this host has {all}")).fix(commands::set_in_capture(seen, "interfaces", &value))
}

/// Reports configured interfaces that do not exist.
fn missing(seen: &Observations, status: &CaptureStatus, links: &[Link]) -> Option<Finding> {
    let patterns = patterns(seen);
    let absent =
        patterns.iter().filter(|it| it.name().is_some() && !links.iter().any(|link| matches(it, link)));
    let absent: Vec<&str> = absent.map(InterfacePattern::text).collect();
    if absent.is_empty() {
        return None;
    }
    let (noun, verb) = if absent.len() == 1 { ("interface", "does") } else { ("interfaces", "do") };
    let finding =
        Finding::warning("interface-missing", format!("the {noun} {} {verb} not exist", absent.join(", ")));
    let finding = finding.seen(format!("capture receives on {}", status.interfaces.join(", ")));
    Some(select(seen, finding, &patterns, links))
}

/// Reports that the loopback test failed.
fn loop_back(seen: &Observations) -> Option<Finding> {
    let test = seen.loop_back.as_ref().filter(|test| test.announced.is_none())?;
    let finding = Finding::error("loop-back", "capture did not announce the packet of the loopback test");
    let finding = finding.seen(format!(
        "packet for {}, sent to {}, UDP port 9",
        test.mac,
        test.destinations.join(", ")
    ));
    Some(match commands::restart(seen, Service::Capture) {
        Some(restart) => finding.fix(commands::as_manager(seen, Service::Capture, &restart)),
        None => finding.advice("Restart capture, and read its log."),
    })
}

/// Reports bridges on which capture receives, but not on their ports: a frame for a VM that is off appears only on the
/// port.
fn bridges(seen: &Observations, status: &CaptureStatus, links: &[Link]) -> Vec<Finding> {
    let is_captured = |link: &Link| status.interfaces.contains(&link.name);
    let bridges = links.iter().filter(|link| link.is_bridge() && is_captured(link));
    let finding = |bridge: &Link| {
        let ports =
            links.iter().filter(|link| link.master.as_deref() == Some(&bridge.name) && !link.belongs_to_vm());
        let unseen: Vec<&str> =
            ports.filter(|link| link.is_up() && !is_captured(link)).map(|link| link.name.as_str()).collect();
        if unseen.is_empty() {
            return None;
        }
        let problem = format!(
            "capture receives on the bridge {}, but not on its ports: {}",
            bridge.name,
            unseen.join(", ")
        );
        let finding = Finding::warning("bridge-port", problem);
        let finding = finding.seen(format!("Interfaces: {}", status.interfaces.join(", "))).seen(
            "a frame to the MAC address of a VM that is off appears only on the port; without -b, etherwake sends such frames",
        );
        let patterns = patterns(seen);
        let value = toml_list(patterns.iter().map(InterfacePattern::text).chain(unseen));
        Some(finding.fix(commands::set_in_capture(seen, "interfaces", &value)))
    };
    bridges.filter_map(finding).collect()
}
