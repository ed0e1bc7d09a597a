//! The MAC addresses in a domain's XML.

use std::collections::BTreeSet;

use roxmltree::{Document, Node};
use wakevirt_protocol::MacAddr;

/// The MAC addresses of the domain's network interfaces: `<devices><interface><mac address="…">`
/// (<https://libvirt.org/formatdomain.html#network-interfaces>).
///
/// An interface without an address, or with one that cannot be read, is passed over.
///
/// # Errors
/// If it is no XML.
pub fn macs(xml: &str) -> Result<BTreeSet<MacAddr>, roxmltree::Error> {
    let document = Document::parse(xml)?;
    let interfaces = children(document.root_element(), "devices").flat_map(|it| children(it, "interface"));
    let addresses = interfaces.flat_map(|it| children(it, "mac")).filter_map(|mac| mac.attribute("address"));
    Ok(addresses.filter_map(|address| address.parse().ok()).collect())
}

fn children<'a, 'input: 'a>(
    parent: Node<'a, 'input>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'input>> {
    parent.children().filter(move |child| child.has_tag_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_address_of_each_interface() {
        let xml = r#"<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
            <name>win11 &amp; more</name>
            <metadata><x:mac xmlns:x='urn:x' address='52:54:00:00:00:99'/></metadata>
            <devices>
              <interface type='bridge'><mac address='52:54:00:AA:00:01'/><source bridge='br0'/></interface>
              <interface type='hostdev'><mac address='52:54:00:aa:00:02'/></interface>
              <interface type='user'/>
              <interface type='user'><mac address='nonsense'/></interface>
              <controller><mac address='52:54:00:00:00:98'/></controller>
            </devices>
            <interface><mac address='52:54:00:00:00:97'/></interface>
          </domain>"#;
        let expected = ["52:54:00:aa:00:01", "52:54:00:aa:00:02"].map(|mac| mac.parse().unwrap());
        assert_eq!(macs(xml).unwrap(), BTreeSet::from(expected));
    }

    #[test]
    fn refuses_what_is_no_xml() {
        assert!(macs("<domain><devices>").is_err());
        assert!(macs("").is_err());
        // Entities that grow when they are read need a DTD, which is refused.
        assert!(macs("<!DOCTYPE d [<!ENTITY a 'aaaa'>]><domain>&a;</domain>").is_err());
    }
}
