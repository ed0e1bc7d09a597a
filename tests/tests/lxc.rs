//! A packet starts a libvirt container, which is a domain of lxc:///system.

use std::process::Stdio;

use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::Libvirtd;
use wakevirt_tests::{privileged, wait};

const URI: &str = "lxc:///system";
const MAC: &str = "52:54:00:0c:00:01";

/// Mounts the cgroup controllers that libvirt requires for a container, in the version that this machine uses, and
/// creates the root directory of a container with one program.
const PREPARE: &str = r#"
mount -t tmpfs tmpfs /sys/fs/cgroup
hierarchies=$(awk -F: '$2 != "" { print $2 }' /proc/self/cgroup)
for hierarchy in $hierarchies; do
    directory=/sys/fs/cgroup/${hierarchy#name=}
    mkdir "$directory"
    case $hierarchy in
    name=*) options=none,$hierarchy ;;
    *) options=$hierarchy ;;
    esac
    mount -t cgroup -o "$options" cgroup "$directory"
done
[ -n "$hierarchies" ] || mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /run/container/bin /run/container/dev /run/container/proc /run/container/sys
cp /usr/bin/busybox /run/container/bin/
"#;

/// The container. Its program sleeps.
const CONTAINER: &str = r#"
<domain type="lxc">
  <name>web</name>
  <memory unit="MiB">64</memory>
  <os><type>exe</type><init>/bin/busybox</init><initarg>sleep</initarg><initarg>1000</initarg></os>
  <devices>
    <filesystem type="mount"><source dir="/run/container"/><target dir="/"/></filesystem>
    <interface type="bridge"><source bridge="br0"/><mac address="52:54:00:0c:00:01"/></interface>
    <console type="pty"/>
  </devices>
</domain>
"#;

/// The cgroups of containers, which outlive the namespaces of the host.
struct Cgroups<'host>(&'host Host);

impl Drop for Cgroups<'_> {
    fn drop(&mut self) {
        // The processes of a container might still be exiting. rmdir(1) fails for a cgroup in use.
        let _ = wait::within(wait::TIMEOUT, || {
            let mut remove = self.0.command("find");
            remove.args([
                "/sys/fs/cgroup",
                "-depth",
                "-path",
                "*/machine/lxc-*-web.libvirt-lxc*",
                "-type",
                "d",
            ]);
            remove.args(["-exec", "rmdir", "{}", "+"]).stderr(Stdio::null());
            remove.status().is_ok_and(|status| status.success()).then_some(())
        });
        // libvirt also created their parent, and creates it again if necessary.
        self.0
            .sh("find /sys/fs/cgroup -maxdepth 2 -name machine -type d -exec rmdir {} + 2>/dev/null || true");
    }
}

#[test]
fn a_packet_starts_a_libvirt_container() {
    privileged!();
    let host = Host::new();
    host.sh(PREPARE);
    let _cgroups = Cgroups(&host);
    host.bridge("br0");
    let lan = host.veth("lan0");
    let libvirtd = Libvirtd::start(&host);
    host.write("/run/container.xml", CONTAINER);
    libvirtd.virsh(URI, &["define", "/run/container.xml"]);
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let _capture = Daemon::capture(&host).start_on_bus();
    let config = format!("connections = [\"{URI}\"]\n[[allow]]\ndomain = \"web\"\n");
    let actor = Daemon::actor(&host).config(&config).start_on_bus();
    let _ = actor.log().wait_for("connected to lxc:///system: 1 domain");

    lan.etherwake(MAC, &[]);

    libvirtd.wait_for_state(URI, "web", "running");
    let _ = actor.log().wait_for("started: domain \"web\"");
    libvirtd.virsh(URI, &["destroy", "web"]);
}
