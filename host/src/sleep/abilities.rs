//! The part of a domain's XML that decides how it can sleep.

use crate::definition::{DefinitionError, Element, parse};

/// The name of the guest agent's channel: <https://libvirt.org/formatdomain.html#channel>.
const AGENT: &str = "org.qemu.guest_agent.0";

/// How a domain can sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// Whether the domain has a channel for the guest agent. Whether an agent runs in the guest is not known.
    pub agent: bool,
    /// Whether `<pm>` allows S3. libvirt allows it by default.
    pub suspend: bool,
    /// Whether `<pm>` allows S4. libvirt allows it by default.
    pub hibernate: bool,
    /// Whether the guest uses a PCI device of the host.
    pub passthrough: bool,
}

impl Abilities {
    /// Reads `<pm>`, the agent's channel, and the devices of the host.
    ///
    /// # Errors
    /// [`DefinitionError`] says what is wrong.
    pub fn read(xml: &str) -> Result<Self, DefinitionError> {
        parse(xml, |root| Ok(Self::of(root)))
    }

    fn of(root: Element<'_, '_>) -> Self {
        let devices = || root.children("devices");
        let allows = |element| {
            let mut settings = root.children("pm").flat_map(|pm| pm.children(element));
            !settings.any(|setting| setting.attribute("enabled") == Some("no"))
        };
        let channels = devices().flat_map(|it| it.children("channel"));
        let mut targets = channels.flat_map(|it| it.children("target"));
        Self {
            agent: targets.any(|target| target.attribute("name") == Some(AGENT)),
            suspend: allows("suspend-to-mem"),
            hibernate: allows("suspend-to-disk"),
            passthrough: devices().flat_map(Element::elements).any(is_passthrough),
        }
    }
}

/// Whether this device of a domain is a PCI device of the host.
fn is_passthrough(device: Element<'_, '_>) -> bool {
    let kind = device.attribute("type");
    match device.name() {
        "hostdev" => kind == Some("pci"),
        "interface" => kind == Some("hostdev"),
        "disk" => kind == Some("nvme"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Abilities {
        Abilities::read(&format!("<domain type='kvm'><name>d</name>{content}</domain>")).unwrap()
    }

    #[test]
    fn libvirt_allows_both_states_by_default() {
        let default = Abilities { agent: false, suspend: true, hibernate: true, passthrough: false };
        assert_eq!(read(""), default);
        assert_eq!(read("<pm><suspend-to-mem enabled='yes'/></pm><devices/>"), default);
    }

    #[test]
    fn reads_the_pm_element_of_virt_install() {
        let off = read("<pm><suspend-to-mem enabled='no'/><suspend-to-disk enabled='no'/></pm>");
        assert!(!off.suspend && !off.hibernate);
        let memory = read("<pm><suspend-to-mem enabled='no'/></pm>");
        assert!(!memory.suspend && memory.hibernate);
    }

    #[test]
    fn finds_the_channel_of_the_agent() {
        let channel = |name| {
            format!("<devices><channel type='unix'><target type='virtio' name='{name}'/></channel></devices>")
        };
        assert!(read(&channel(AGENT)).agent);
        assert!(!read(&channel("com.redhat.spice.0")).agent);
        assert!(!read(&format!("<channel><target name='{AGENT}'/></channel>")).agent);
    }

    #[test]
    fn finds_pci_devices_of_the_host() {
        for device in [
            "<hostdev mode='subsystem' type='pci' managed='yes'/>",
            "<interface type='hostdev'/>",
            "<disk type='nvme' device='disk'/>",
        ] {
            assert!(read(&format!("<devices>{device}</devices>")).passthrough, "{device}");
        }
        for device in ["<hostdev mode='subsystem' type='usb'/>", "<interface type='bridge'/>", "<disk/>"] {
            assert!(!read(&format!("<devices>{device}</devices>")).passthrough, "{device}");
        }
    }

    #[test]
    fn rejects_malformed_xml() {
        for xml in ["", "<domain>", "<!DOCTYPE d [<!ENTITY a 'b'>]><domain>&a;</domain>"] {
            assert!(Abilities::read(xml).is_err(), "{xml}");
        }
    }
}
