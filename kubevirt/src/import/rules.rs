//! Translates WolConfigs into the keys of `actor.toml` and `capture.toml`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use wakevirt_protocol::MacAddr;

use super::error::ImportError;
use super::names;
use super::selector;
use super::wolconfig::{Mapping, Mode, Spec, WolConfig};

/// The maximum number of rules, and of aliases, in `actor.toml`.
const MAX_TABLES: usize = 1024;
/// The ports that `capture.toml` contains by default.
const DEFAULT_PORTS: [u16; 3] = [0, 7, 9];
/// The maximum number of sockets in `capture.toml`.
const MAX_SOCKETS: usize = 16;

/// The content of the configuration files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// `actor.toml`.
    pub actor: String,
    /// `capture.toml`, unless the defaults apply.
    pub capture: Option<String>,
}

/// Translates all WolConfigs: a virtual machine is allowed if any of them selects it. Adds notes on what differs.
///
/// # Errors
/// If a WolConfig is invalid, or a limit is exceeded.
pub fn files(configs: &[WolConfig], notes: &mut Vec<String>) -> Result<Files, ImportError> {
    let mut tables = Tables { vm_selector: vm_selector(configs)?, ..Tables::default() };
    for config in configs {
        let name = &config.metadata.name;
        tables
            .add(name, &config.spec, notes)
            .map_err(|problem| ImportError::Config { name: name.clone(), problem })?;
    }
    notes.extend(tables.ambiguous_addresses());
    Ok(Files { actor: tables.toml()?, capture: capture(configs, notes)? })
}

/// The label selector that all WolConfigs have in common, if the labels of a rule cannot express it.
fn vm_selector(configs: &[WolConfig]) -> Result<Option<String>, ImportError> {
    let Some(first) = configs.first() else { return Ok(None) };
    let is_common = |it: &WolConfig| {
        it.spec.discovery_mode == Mode::LabelSelector && it.spec.vm_selector == first.spec.vm_selector
    };
    let Some(selector) = first.spec.vm_selector.as_ref().filter(|_| configs.iter().all(is_common)) else {
        return Ok(None);
    };
    let selector = selector::translate(selector)
        .map_err(|problem| ImportError::Config { name: first.metadata.name.clone(), problem })?;
    Ok(Some(selector.text).filter(|_| selector.labels.is_none()))
}

/// The tables of `actor.toml`, without duplicates.
#[derive(Debug, Default)]
struct Tables {
    vm_selector: Option<String>,
    rules: BTreeSet<Rule>,
    aliases: BTreeSet<(MacAddr, String)>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    domain: String,
    labels: Option<String>,
}

impl Tables {
    fn add(&mut self, config: &str, spec: &Spec, notes: &mut Vec<String>) -> Result<(), String> {
        let labels = match (spec.discovery_mode, &spec.vm_selector) {
            (Mode::Explicit, _) => return self.add_mappings(config, &spec.explicit_mappings, notes),
            (Mode::All, _) => None,
            (Mode::LabelSelector, Some(selector)) => {
                let selector = selector::translate(selector)?;
                if selector.is_empty() || self.vm_selector.is_some() {
                    None
                } else if let Some(labels) = selector.labels {
                    Some(labels)
                } else {
                    notes.push(format!(
                        "WolConfig {config}: not carried over, because the labels of a rule cannot express its vmSelector, \
                         \"{}\". The vm-selector key can, but applies to all rules.",
                        selector.text
                    ));
                    return Ok(());
                }
            }
            (Mode::LabelSelector, None) => {
                notes.push(format!("WolConfig {config}: it has no vmSelector, so it does not allow any VM."));
                return Ok(());
            }
        };
        if spec.namespace_selectors.is_empty() {
            self.rules.insert(Rule { domain: "*/*".to_owned(), labels: labels.clone() });
        }
        for namespace in &spec.namespace_selectors {
            let domain = format!("{}/*", names::namespace(namespace)?);
            self.rules.insert(Rule { domain, labels: labels.clone() });
        }
        Ok(())
    }

    fn add_mappings(
        &mut self,
        config: &str,
        mappings: &[Mapping],
        notes: &mut Vec<String>,
    ) -> Result<(), String> {
        if mappings.is_empty() {
            notes.push(format!(
                "WolConfig {config}: it has no explicitMappings, so it does not allow any VM."
            ));
        } else {
            notes.push(format!(
                "WolConfig {config}: packets for any address of these VMs start them, also for addresses in their \
                 definitions that the WolConfig does not list."
            ));
        }
        for mapping in mappings {
            let mac = mapping.mac_address.trim().parse::<MacAddr>().map_err(|error| {
                format!("macAddress of {}: {error}", wakevirt_service::logs::quoted(&mapping.vm_name))
            })?;
            let domain =
                format!("{}/{}", names::namespace(&mapping.namespace)?, names::object(&mapping.vm_name)?);
            self.rules.insert(Rule { domain: domain.clone(), labels: None });
            self.aliases.insert((mac, domain));
        }
        Ok(())
    }

    /// Notes on the addresses of several virtual machines.
    fn ambiguous_addresses(&self) -> impl Iterator<Item = String> {
        let following = self.aliases.iter().zip(self.aliases.iter().skip(1));
        following.filter(|((mac, _), (next, _))| mac == next).map(|((mac, domain), (_, other))| {
            format!(
                "{mac} is the address of both {domain} and {other}. kubevirt-wol uses the last mapping; wakevirt starts neither VM. \
                 Remove one of the two aliases."
            )
        })
    }

    fn toml(&self) -> Result<String, ImportError> {
        for (what, count) in [("rules", self.rules.len()), ("aliases", self.aliases.len())] {
            if count > MAX_TABLES {
                return Err(ImportError::TooMany { what, max: MAX_TABLES });
            }
        }
        let mut text = "connections = [\"kubevirt://\"]\n".to_owned();
        // All characters are those of names, labels and addresses. Writing to a string cannot fail.
        if let Some(selector) = &self.vm_selector {
            let _ = writeln!(text, "vm-selector = \"{selector}\"");
        }
        for Rule { domain, labels } in &self.rules {
            let _ = write!(text, "\n[[allow]]\ndomain = \"{domain}\"\n");
            if let Some(labels) = labels {
                let _ = writeln!(text, "labels = {labels}");
            }
        }
        for (mac, domain) in &self.aliases {
            let _ = write!(text, "\n[[alias]]\nmac = \"{mac}\"\ndomain = \"{domain}\"\n");
        }
        Ok(text)
    }
}

/// Writes the keys for the ports, if they differ from the defaults.
fn capture(configs: &[WolConfig], notes: &mut Vec<String>) -> Result<Option<String>, ImportError> {
    let ports: BTreeSet<u16> = configs
        .iter()
        .flat_map(|config| match &config.spec.wol_ports[..] {
            [] => &[9],
            ports => ports,
        })
        .copied()
        .collect();
    if ports.iter().eq(&[9]) {
        return Ok(None);
    }
    if ports.len() > MAX_SOCKETS {
        return Err(ImportError::TooMany { what: "UDP ports", max: MAX_SOCKETS });
    }
    let mut addresses: Vec<String> = ports.iter().map(|port| format!("\"0.0.0.0:{port}\"")).collect();
    if 2 * ports.len() <= MAX_SOCKETS {
        addresses.extend(ports.iter().map(|port| format!("\"[::]:{port}\"")));
    } else {
        notes.push(format!(
            "capture.toml: listen has at most {MAX_SOCKETS} addresses, so it contains only those of IPv4."
        ));
    }
    let all: BTreeSet<u16> = ports.into_iter().chain(DEFAULT_PORTS).collect();
    Ok(Some(format!("ports = {:?}\nlisten = [{}]\n", Vec::from_iter(all), addresses.join(", "))))
}
