//! What a hook does, according to the commands in it.

use wakevirt_host::model::CpuSet;

/// Something that a hook does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It reserves huge pages.
    HugePages,
    /// It makes free memory contiguous.
    Compact,
    /// It moves the processes of the host away from some CPUs. `None` if the script computes the CPUs.
    Isolate(Option<CpuSet>),
    /// It sets the nice level of the vCPUs.
    Nice(i32),
    /// It switches the input of a monitor.
    Monitor {
        /// The number of the display in the output of `ddcutil detect`, which can change.
        display: Option<String>,
        /// The value of VCP feature 60 for the domain's input.
        vm: Option<u8>,
        /// The value for the host's input.
        host: Option<u8>,
    },
    /// It prevents the host from sleeping.
    NoSleep,
    /// Before the host sleeps, it puts the domain to sleep in this way, as in the `sleep` key.
    Sleep(&'static str),
    /// Before the host shuts down, it hibernates the domain.
    HibernateAtShutdown,
}

/// The hooks of portellam's libvirt-hooks that start a unit of their own name through `set-service`.
const SERVICES: [(&str, Action); 4] = [
    ("nosleep", Action::NoSleep),
    ("dosleep", Action::Sleep("suspend")),
    ("dohibernate", Action::Sleep("hibernate")),
    ("beforeoff-dohibernate", Action::HibernateAtShutdown),
];

/// Returns what the script with this file name does. Empty if none of it has an equivalent.
#[must_use]
pub fn actions(file_name: &str, script: &str) -> Vec<Action> {
    let code: Vec<&str> = script.lines().map(str::trim).filter(|line| !line.starts_with('#')).collect();
    let has = |text: &str| code.iter().any(|line| line.contains(text));
    let value = |names: &[&str]| names.iter().find_map(|name| assigned(&code, name));
    let input = |names: &[&str]| value(names).and_then(hexadecimal);
    let mut actions = Vec::new();
    if has("nr_hugepages") || has("nr_overcommit_hugepages") {
        actions.push(Action::HugePages);
    }
    if has("compact_memory") {
        actions.push(Action::Compact);
    }
    if has("cset -m shield") || has("cset shield") || has("AllowedCPUs=") {
        actions.push(Action::Isolate(value(&["VIRT_CORES"]).and_then(|cpus| cpus.parse().ok())));
    }
    if has("renice") {
        let level = value(&["TARGET_NICE"]).and_then(|level| level.parse().ok());
        actions.extend(level.map(Action::Nice));
    }
    if has("setvcp 60") {
        actions.push(Action::Monitor {
            display: value(&["VM_DISPLAY", "DOMAIN_DISPLAY"]).map(str::to_owned),
            vm: input(&["VM_INPUT", "DOMAIN_VIDEO_INPUT"]),
            host: input(&["HOST_INPUT", "HOST_VIDEO_INPUT"]),
        });
    }
    if has("systemd-inhibit") {
        actions.push(Action::NoSleep);
    }
    if has("set-service") {
        let service = SERVICES.into_iter().find(|(name, _)| *name == file_name);
        actions.extend(service.map(|(_, action)| action));
    }
    actions
}

/// The value of a variable: `NAME="value"`.
fn assigned<'a>(code: &[&'a str], name: &str) -> Option<&'a str> {
    let value = code.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    let quote = value.chars().next().filter(|char| matches!(char, '"' | '\''));
    match quote {
        Some(quote) => value.split(quote).nth(1),
        None => value.split([' ', '\t', ';', '#']).next(),
    }
}

/// A value such as `0f`, with or without `0x` before it.
fn hexadecimal(text: &str) -> Option<u8> {
    u8::from_str_radix(text.trim_start_matches("0x"), 16).ok()
}
