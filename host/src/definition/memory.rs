//! Memory, and the huge pages that back it.

use std::collections::BTreeMap;

use super::error::DefinitionError;
use super::xml::{Element, shorten};
use crate::model::{CpuSet, PageSize};

/// The maximum size of memory, in KiB: 4 PiB, which 52 bits of a physical address can address.
const MAX_KIB: u64 = 1 << 42;
/// The maximum number of cells, page sizes and memory devices.
const MAX_PARTS: usize = 1024;

/// The size of the pages that back a part of a domain's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageChoice {
    /// The host's default size of huge pages.
    Default,
    /// This size.
    Size(PageSize),
}

/// A part of a domain's memory that huge pages back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// Its size in KiB.
    pub memory: u64,
    /// The size of its pages.
    pub page: PageChoice,
    /// The NUMA nodes of the host from which `<numatune>` takes it. `None` means any node.
    pub nodes: Option<CpuSet>,
}

/// A part of a domain's memory.
struct Part {
    /// The guest's NUMA cell.
    cell: u32,
    /// In KiB.
    memory: u64,
    /// The page size of a memory device that has one of its own.
    page: Option<PageSize>,
}

/// Returns the size of the memory in KiB, and the parts that huge pages back.
pub(super) fn read(root: Element<'_, '_>) -> Result<(u64, Vec<Backing>), DefinitionError> {
    let mut parts = cells(root)?;
    let devices = devices(root)?;
    let total = match root.child("memory") {
        Some(element) => kib(element, "unit", "KiB", "<memory>")?,
        None => 0,
    };
    if parts.is_empty() {
        parts.push(Part { cell: 0, memory: total, page: None });
    } else {
        parts.extend(devices);
    }
    let memory = parts.iter().fold(0, |sum: u64, part| sum.saturating_add(part.memory));
    if memory > MAX_KIB {
        return Err(value("<memory>", "more than 4 PiB".to_owned()));
    }
    let huge = match root.child("memoryBacking").and_then(|it| it.child("hugepages")) {
        Some(element) => backings(root, element, &parts)?,
        None => Vec::new(),
    };
    Ok((memory, huge))
}

fn backings(
    root: Element<'_, '_>,
    hugepages: Element<'_, '_>,
    parts: &[Part],
) -> Result<Vec<Backing>, DefinitionError> {
    let sizes = page_sizes(hugepages)?;
    let nodes = HostNodes::read(root)?;
    let choice = |part: &Part| {
        let own = sizes.iter().find(|(cells, _)| cells.as_ref().is_some_and(|it| it.contains(part.cell)));
        let any = || sizes.iter().find(|(cells, _)| cells.is_none());
        match part.page.or_else(|| own.or_else(any).map(|(_, size)| *size)) {
            Some(size) => Some(PageChoice::Size(size)),
            // libvirt backs the cells that no <page> names with ordinary pages.
            None => sizes.is_empty().then_some(PageChoice::Default),
        }
    };
    let backing = |part: &Part| {
        Some(Backing { memory: part.memory, page: choice(part)?, nodes: nodes.of(part.cell).cloned() })
    };
    Ok(parts.iter().filter_map(backing).collect())
}

/// The page sizes, each with the cells of the guest that it is for: `<page size="1" unit="GiB" nodeset="0"/>`.
fn page_sizes(hugepages: Element<'_, '_>) -> Result<Vec<(Option<CpuSet>, PageSize)>, DefinitionError> {
    let page = |page: Element<'_, '_>| {
        let size = page.attribute("size").unwrap_or_default();
        let size = scaled(size, page.attribute("unit").unwrap_or("KiB"))
            .filter(|size| *size > 0 && *size <= MAX_KIB)
            .ok_or_else(|| {
                value("<page>", format!("size=\"{}\" is not the size of a page", shorten(size)))
            })?;
        Ok((page.set("nodeset", "<page>")?, PageSize(size)))
    };
    limited(hugepages.children("page"), "<page>")?.into_iter().map(page).collect()
}

/// The cells of the guest: `<cpu><numa><cell id="0" memory="4" unit="GiB"/>`.
fn cells(root: Element<'_, '_>) -> Result<Vec<Part>, DefinitionError> {
    let Some(numa) = root.child("cpu").and_then(|it| it.child("numa")) else { return Ok(Vec::new()) };
    let cells = limited(numa.children("cell"), "<cell>")?;
    let cell = |(index, cell): (usize, Element<'_, '_>)| {
        let id = cell.number("id", "<cell>")?.unwrap_or_else(|| u32::try_from(index).unwrap_or(u32::MAX));
        let text = cell.attribute("memory").unwrap_or_default();
        let memory = scaled(text, cell.attribute("unit").unwrap_or("KiB"))
            .ok_or_else(|| value("<cell>", format!("memory=\"{}\" is not a size", shorten(text))))?;
        Ok(Part { cell: id, memory, page: None })
    };
    cells.into_iter().enumerate().map(cell).collect()
}

/// Memory devices, `<memory model="dimm">`, which exist in addition to the cells.
fn devices(root: Element<'_, '_>) -> Result<Vec<Part>, DefinitionError> {
    let Some(devices) = root.child("devices") else { return Ok(Vec::new()) };
    let is_memory = |device: &Element<'_, '_>| {
        device.attribute("model").is_some_and(|model| ["dimm", "virtio-mem"].contains(&model))
    };
    let device = |device: Element<'_, '_>| {
        let Some(target) = device.child("target") else { return Ok(None) };
        let Some(size) = target.child("size") else { return Ok(None) };
        let cell = target.child_text("node").and_then(|node| node.parse().ok()).unwrap_or(0);
        let page = match device.child("source").and_then(|it| it.child("pagesize")) {
            Some(page) => Some(PageSize(kib(page, "unit", "KiB", "<pagesize>")?)).filter(|it| it.0 > 0),
            None => None,
        };
        Ok(Some(Part { cell, memory: kib(size, "unit", "KiB", "<size>")?, page }))
    };
    let devices = limited(devices.children("memory").filter(is_memory), "<memory>")?;
    devices.into_iter().filter_map(|it| device(it).transpose()).collect()
}

/// The NUMA nodes of the host for each cell: `<numatune>`.
struct HostNodes {
    all: Option<CpuSet>,
    cells: BTreeMap<u32, CpuSet>,
}

impl HostNodes {
    fn read(root: Element<'_, '_>) -> Result<Self, DefinitionError> {
        let Some(tune) = root.child("numatune") else {
            return Ok(Self { all: None, cells: BTreeMap::new() });
        };
        let all = tune.child("memory").map_or(Ok(None), |it| it.set("nodeset", "<memory>"))?;
        let mut cells = BTreeMap::new();
        for node in limited(tune.children("memnode"), "<memnode>")? {
            if let (Some(cell), Some(nodes)) =
                (node.number("cellid", "<memnode>")?, node.set("nodeset", "<memnode>")?)
            {
                cells.insert(cell, nodes);
            }
        }
        Ok(Self { all, cells })
    }

    fn of(&self, cell: u32) -> Option<&CpuSet> {
        self.cells.get(&cell).or(self.all.as_ref()).filter(|nodes| !nodes.is_empty())
    }
}

/// The elements, of which there can be only a limited number.
fn limited<'a, 'input: 'a>(
    elements: impl Iterator<Item = Element<'a, 'input>>,
    name: &'static str,
) -> Result<Vec<Element<'a, 'input>>, DefinitionError> {
    let elements: Vec<_> = elements.take(MAX_PARTS + 1).collect();
    if elements.len() > MAX_PARTS {
        return Err(value(name, format!("more than {MAX_PARTS} of this element")));
    }
    Ok(elements)
}

/// The size in an element's text, in KiB.
fn kib(
    element: Element<'_, '_>,
    unit: &str,
    default: &str,
    name: &'static str,
) -> Result<u64, DefinitionError> {
    let text = element.text().unwrap_or_default();
    scaled(text, element.attribute(unit).unwrap_or(default))
        .ok_or_else(|| value(name, format!("\"{}\" is not a size", shorten(text))))
}

/// A number with one of libvirt's units, in KiB, rounded up: `virScaleInteger` in libvirt's `src/util/virutil.c`.
fn scaled(number: &str, unit: &str) -> Option<u64> {
    let number: u128 = number.trim().parse::<u64>().ok()?.into();
    let unit = unit.trim().to_ascii_lowercase();
    let bytes: u128 = match unit.as_str() {
        "b" | "byte" | "bytes" => 1,
        "kb" => 1000,
        "k" | "kib" | "" => 1 << 10,
        "mb" => 1_000_000,
        "m" | "mib" => 1 << 20,
        "gb" => 1_000_000_000,
        "g" | "gib" => 1 << 30,
        "tb" => 1_000_000_000_000,
        "t" | "tib" => 1 << 40,
        "pb" => 1_000_000_000_000_000,
        "p" | "pib" => 1 << 50,
        "eb" => 1_000_000_000_000_000_000,
        "e" | "eib" => 1 << 60,
        _ => return None,
    };
    u64::try_from(number.checked_mul(bytes)?.div_ceil(1024)).ok()
}

fn value(element: &'static str, problem: String) -> DefinitionError {
    DefinitionError::Value { element, problem }
}
