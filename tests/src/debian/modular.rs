//! libvirt's modular daemons on a Debian system. Debian does not package them; `scripts/modular-libvirt` builds them.

use std::process::Command;

use crate::debian::{Debian, ROOT};
use crate::host::{project, succeed};

/// Replaces libvirtd with the daemons in the directory `$1`, and enables them as <https://libvirt.org/daemons.html> says.
/// `$2` is the root directory of the system. Debian 13 has packages for some drivers that are not installed.
const REPLACE: &str = r#"
systemctl --quiet --root="$2" disable libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket
rm -f "$2"/usr/sbin/libvirtd "$2"/usr/lib/systemd/system/libvirtd* "$2"/etc/init.d/libvirtd "$2"/etc/libvirt/libvirtd.conf
cp -r "$1"/. "$2"
for driver in qemu interface network nodedev nwfilter secret storage; do
    if [ ! -e "$2"/usr/lib/*/libvirt/connection-driver/libvirt_driver_$driver.so ]; then
        rm "$2"/usr/sbin/virt${driver}d "$2"/usr/lib/systemd/system/virt${driver}d* "$2"/etc/libvirt/virt${driver}d.conf
        continue
    fi
    systemctl --quiet --root="$2" enable virt${driver}d.service virt${driver}d.socket virt${driver}d-ro.socket virt${driver}d-admin.socket
done
"#;

impl Debian<'_> {
    /// Replaces libvirtd with the modular daemons, like on a distribution without libvirtd, before the system is booted.
    /// virtproxyd is not enabled. libvirt.so and virsh remain Debian's.
    ///
    /// # Panics
    /// If the daemons cannot be built, or a step fails.
    pub fn use_modular_libvirt(&self) {
        let daemons = succeed(&mut Command::new(project().join("scripts/modular-libvirt")));
        let mut replace = self.host.command("sh");
        succeed(replace.args(["-euc", REPLACE, "replace", daemons.trim(), ROOT]));
    }
}
