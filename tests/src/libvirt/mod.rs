//! A real libvirtd on a host, with its QEMU driver and its test driver.

pub mod linux;
pub mod machine;
pub mod second;
pub mod ssh;

use std::fmt::Write as _;
use std::process::Stdio;

use crate::bus::polkitd::Polkitd;
use crate::debian;
use crate::host::{Host, User, project, succeed};
use crate::process::Process;
use crate::wait::{self, TIMEOUT};

/// The URI of libvirtd's test driver. All clients share its domains. It starts with one running domain, `test`.
pub const TEST: &str = "test+unix:///default?socket=/run/libvirt/libvirt-sock";

/// The URI of libvirtd's QEMU driver.
pub const QEMU: &str = "qemu:///system";

/// Disables QEMU's isolation, because a host has neither cgroups nor devices.
pub(crate) const QEMU_CONF: &str = r#"security_driver = "none"
seccomp_sandbox = 0
cgroup_controllers = [ ]
namespaces = [ ]
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
stdio_handler = "file"
max_queued = 0
"#;

/// QEMU's configuration for an unprivileged user on a host without cgroups and AppArmor.
pub const SESSION_QEMU_CONF: &str =
    "security_driver = \"none\"\nseccomp_sandbox = 0\nstdio_handler = \"file\"\n";

/// Debian's configuration without polkit: the `libvirt` group has full access.
pub(crate) const LIBVIRTD_CONF: &str = r#"auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_group = "libvirt"
unix_sock_rw_perms = "0770"
max_clients = 5000
"#;

/// Allows all users to connect, as libvirtd.socket does. The shipped example contains the other settings.
const OPEN_CONF: &str = r#"unix_sock_rw_perms = "0777"
max_clients = 5000
"#;

/// The shipped rule for the actor's user.
pub const RULE: &str = "dbus/10-wakevirt-libvirt.rules";

/// Installs polkit with the actions and rules from libvirt's package, and the shipped [`RULE`]. Start the [`Polkitd`]
/// afterwards, then libvirtd with [`Libvirtd::start_restricted`].
///
/// # Panics
/// If there is no Debian tree to copy libvirt's files from. This machine does not have libvirt's package.
#[must_use]
pub fn install_polkit(host: &Host) -> Polkitd<'_> {
    let tree = debian::tree_of_same_release().join("usr/share/polkit-1");
    let polkitd = Polkitd::install(host);
    polkitd.add_actions(&tree.join("actions/org.libvirt.unix.policy"));
    polkitd.add_actions(&tree.join("actions/org.libvirt.api.policy"));
    polkitd.add_rules(&tree.join("rules.d/60-libvirt.rules"));
    polkitd.add_rules(&project().join(RULE));
    polkitd
}

/// An emulated domain of an unprivileged user, without a disk and with a user-mode network.
#[must_use]
pub fn session_domain(name: &str, mac: &str) -> String {
    format!(
        "<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/><memballoon model='none'/>
    <interface type='user'><mac address='{mac}'/><model type='virtio'/></interface>
  </devices>
</domain>
"
    )
}

/// A host's libvirtd.
#[derive(Debug)]
pub struct Libvirtd<'host> {
    host: &'host Host,
    process: Option<Process>,
    /// Whether it connects to the system bus.
    uses_bus: bool,
    /// A client that remains connected. The test driver deletes all domains when its last client disconnects.
    client: Option<Process>,
}

/// Defines domains, with a single virsh(1) process.
///
/// # Panics
/// If libvirt rejects the XML of one of them.
pub fn define_all(host: &Host, uri: &str, domains: impl IntoIterator<Item = String>) {
    let mut commands = String::new();
    for (number, xml) in domains.into_iter().enumerate() {
        let file = format!("/run/domains/{number}");
        host.write(&file, &xml);
        let _ = write!(commands, "define {file};");
    }
    let output = host.command_as(User::Root, "virsh").args(["-q", "-c", uri, &commands]).output();
    let output = output.expect("virsh runs");
    // The exit status is that of the last command.
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !errors.contains("error:"), "{commands} failed:\n{errors}");
}

impl<'host> Libvirtd<'host> {
    /// Starts libvirtd on the host.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(host: &'host Host) -> Self {
        Self::start_with(host, "")
    }

    /// Starts libvirtd like [`Self::start`], without a connection to the system bus: libvirtd exits when it loses that
    /// connection.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_without_bus(host: &'host Host) -> Self {
        Self::start_configured(host, "", LIBVIRTD_CONF, false)
    }

    /// Starts libvirtd like [`Self::start`], with additional lines in qemu.conf.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_with(host: &'host Host, qemu_conf: &str) -> Self {
        Self::start_configured(host, qemu_conf, LIBVIRTD_CONF, true)
    }

    /// Starts libvirtd with its access driver, which asks polkit about each call: docs/RESTRICTED.md. polkitd must be
    /// running.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_restricted(host: &'host Host) -> Self {
        let example = project().join("docs/examples/restricted/libvirtd.conf");
        let example = std::fs::read_to_string(example).expect("the example of libvirtd.conf");
        Self::start_configured(host, "", &format!("{OPEN_CONF}{example}"), true)
    }

    fn start_configured(host: &'host Host, qemu_conf: &str, libvirtd_conf: &str, uses_bus: bool) -> Self {
        host.sh("rm -rf /etc/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt");
        host.write("/etc/libvirt/qemu.conf", &format!("{QEMU_CONF}{qemu_conf}"));
        host.write("/etc/libvirt/libvirtd.conf", libvirtd_conf);
        let mut libvirtd = Self { host, process: None, uses_bus, client: None };
        libvirtd.start_again();
        libvirtd
    }

    /// Starts libvirtd again after [`Self::kill`]. The QEMU domains are unchanged, and the test driver has only its
    /// predefined domain.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&mut self) {
        let mut command = self.host.command("libvirtd");
        if !self.uses_bus {
            command.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/run/no-bus");
        }
        let mut process = Process::start("libvirtd", &mut command);
        let replies = wait::within(TIMEOUT, || {
            let mut virsh = self.host.command("virsh");
            virsh.args(["-q", "-c", TEST, "uri"]).stdout(Stdio::null()).stderr(Stdio::null());
            let replies = virsh.status().is_ok_and(|status| status.success());
            (replies || process.exit_status().is_some()).then_some(replies)
        });
        assert!(replies == Some(true), "libvirtd does not reply:\n{}", process.log().all().join("\n"));
        self.process = Some(process);
        let mut virsh = self.host.command("virsh");
        virsh.args(["-q", "-c", TEST, "uri; event --loop --timestamp --all"]);
        let client = Process::start("virsh event", &mut virsh);
        // The client is connected when it has printed its first line.
        let _ = client.log().wait_for("test");
        self.client = Some(client);
    }

    /// Kills libvirtd (SIGKILL). All connections to it are lost, but the QEMU domains keep running.
    pub fn kill(&mut self) {
        self.client = None;
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// The libvirtd process.
    ///
    /// # Panics
    /// After [`Self::kill`].
    #[must_use]
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("libvirtd is running")
    }

    /// The host on which libvirtd runs.
    #[must_use]
    pub fn host(&self) -> &'host Host {
        self.host
    }

    /// Runs virsh(1) as root, and returns its output.
    ///
    /// # Panics
    /// If it fails.
    pub fn virsh(&self, uri: &str, arguments: &[&str]) -> String {
        let mut virsh = self.host.command_as(User::Root, "virsh");
        succeed(virsh.args(["-q", "-c", uri]).args(arguments)).trim().to_owned()
    }

    /// Defines a domain.
    ///
    /// # Panics
    /// If libvirt rejects the XML.
    pub fn define(&self, uri: &str, xml: &str) {
        define_all(self.host, uri, [xml.to_owned()]);
    }

    /// The state of a domain as virsh(1) prints it: `running`, `shut off`, `paused`, …
    ///
    /// # Panics
    /// If there is no such domain.
    #[must_use]
    pub fn state(&self, uri: &str, domain: &str) -> String {
        self.virsh(uri, &["domstate", domain])
    }

    /// How many times libvirtd has started QEMU for the domain.
    #[must_use]
    pub fn starts(&self, domain: &str) -> usize {
        let log = self.host.path(&format!("/var/log/libvirt/qemu/{domain}.log"));
        let log = std::fs::read_to_string(log).unwrap_or_default();
        log.lines().filter(|line| line.contains(": starting up libvirt version")).count()
    }

    /// The names of the QEMU domains that libvirtd had begun to start when it was killed, and that were not running yet.
    #[must_use]
    pub fn starting(&self) -> Vec<String> {
        let logs = std::fs::read_dir(self.host.path("/var/log/libvirt/qemu")).into_iter().flatten().flatten();
        let starting = |log: std::fs::DirEntry| {
            let text = std::fs::read_to_string(log.path()).unwrap_or_default();
            let is_change = |line: &&str| {
                line.contains(": starting up libvirt version") || line.contains(": shutting down, reason=")
            };
            text.lines().rfind(is_change).filter(|line| line.contains(": starting up"))?;
            let name = log.path().file_stem()?.to_str()?.to_owned();
            // libvirtd writes this file when the state changes, so that it finds the domain after a restart.
            let status = self.host.path(&format!("/run/libvirt/qemu/{name}.xml"));
            let status = std::fs::read_to_string(status).unwrap_or_default();
            (!status.contains("<domstatus state='running'")).then_some(name)
        };
        logs.filter_map(starting).collect()
    }

    /// The MAC address of a QEMU domain that has one interface.
    ///
    /// # Panics
    /// If there is no such domain.
    #[must_use]
    pub fn mac(&self, domain: &str) -> String {
        let interfaces = self.virsh(QEMU, &["domiflist", domain]);
        interfaces.split_whitespace().last().unwrap_or_default().to_owned()
    }

    /// Waits until a domain is in this state.
    ///
    /// # Panics
    /// If it does not reach the state within the timeout.
    pub fn wait_for_state(&self, uri: &str, domain: &str, state: &str) {
        wait::until_true(&format!("{domain} to be {state}"), || self.state(uri, domain) == state);
    }
}

/// The XML of a domain with one interface, for the test driver.
#[must_use]
pub fn test_domain(name: &str, mac: &str) -> String {
    format!(
        "<domain type='test'>
  <name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type>hvm</type></os>
  <devices><interface type='network'><mac address='{mac}'/><source network='default'/></interface></devices>
</domain>
"
    )
}

/// The XML of a QEMU domain without disks, with one interface on a bridge of the host. It does not need KVM, and starts
/// in 0.25 s.
#[must_use]
pub fn qemu_domain(name: &str, mac: &str, bridge: &str) -> String {
    let interface = format!("<mac address='{mac}'/><source bridge='{bridge}'/><model type='virtio'/>");
    qemu_domain_with(name, &format!("<interface type='bridge'>{interface}</interface>"))
}

/// The same XML as from [`qemu_domain`], but with these devices instead of the interface.
#[must_use]
pub fn qemu_domain_with(name: &str, devices: &str) -> String {
    format!(
        "<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/><memballoon model='none'/>
    {devices}
  </devices>
</domain>
"
    )
}
