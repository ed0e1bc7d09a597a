//! `wakevirt-kubevirt import`: translates the configuration of kubevirt-wol.
//!
//! Data flows in one direction: `wolconfig` reads JSON, `rules` and `agent` translate it, and `output` writes a
//! kustomization. Names are checked before they are written, so that no text from the input can add a key.

mod agent;
mod error;
mod names;
mod output;
mod rules;
mod selector;
mod wolconfig;

use std::collections::BTreeSet;
use std::io::{Read, Write};

use wakevirt_service::logs::plain;

pub use error::ImportError;
use wolconfig::{MAX_INPUT, Mode, Unknown, WolConfig};

/// The maximum number of unknown fields that are named.
const MAX_UNKNOWN: usize = 32;

/// The options.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The directory of wakevirt's manifests, as seen from the file that you write the output to
    #[arg(long, value_name = "DIRECTORY", default_value = "../../base")]
    base: String,
}

/// Reads WolConfigs, as `kubectl get wolconfigs -o json` prints them, and writes a kustomization to `output`. Writes what
/// differs from kubevirt-wol to `messages`.
///
/// # Errors
/// If the input is invalid or too large, or a stream fails.
pub fn run(
    arguments: &Arguments,
    input: impl Read,
    mut output: impl Write,
    mut messages: impl Write,
) -> Result<(), ImportError> {
    let mut text = Vec::new();
    let limit = u64::try_from(MAX_INPUT).unwrap_or(u64::MAX).saturating_add(1);
    input.take(limit).read_to_end(&mut text)?;
    let (kustomization, notes) = import(&text, &arguments.base)?;
    for note in notes {
        writeln!(messages, "{note}")?;
    }
    output.write_all(kustomization.as_bytes())?;
    Ok(output.flush()?)
}

/// Returns the kustomization, and notes on what differs.
///
/// # Errors
/// If the input is invalid or too large.
pub fn import(input: &[u8], base: &str) -> Result<(String, Vec<String>), ImportError> {
    let configs = wolconfig::parse(input)?;
    let mut notes = Vec::new();
    let files = rules::files(&configs, &mut notes)?;
    let patch = agent::patch(&configs, &mut notes)?;
    notes.extend(merged_by_kubevirt_wol(&configs));
    notes.extend(unknown_fields(&configs));
    if configs.iter().any(|config| config.spec.cache_ttl.is_some()) {
        notes.push("cacheTTL: not needed. wakevirt is informed of each change to a VM.".to_owned());
    }
    Ok((output::kustomization(base, &notes, &files, &patch), notes))
}

/// Explains where the rules differ from what kubevirt-wol does with these WolConfigs. Comments in its source say that a VM
/// is allowed if any WolConfig selects it. Source: `refreshAllConfigs` in `internal/controller/wolconfig_controller.go`
/// of commit 7325b48, which discards what a label selector selects, and everything else if there is an explicit mapping.
fn merged_by_kubevirt_wol(configs: &[WolConfig]) -> Option<String> {
    let has = |mode| configs.iter().any(|config| config.spec.discovery_mode == mode);
    let what = if has(Mode::Explicit) {
        if !has(Mode::All) && !has(Mode::LabelSelector) {
            return None;
        }
        "uses only the explicitMappings of all WolConfigs"
    } else if has(Mode::LabelSelector) {
        "ignores vmSelector. If no WolConfig with the mode All names namespaces, it allows all VMs of the cluster"
    } else {
        return None;
    };
    Some(format!(
        "kubevirt-wol (commit 7325b48) {what}. These rules allow a VM if any WolConfig selects it, as the comments in its source say."
    ))
}

/// Names the fields that are ignored.
fn unknown_fields(configs: &[WolConfig]) -> Option<String> {
    let mut names = BTreeSet::new();
    let mut add = |prefix: &str, fields: &Unknown| {
        names.extend(fields.keys().map(|name| format!("{prefix}{}", plain(name, 64))));
    };
    for WolConfig { spec, .. } in configs {
        add("spec.", &spec.unknown);
        add("spec.agent.", &spec.agent.unknown);
        spec.vm_selector.iter().for_each(|it| add("spec.vmSelector.", &it.unknown));
        spec.explicit_mappings.iter().for_each(|it| add("spec.explicitMappings[].", &it.unknown));
    }
    if names.is_empty() {
        return None;
    }
    let more = match names.len().saturating_sub(MAX_UNKNOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let shown: Vec<String> = names.into_iter().take(MAX_UNKNOWN).collect();
    Some(format!(
        "Ignored, because this version does not know them: {}{more}. Check what they do.",
        shown.join(", ")
    ))
}

#[cfg(test)]
mod tests;
