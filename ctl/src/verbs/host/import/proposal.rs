//! The proposed configuration.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use wakevirt_host::model::CpuSet;
use wakevirt_service::logs::{plain, shown};

use super::find::{Hook, projects};
use super::script::Action;
use crate::quoting::{toml_list, toml_string};

/// Returns the configuration, with comments about what differs.
#[must_use]
pub fn content(directory: &Path, hooks: &[Hook]) -> String {
    let shown = shown(directory).to_string();
    let mut text = format!(
        "# Proposed by \"wakevirtctl host import\" for the hooks of {} in\n# {shown}\n#\n\
         # 1. Compare this file with your hooks, and save it as /etc/wakevirt/host.toml.\n\
         # 2. Run: wakevirtctl host check\n\
         # 3. Remove the hooks, because they would still run: move \"qemu\" and the files below out of\n\
         #    {shown}, and restart libvirtd or virtqemud, which does not stop domains.\n",
        projects(hooks).join(" and "),
    );
    // For each key, the first table that sets it decides: the table for all domains is the last one.
    let domains: BTreeSet<(bool, Option<&str>)> =
        hooks.iter().map(|hook| (hook.domain.is_none(), hook.domain.as_deref())).collect();
    for (_, domain) in domains {
        let of_domain: Vec<&Hook> = hooks.iter().filter(|hook| hook.domain.as_deref() == domain).collect();
        table(domain, &of_domain, &mut text);
    }
    text
}

/// The paths of the hooks that run and do something without an equivalent.
#[must_use]
pub fn without_equivalent(hooks: &[Hook]) -> Vec<String> {
    let unknown = hooks.iter().filter(|hook| hook.executable && hook.actions.is_empty());
    unknown.map(|hook| hook.path.clone()).collect()
}

/// Adds the table of a domain.
fn table(domain: Option<&str>, hooks: &[&Hook], text: &mut String) {
    let mut keys = Keys::default();
    for action in hooks.iter().filter(|hook| hook.executable).flat_map(|hook| &hook.actions) {
        keys.add(action);
    }
    let _ = writeln!(text, "\n[[domain]]\nmatch = {}", toml_string(domain.unwrap_or("*")));
    for hook in hooks {
        let path = plain(&hook.path, 1000);
        if !hook.executable {
            let _ = writeln!(text, "# {path}: left out, because it is not executable and does not run.");
        } else if hook.actions.is_empty() {
            let _ = writeln!(
                text,
                "# {path}: no equivalent. \"wakevirtctl host new\" writes a unit that can run it."
            );
        } else {
            let _ = writeln!(text, "# {path}");
        }
    }
    keys.write(text);
}

/// The keys of a table.
#[derive(Debug, Default)]
struct Keys {
    prepare: BTreeSet<&'static str>,
    comments: BTreeSet<String>,
    weight: Option<u64>,
    nosleep: bool,
    sleep: Option<&'static str>,
    shutdown: Option<&'static str>,
    monitor: Option<String>,
}

impl Keys {
    fn add(&mut self, action: &Action) {
        match action {
            Action::HugePages => {
                self.prepare.insert("hugepages");
            }
            Action::Compact => {
                self.prepare.insert("compact");
            }
            Action::Isolate(cpus) => {
                self.prepare.insert("isolate");
                self.comments.insert(about_isolation(cpus.as_ref()));
            }
            Action::Nice(level) => {
                let (weight, level) = (weight(*level), *level);
                self.weight = self.weight.max(Some(weight));
                self.comments.insert(format!(
                    "weight: {weight} has the effect of the nice level {level} against the host's processes. Between \
                     domains, it has none: see <shares> in \"wakevirtctl host plan\"."
                ));
            }
            Action::Monitor { display, vm, host } => {
                let display = display.as_deref().unwrap_or("?");
                let value = |input: &Option<u8>| input.map_or("0x??".to_owned(), |it| format!("{it:#04x}"));
                self.comments.insert(format!(
                    "monitor: replace SERIAL with the serial number of display {} in the output of \"ddcutil \
                     detect\", and remove the # before the key.",
                    plain(display, 100)
                ));
                let (vm, host) = (value(vm), value(host));
                self.monitor = Some(format!("{{ serial = \"SERIAL\", vm = {vm}, host = {host} }}"));
            }
            Action::NoSleep => self.nosleep = true,
            Action::Sleep(mode) => self.sleep = Some(mode),
            Action::HibernateAtShutdown => self.shutdown = Some("hibernate"),
        }
    }

    fn write(&self, text: &mut String) {
        for comment in &self.comments {
            let _ = writeln!(text, "# {comment}");
        }
        if !self.prepare.is_empty() {
            let _ = writeln!(text, "prepare = {}", toml_list(self.prepare.iter().copied()));
        }
        if let Some(weight) = self.weight {
            let _ = writeln!(text, "weight = {weight}");
        }
        for (key, mode) in [("sleep", self.sleep), ("shutdown", self.shutdown)] {
            if let Some(mode) = mode {
                let _ = writeln!(text, "{key} = {}", toml_string(mode));
            }
        }
        if self.nosleep {
            text.push_str("nosleep = true\n");
        }
        if let Some(monitor) = &self.monitor {
            let _ = writeln!(text, "# monitor = {monitor}");
        }
    }
}

fn about_isolation(cpus: Option<&CpuSet>) -> String {
    let hooks = cpus.map_or_else(
        || "The hook computes the CPUs from their number".to_owned(),
        |cpus| format!("The hook isolates CPUs {cpus}"),
    );
    format!(
        "isolate: {hooks}; wakevirt isolates those to which the domain's definition pins vCPUs (<vcpupin>). \
         \"wakevirtctl host plan\" shows them."
    )
}

/// The CPU weight that has the effect of a nice level: each level is a factor of 1.25, as in the kernel's
/// `sched_prio_to_weight` (kernel/sched/core.c), and level 0 is systemd's default of 100.
fn weight(level: i32) -> u64 {
    let level = level.clamp(-20, 19);
    let power = |base: u64| base.pow(level.unsigned_abs());
    let (up, down) = if level < 0 { (power(5), power(4)) } else { (power(4), power(5)) };
    ((100 * up + down / 2) / down).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_the_effect_of_nice_levels() {
        for (level, expected) in [(0, 100), (-1, 125), (-10, 931), (-20, 8674), (1, 80), (19, 1), (-99, 8674)]
        {
            assert_eq!(weight(level), expected, "{level}");
        }
    }
}
