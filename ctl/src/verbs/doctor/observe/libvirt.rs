//! What libvirt shows to the caller, read with virsh(1).

use std::collections::BTreeSet;

use crate::verbs::finding::{Seen, not_checked};
use crate::virsh;

/// A domain as virsh(1) shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// The URI of its hypervisor.
    pub uri: String,
    /// Its name.
    pub name: String,
    /// Its state and the reason, such as `shut off (migrated)`.
    pub state: String,
    /// Whether it disappears when it shuts down.
    pub transient: bool,
    /// Whether it has a managed save.
    pub saved: bool,
    /// The MAC addresses of its interfaces.
    pub macs: Vec<String>,
    /// The host interfaces to which its macvtap interfaces are attached.
    pub macvtap: Vec<String>,
    /// The addresses of its passed-through PCI devices, such as `0000:03:00.0`.
    pub devices: Vec<String>,
    /// The daemons that it needs in addition to virtqemud, if libvirt's daemons are modular.
    pub daemons: BTreeSet<&'static str>,
}

/// Reads a domain.
///
/// # Errors
/// If the caller is not allowed to read it.
pub fn machine(uri: &str, name: &str) -> Seen<Machine> {
    let xml = query(uri, &["dumpxml", "--inactive", name])?;
    let state = query(uri, &["domstate", "--reason", name])?;
    let about = query(uri, &["dominfo", name])?;
    let has = |key: &str, value: &str| {
        about.lines().any(|line| line.strip_prefix(key).is_some_and(|rest| rest.trim() == value))
    };
    let mut machine = parse(&xml)
        .map_err(|error| not_checked("the domain", error, virsh::command(uri, &["dumpxml", name])))?;
    machine.uri = uri.to_owned();
    machine.name = name.to_owned();
    machine.state = state.trim().to_owned();
    machine.transient = has("Persistent:", "no");
    machine.saved = has("Managed save:", "yes");
    Ok(machine)
}

/// Checks that the caller can connect to a hypervisor.
///
/// # Errors
/// If it cannot. The message is the reason.
pub fn connects(uri: &str) -> Result<(), String> {
    virsh::output(uri, &["list", "--all", "--name"]).map(drop)
}

fn query(uri: &str, arguments: &[&str]) -> Seen<String> {
    let failed = |reason: String| {
        not_checked("the domain in libvirt", reason, format!("sudo {}", virsh::command(uri, arguments)))
    };
    virsh::output(uri, arguments).map_err(failed)
}

/// The network devices in the definition of a domain, and the daemons that its devices need.
fn parse(xml: &str) -> Result<Machine, String> {
    let document = roxmltree::Document::parse(xml).map_err(|error| error.to_string())?;
    let mut machine = Machine::default();
    let devices = document.root_element().children().find(|node| node.has_tag_name("devices"));
    for device in devices.iter().flat_map(|devices| devices.children()) {
        let child = |name: &str| device.children().find(|node| node.has_tag_name(name));
        machine.daemons.extend(daemons(&device));
        match (device.tag_name().name(), device.attribute("type")) {
            ("interface", kind) => {
                let mac = child("mac").and_then(|mac| mac.attribute("address"));
                machine.macs.extend(mac.map(str::to_owned));
                let source = child("source").and_then(|source| source.attribute("dev"));
                machine.macvtap.extend(source.filter(|_| kind == Some("direct")).map(str::to_owned));
            }
            ("hostdev", Some("pci")) => {
                let source = child("source");
                let address = source.and_then(|it| it.children().find(|node| node.has_tag_name("address")));
                machine.devices.extend(address.and_then(|address| pci(&address)));
            }
            _ => {}
        }
    }
    Ok(machine)
}

/// The daemons that serve the network, the volume, the filter and the secret of a device.
fn daemons<'a>(device: &'a roxmltree::Node<'_, '_>) -> impl Iterator<Item = &'static str> + 'a {
    let has = |name: &str| device.descendants().any(|node| node.has_tag_name(name));
    let (name, kind) = (device.tag_name().name(), device.attribute("type"));
    let needs = [
        ("virtnetworkd", name == "interface" && kind == Some("network")),
        ("virtstoraged", name == "disk" && kind == Some("volume")),
        ("virtnwfilterd", name == "interface" && has("filterref")),
        ("virtsecretd", has("secret")),
    ];
    needs.into_iter().filter(|(_, is_needed)| *is_needed).map(|(daemon, _)| daemon)
}

/// Returns a PCI address in the notation of sysfs.
fn pci(address: &roxmltree::Node<'_, '_>) -> Option<String> {
    let part = |name: &str| u32::from_str_radix(address.attribute(name)?.trim_start_matches("0x"), 16).ok();
    let domain = part("domain").unwrap_or(0);
    Some(format!("{domain:04x}:{:02x}:{:02x}.{:x}", part("bus")?, part("slot")?, part("function")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_network_devices_of_a_domain() {
        let xml = "<domain><devices>
  <interface type='direct'><mac address='52:54:00:00:00:01'/><source dev='enp1s0' mode='bridge'/></interface>
  <hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='0x03' slot='0x00' function='0x1'/></source></hostdev>
  <hostdev mode='subsystem' type='usb'><source/></hostdev>
  <disk type='file'><source file='/a'/></disk>
</devices></domain>";
        let machine = parse(xml).unwrap();
        assert_eq!(machine.macs, ["52:54:00:00:00:01"]);
        assert_eq!(machine.macvtap, ["enp1s0"]);
        assert_eq!(machine.devices, ["0000:03:00.1"]);
        assert!(machine.daemons.is_empty());
    }

    #[test]
    fn finds_the_daemons_that_a_domain_needs() {
        for (device, daemon) in [
            ("<interface type='network'><source network='default'/></interface>", "virtnetworkd"),
            ("<interface type='bridge'><filterref filter='clean-traffic'/></interface>", "virtnwfilterd"),
            ("<disk type='volume'><source pool='default' volume='a'/></disk>", "virtstoraged"),
            ("<disk type='file'><source><encryption><secret/></encryption></source></disk>", "virtsecretd"),
        ] {
            let machine = parse(&format!("<domain><devices>{device}</devices></domain>")).unwrap();
            assert_eq!(machine.daemons, BTreeSet::from([daemon]));
        }
    }
}
