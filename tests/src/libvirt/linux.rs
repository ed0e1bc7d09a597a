//! QEMU domains with Linux as the guest, from the kernel and the initramfs that `scripts/guest` creates. The guest
//! requests a DHCP lease, and opens the guest agent's channel.
//!
//! They do not need KVM. Without it, Linux starts in about 5 s.

use std::process::Command;

use crate::host::{project, succeed};
use crate::libvirt::{Libvirtd, QEMU};

/// A NAT network like virt-manager's.
const NETWORK: &str = "<network><name>nat</name><forward mode='nat'/><bridge name='virbr0'/>
  <ip address='192.168.122.1' netmask='255.255.255.0'>
    <dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp></ip></network>";
/// The guest agent's channel.
pub const AGENT: &str =
    "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>";

/// Defines and starts the `nat` network.
///
/// # Panics
/// If libvirt does not start it.
pub fn start_network(libvirtd: &Libvirtd<'_>) {
    let file = "/run/network.xml";
    libvirtd.host().write(file, NETWORK);
    libvirtd.virsh(QEMU, &["net-define", file]);
    libvirtd.virsh(QEMU, &["net-start", "nat"]);
}

/// Defines a domain with an interface on the `nat` network, and these devices as XML.
///
/// # Panics
/// If the guest cannot be created, or libvirt rejects the domain.
pub fn define(libvirtd: &Libvirtd<'_>, name: &str, mac: &str, devices: &str) {
    let guest = succeed(&mut Command::new(project().join("scripts/guest")));
    let guest = guest.trim();
    let kernel =
        format!("<kernel>{guest}/kernel</kernel><initrd>{guest}/initramfs</initrd><cmdline>quiet</cmdline>");
    define_with(libvirtd, name, mac, &kernel, devices);
}

/// Defines a domain like [`define`], but with nothing to boot.
///
/// # Panics
/// If libvirt rejects the domain.
pub fn define_without_kernel(libvirtd: &Libvirtd<'_>, name: &str, mac: &str) {
    define_with(libvirtd, name, mac, "", "");
}

fn define_with(libvirtd: &Libvirtd<'_>, name: &str, mac: &str, kernel: &str, devices: &str) {
    libvirtd.define(
        QEMU,
        &format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type>{kernel}</os>
  <features><acpi/></features>
  <devices>
    <interface type='network'><mac address='{mac}'/><source network='nat'/><model type='virtio'/></interface>
    {devices}
  </devices>
</domain>"
        ),
    );
}
