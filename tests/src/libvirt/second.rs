//! A second libvirtd, to which domains of the first one can migrate.

use std::process::Stdio;

use crate::host::Host;
use crate::libvirt::{LIBVIRTD_CONF, QEMU_CONF};
use crate::process::Process;
use crate::wait;

/// How the first libvirt reaches it.
pub const SECOND_URI: &str = "qemu+unix:///system?socket=/run/second/libvirt-sock";

/// It shares network and processes with the first one, and has all of its files to itself.
const START: &str = "
mount -t tmpfs tmpfs /run/libvirt
mount --bind /run/second/etc /etc/libvirt
for folder in lib cache log; do
    mkdir -p /run/second/$folder /var/$folder
    mount --bind /run/second/$folder /var/$folder
done
exec libvirtd --pid-file /run/second/pid
";

/// A second libvirtd on a host, which takes itself for another host.
#[derive(Debug)]
pub struct SecondLibvirtd {
    _process: Process,
}

impl SecondLibvirtd {
    /// Starts it. The first one is to be started before.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(host: &Host) -> Self {
        host.write("/run/second/etc/qemu.conf", QEMU_CONF);
        // libvirt does not migrate to itself, and tells by this.
        let other = "host_uuid = \"b5f0a2b4-8f4e-4c39-9d0d-9a1b5c0c7e11\"\nunix_sock_dir = \"/run/second\"\n";
        host.write("/run/second/etc/libvirtd.conf", &format!("{LIBVIRTD_CONF}{other}"));
        let mut command = host.command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-euc", START]);
        let process = Process::start("the other libvirtd", &mut command);
        wait::until_true("the other libvirtd", || {
            let mut virsh = host.command("virsh");
            virsh.args(["-q", "-c", SECOND_URI, "uri"]).stdout(Stdio::null()).stderr(Stdio::null());
            virsh.status().is_ok_and(|status| status.success())
        });
        Self { _process: process }
    }
}
