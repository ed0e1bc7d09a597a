//! What a domain's XML says about memory and CPUs: <https://libvirt.org/formatdomain.html>.
//!
//! Users who can define a domain choose its XML, so everything in it is limited.

mod cpus;
mod error;
mod memory;
mod xml;

use std::collections::BTreeMap;

use roxmltree::{Document, ParsingOptions};
use uuid::Uuid;
use wakevirt_protocol::host::MAX_XML;

pub use cpus::{Scheduler, VcpuPins};
pub use error::DefinitionError;
pub use memory::{Backing, PageChoice};

use crate::model::CpuSet;
pub(crate) use xml::Element;

/// The maximum number of elements, attributes and texts in a definition. The parser needs about 100 bytes for each.
const MAX_NODES: u32 = 500_000;

/// The part of a domain's definition that matters to the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Option<Uuid>,
    /// Its memory in KiB, without devices.
    pub memory: u64,
    /// The parts of its memory that huge pages back, each in one size of pages.
    pub huge: Vec<Backing>,
    /// The maximum number of vCPUs.
    pub vcpus: u32,
    /// The CPUs of each vCPU that is pinned.
    pub pins: VcpuPins,
    /// The CPUs of its emulator's threads, if they are pinned.
    pub emulator: Option<CpuSet>,
    /// The CPUs of each I/O thread that is pinned.
    pub io_threads: BTreeMap<u32, CpuSet>,
    /// The schedulers of its vCPUs.
    pub schedulers: Vec<Scheduler>,
    /// Its weight among the domains (`<shares>`).
    pub shares: Option<u64>,
}

impl Definition {
    /// Reads a domain's XML.
    ///
    /// # Errors
    /// [`DefinitionError`] names the element and what is wrong.
    pub fn read(xml: &str) -> Result<Self, DefinitionError> {
        parse(xml, Self::of)
    }

    fn of(root: Element<'_, '_>) -> Result<Self, DefinitionError> {
        let (memory, huge) = memory::read(root)?;
        Ok(Self {
            name: root.child_text("name").unwrap_or_default().to_owned(),
            uuid: root.child_text("uuid").and_then(|text| Uuid::parse_str(text).ok()),
            memory,
            huge,
            vcpus: cpus::count(root)?,
            pins: cpus::vcpu_pins(root)?,
            emulator: cpus::emulator(root)?,
            io_threads: cpus::io_threads(root)?,
            schedulers: cpus::schedulers(root)?,
            shares: root.child("cputune").and_then(|it| it.child_text("shares")?.parse().ok()),
        })
    }
}

/// Parses a domain's XML, and reads its root element.
pub(crate) fn parse<T>(
    xml: &str,
    read: impl FnOnce(Element<'_, '_>) -> Result<T, DefinitionError>,
) -> Result<T, DefinitionError> {
    if xml.is_empty() || xml.len() > MAX_XML {
        return Err(DefinitionError::Length);
    }
    let options = ParsingOptions { nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(xml, options)
        .map_err(|error| DefinitionError::Syntax(error.to_string()))?;
    let root = Element::root(&document);
    if root.name() != "domain" {
        return Err(DefinitionError::NotADomain);
    }
    read(root)
}

#[cfg(test)]
mod tests;
