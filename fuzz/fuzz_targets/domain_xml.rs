//! A domain's definition either is rejected, or has the same MAC addresses and opt-in as a minimal definition that
//! contains only these.

#![no_main]

use libfuzzer_sys::fuzz_target;

// Included as a file, because the module is private to the actor's crate for libvirt, which links libvirt.
#[path = "../../actor/libvirt/src/connection/domain_xml.rs"]
mod domain_xml;

use domain_xml::{Definition, NAMESPACE, read};

/// The length of a MAC address in XML, in bytes.
const MAC: usize = "52:54:00:00:00:01".len();

fuzz_target!(|input: &[u8]| {
    let Ok(xml) = str::from_utf8(input) else { return };
    let Ok(definition) = read(xml) else { return };
    assert!(definition.macs.len() * MAC <= xml.len(), "more addresses than the text has room for");
    assert!(!definition.opt_in || xml.contains("metadata") && xml.contains("wake"));
    assert_eq!(read(&minimal(&definition)).as_ref(), Ok(&definition));
    assert_eq!(read(&format!("{xml}<!---->")), Ok(definition), "a comment changes the definition");
});

fn minimal(definition: &Definition) -> String {
    let interfaces =
        definition.macs.iter().map(|mac| format!("<interface><mac address='{mac}'/></interface>"));
    let wake = if definition.opt_in { format!("<wake xmlns='{NAMESPACE}'/>") } else { String::new() };
    let interfaces: String = interfaces.collect();
    format!("<domain><metadata>{wake}</metadata><devices>{interfaces}</devices></domain>")
}
