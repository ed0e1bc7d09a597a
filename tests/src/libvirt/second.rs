//! A second libvirtd on the same host. Domains can migrate to it from the first one.

use std::process::Stdio;

use crate::host::Host;
use crate::libvirt::{LIBVIRTD_CONF, QEMU_CONF};
use crate::process::Process;
use crate::wait;

/// The URI with which the first libvirtd connects to it.
pub const SECOND_URI: &str = "qemu+unix:///system?socket=/run/second/libvirt-sock";

/// Starts the second libvirtd in the network and PID namespaces of the first one, but with separate files.
const START: &str = "
mount -t tmpfs tmpfs /run/libvirt
mount --bind /run/second/etc /etc/libvirt
for directory in lib cache log; do
    mkdir -p /run/second/$directory /var/$directory
    mount --bind /run/second/$directory /var/$directory
done
exec libvirtd --pid-file /run/second/pid
";

/// A second libvirtd, with the UUID of a different host.
#[derive(Debug)]
pub struct SecondLibvirtd {
    _process: Process,
}

impl SecondLibvirtd {
    /// Starts the second libvirtd. The first one must already be running.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(host: &Host) -> Self {
        host.write("/run/second/etc/qemu.conf", QEMU_CONF);
        // libvirt compares the UUIDs, and does not migrate domains to the same host.
        let other = "host_uuid = \"b5f0a2b4-8f4e-4c39-9d0d-9a1b5c0c7e11\"\nunix_sock_dir = \"/run/second\"\n";
        host.write("/run/second/etc/libvirtd.conf", &format!("{LIBVIRTD_CONF}{other}"));
        let mut command = host.command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-euc", START]);
        let process = Process::start("the second libvirtd", &mut command);
        wait::until_true("the second libvirtd", || {
            let mut virsh = host.command("virsh");
            virsh.args(["-q", "-c", SECOND_URI, "uri"]).stdout(Stdio::null()).stderr(Stdio::null());
            virsh.status().is_ok_and(|status| status.success())
        });
        Self { _process: process }
    }
}
