//! vCPUs, and the CPUs to which threads are pinned.

use std::collections::BTreeMap;

use super::error::DefinitionError;
use super::xml::{Element, shorten};
use crate::model::CpuSet;

/// The maximum number of vCPUs. QEMU's machine types support at most 4096.
const MAX_VCPUS: u32 = 8192;
/// The maximum number of elements in `<cputune>`.
const MAX_TUNES: usize = 16_384;

/// The CPUs to which vCPUs are pinned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VcpuPins {
    /// The CPUs of all vCPUs that have no own: `<vcpu cpuset="…">`.
    pub default: Option<CpuSet>,
    /// The CPUs of single vCPUs: `<vcpupin>`.
    pub own: BTreeMap<u32, CpuSet>,
}

impl VcpuPins {
    /// The CPUs of this vCPU. `None` if it is not pinned.
    #[must_use]
    pub fn of(&self, vcpu: u32) -> Option<&CpuSet> {
        self.own.get(&vcpu).or(self.default.as_ref())
    }
}

/// `<vcpusched vcpus="0-3" scheduler="fifo" priority="1"/>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheduler {
    /// The vCPUs.
    pub vcpus: CpuSet,
    /// The scheduler, such as `fifo`.
    pub scheduler: String,
    /// The priority of real-time schedulers.
    pub priority: Option<u32>,
}

/// The maximum number of vCPUs.
pub(super) fn count(root: Element<'_, '_>) -> Result<u32, DefinitionError> {
    let Some(text) = root.child_text("vcpu").filter(|text| !text.is_empty()) else { return Ok(1) };
    let count = text.parse().ok().filter(|count| (1..=MAX_VCPUS).contains(count));
    count.ok_or_else(|| DefinitionError::Value {
        element: "<vcpu>",
        problem: format!("\"{}\" is not a number from 1 to {MAX_VCPUS}", shorten(text)),
    })
}

pub(super) fn vcpu_pins(root: Element<'_, '_>) -> Result<VcpuPins, DefinitionError> {
    let default = root.child("vcpu").map_or(Ok(None), |it| it.set("cpuset", "<vcpu>"))?;
    let own = pins(root, "vcpupin", "vcpu", "<vcpupin>")?;
    Ok(VcpuPins { default: default.filter(|cpus| !cpus.is_empty()), own })
}

pub(super) fn emulator(root: Element<'_, '_>) -> Result<Option<CpuSet>, DefinitionError> {
    let pin = root.child("cputune").and_then(|it| it.child("emulatorpin"));
    pin.map_or(Ok(None), |it| it.set("cpuset", "<emulatorpin>"))
}

pub(super) fn io_threads(root: Element<'_, '_>) -> Result<BTreeMap<u32, CpuSet>, DefinitionError> {
    pins(root, "iothreadpin", "iothread", "<iothreadpin>")
}

/// The sets of CPUs by the number in the attribute `key`.
fn pins(
    root: Element<'_, '_>,
    name: &'static str,
    key: &'static str,
    element: &'static str,
) -> Result<BTreeMap<u32, CpuSet>, DefinitionError> {
    let mut pins = BTreeMap::new();
    for pin in tunes(root, name, element)? {
        if let (Some(number), Some(cpus)) = (pin.number(key, element)?, pin.set("cpuset", element)?)
            && !cpus.is_empty()
        {
            pins.insert(number, cpus);
        }
    }
    Ok(pins)
}

pub(super) fn schedulers(root: Element<'_, '_>) -> Result<Vec<Scheduler>, DefinitionError> {
    let scheduler = |it: Element<'_, '_>| {
        Ok(Scheduler {
            vcpus: it.set("vcpus", "<vcpusched>")?.unwrap_or_default(),
            scheduler: shorten(it.attribute("scheduler").unwrap_or_default()),
            priority: it.number("priority", "<vcpusched>")?,
        })
    };
    tunes(root, "vcpusched", "<vcpusched>")?.into_iter().map(scheduler).collect()
}

/// The elements of this name in `<cputune>`.
fn tunes<'a, 'input: 'a>(
    root: Element<'a, 'input>,
    name: &'static str,
    element: &'static str,
) -> Result<Vec<Element<'a, 'input>>, DefinitionError> {
    let Some(tune) = root.child("cputune") else { return Ok(Vec::new()) };
    let tunes: Vec<_> = tune.children(name).take(MAX_TUNES + 1).collect();
    if tunes.len() > MAX_TUNES {
        return Err(DefinitionError::Value {
            element,
            problem: format!("more than {MAX_TUNES} of this element"),
        });
    }
    Ok(tunes)
}
