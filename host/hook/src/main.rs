//! libvirt's hook for QEMU domains: passes each event to wakevirt-host.
//! <https://libvirt.org/hooks.html>

fn main() {}
