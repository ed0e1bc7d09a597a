//! The part of a domain's XML that the actor uses: MAC addresses and the opt-in.

use std::collections::BTreeSet;

use roxmltree::{Document, Node};
use wakevirt_protocol::MacAddr;

/// The XML namespace of wakevirt's element in a domain's metadata.
pub const NAMESPACE: &str = "https://wakevirt.org/metadata/1.0";

/// The part of a domain's definition that the actor uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Definition {
    /// The MAC addresses of the domain's network interfaces.
    pub macs: BTreeSet<MacAddr>,
    /// Whether the domain's metadata allows packets to wake it.
    pub opt_in: bool,
}

/// Reads the MAC addresses, `<devices><interface><mac address="…">`
/// (<https://libvirt.org/formatdomain.html#network-interfaces>), and the opt-in,
/// `<metadata><wakevirt:wake allowed="yes" xmlns:wakevirt="https://wakevirt.org/metadata/1.0"/>`. If the attribute is
/// missing, the domain opts in. Any value other than `yes` means that it does not.
///
/// An interface without a valid address is ignored.
///
/// # Errors
/// If the text is not well-formed XML.
pub fn read(xml: &str) -> Result<Definition, roxmltree::Error> {
    let document = Document::parse(xml)?;
    let root = document.root_element();
    let interfaces = children(root, "devices").flat_map(|it| children(it, "interface"));
    let addresses = interfaces.flat_map(|it| children(it, "mac")).filter_map(|mac| mac.attribute("address"));
    let macs = addresses.filter_map(|address| address.parse().ok()).collect();
    let mut metadata = children(root, "metadata").flat_map(|it| it.children());
    let wake = metadata.find(|element| element.has_tag_name((NAMESPACE, "wake")));
    let opt_in = wake.is_some_and(|wake| wake.attribute("allowed").is_none_or(|allowed| allowed == "yes"));
    Ok(Definition { macs, opt_in })
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
    fn reads_the_address_of_each_interface() {
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
        assert_eq!(read(xml).unwrap(), Definition { macs: BTreeSet::from(expected), opt_in: false });
    }

    #[test]
    fn rejects_malformed_xml() {
        assert!(read("<domain><devices>").is_err());
        assert!(read("").is_err());
        // Entity expansion needs a DTD, which is rejected.
        assert!(read("<!DOCTYPE d [<!ENTITY a 'aaaa'>]><domain>&a;</domain>").is_err());
    }

    #[test]
    fn reads_the_opt_in() {
        let opt_in = |metadata: &str| {
            let xml = format!(
                "<domain><metadata xmlns:w='https://wakevirt.org/metadata/1.0' xmlns:x='urn:x'>{metadata}</metadata></domain>"
            );
            read(&xml).unwrap().opt_in
        };
        assert!(opt_in("<x:wake allowed='no'/><w:wake/>"));
        assert!(opt_in("<wake xmlns='https://wakevirt.org/metadata/1.0' allowed='yes'/>"));
        for metadata in [
            "",
            "<w:wake allowed='no'/>",
            "<w:wake allowed='true'/>",
            "<x:wake/>",
            "<wake/>",
            "<x:a><w:wake/></x:a>",
        ] {
            assert!(!opt_in(metadata), "{metadata}");
        }
    }
}
