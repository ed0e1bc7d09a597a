//! The permissions that libvirt checks when it starts a domain with networks, volumes, filters or secrets. The shipped
//! rule allows the actor to start every kind of domain that root can start, and no more than this requires.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write as _;
use std::process::Stdio;

use wakevirt_tests::host::{Host, User};
use wakevirt_tests::libvirt::machine::{Guest, Machine};
use wakevirt_tests::libvirt::{QEMU, RULE};
use wakevirt_tests::scene::restricted::{Restricted, shipped};
use wakevirt_tests::scene::{ALL_ALLOWED, LibvirtAccess, Scene};
use wakevirt_tests::{privileged, wait};

/// A network of each kind that does not need hardware. `br0` is a bridge on the host.
const NETWORKS: [(&str, &str); 5] = [
    (
        "nat",
        "<forward mode='nat'/><bridge name='virbr0'/><ip address='192.168.122.1' netmask='255.255.255.0'>
         <dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp></ip>",
    ),
    (
        "routed",
        "<forward mode='route'/><bridge name='virbr1'/><ip address='192.168.123.1' netmask='255.255.255.0'/>",
    ),
    ("isolated", "<bridge name='virbr2'/>"),
    ("bridged", "<forward mode='bridge'/><bridge name='br0'/>"),
    ("macvtap", "<forward mode='bridge'><interface dev='br0'/></forward>"),
];
const FILTER: &str = "<filter name='own-address' chain='root'>
  <rule action='drop' direction='in' priority='500'><mac match='no' srcmacaddr='$MAC'/></rule></filter>";

/// A secret with a readable value, and a private secret, whose value libvirt does not show to any client.
const OPEN: &str = "11111111-1111-4111-8111-111111111111";
const PRIVATE: &str = "22222222-2222-4222-8222-222222222222";
const SECRETS: &str = "docs/examples/restricted/05-wakevirt-secrets.rules";

fn interface(kind: &str, rest: &str) -> String {
    format!("<interface type='{kind}'>{rest}<model type='virtio'/></interface>")
}

fn on_network(name: &str) -> String {
    interface("network", &format!("<source network='{name}'/>"))
}

fn disk(kind: &str, source: &str) -> String {
    format!(
        "<disk type='{kind}' device='disk'><driver name='qemu' type='raw'/>{source}<target dev='hda' bus='ide'/></disk>"
    )
}

fn volume() -> String {
    disk("volume", "<source pool='pool' volume='volume'/>")
}

/// An emulated TPM. `secret` is empty, or an element that names the secret that encrypts its state.
fn tpm(secret: &str) -> String {
    format!("<tpm model='tpm-tis'><backend type='emulator' version='2.0'>{secret}</backend></tpm>")
}

fn encrypted(secret: &str) -> String {
    format!("<encryption secret='{secret}'/>")
}

const FILTERED: &str = "<source bridge='br0'/><filterref filter='own-address'/>";
const SCREEN: &str = "<graphics type='vnc'><listen type='network' network='nat'/></graphics>";
/// A serial port connected to a socket that does not exist: QEMU exits after it has set up all other devices.
const BROKEN: &str = "<serial type='unix'><source mode='connect' path='/run/missing'/></serial>";

/// Creates networks, a filter, and a pool with a volume.
fn with_objects(host: &Host) -> Restricted<'_> {
    let libvirt = Restricted::new(host);
    for (name, xml) in NETWORKS {
        libvirt.virsh_as_root_with("net-define", &format!("<network><name>{name}</name>{xml}</network>"));
        libvirt.virsh_as_root(&format!("net-start {name}"));
    }
    libvirt.virsh_as_root_with("nwfilter-define", FILTER);
    host.sh("mkdir /run/pool");
    libvirt.virsh_as_root("pool-define-as pool dir --target /run/pool");
    libvirt.virsh_as_root("pool-start pool");
    libvirt.virsh_as_root("vol-create-as pool volume 1M");
    libvirt
}

/// Defines a secret, and sets its value.
fn define_secret(libvirt: &Restricted<'_>, uuid: &str, private: &str, usage: &str) {
    let xml = format!("<secret private='{private}'><uuid>{uuid}</uuid>{usage}</secret>");
    libvirt.virsh_as_root_with("secret-define", &xml);
    libvirt.virsh_as_root(&format!("secret-set-value {uuid} --base64 c2VjcmV0"));
}

/// The example rules for secrets, with this secret.
fn rules_for(secret: &str) -> String {
    let rules = shipped(SECRETS);
    let placeholder = "00000000-0000-0000-0000-000000000000";
    assert_eq!(rules.matches(placeholder).count(), 1, "{SECRETS}");
    rules.replace(placeholder, secret)
}

/// The network ports, filter bindings and interfaces that domains use or have left behind.
fn left_behind(host: &Host, libvirt: &Restricted<'_>) -> String {
    let mut left = libvirt.virsh_as_root("nwfilter-binding-list");
    for (name, _) in NETWORKS {
        let _ = write!(left, "{}", libvirt.virsh_as_root(&format!("net-port-list {name}")));
    }
    left + &host.sh("ip -brief link | grep -E '^(vnet|macvtap)' || true")
}

#[test]
fn starts_every_kind_of_domain_that_root_can_start() {
    privileged!();
    let host = Host::new();
    let libvirt = with_objects(&host);
    host.sh("ip tuntap add dev tap0 mode tap");
    let mut kinds: Vec<_> = NETWORKS.map(|(name, _)| (name, on_network(name))).into();
    kinds.extend([
        ("bridge", interface("bridge", "<source bridge='br0'/>")),
        ("direct", interface("direct", "<source dev='br0' mode='bridge'/>")),
        ("tap", interface("ethernet", "<target dev='eth7'/>")),
        ("own-tap", interface("ethernet", "<target dev='tap0' managed='no'/>")),
        ("user", interface("user", "")),
        (
            "udp",
            interface(
                "udp",
                "<source address='127.0.0.1' port='1'><local address='127.0.0.1' port='2'/></source>",
            ),
        ),
        ("filtered", interface("bridge", FILTERED)),
        ("filtered-nat", interface("network", "<source network='nat'/><filterref filter='own-address'/>")),
        ("volume", volume()),
        ("screen", SCREEN.to_owned()),
        ("tpm", tpm("")),
    ]);
    for (name, devices) in kinds {
        libvirt.define(name, &devices);
        // polkit allows root to do everything, as libvirt does without its access driver.
        libvirt.virsh_as_root(&format!("start {name}"));
        libvirt.virsh_as_root(&format!("destroy {name}"));
        libvirt.virsh(User::Actor, &format!("start {name}")).unwrap();
        assert_eq!(libvirt.virsh_as_root(&format!("domstate {name}")), "running");
        libvirt.virsh_as_root(&format!("destroy {name}"));
    }
    // A start also restores a saved domain.
    libvirt.virsh_as_root("start nat");
    libvirt.virsh_as_root("managedsave nat");
    libvirt.virsh(User::Actor, "start nat").unwrap();
    assert_eq!(libvirt.virsh_as_root("domstate --reason nat"), "running (restored)");
}

#[test]
fn a_failed_start_leaves_nothing_behind() {
    privileged!();
    let host = Host::new();
    let libvirt = with_objects(&host);
    let networks: String = NETWORKS.iter().map(|(name, _)| on_network(name)).collect();
    let direct = interface("direct", "<source dev='br0' mode='bridge'/>");
    let devices = [networks, direct, interface("bridge", FILTERED), volume(), BROKEN.to_owned()].concat();
    libvirt.define("broken", &devices);
    let error = libvirt.virsh(User::Actor, "start broken").unwrap_err();
    assert!(error.contains("/run/missing"), "QEMU did not fail because of the socket: {error}");
    assert_eq!(left_behind(&host, &libvirt), "");
    assert_eq!(libvirt.virsh_as_root("net-dhcp-leases nat"), "");
    // As a control: without the broken device, there are ports and bindings.
    libvirt.define("works", &devices.replace(BROKEN, ""));
    libvirt.virsh(User::Actor, "start works").unwrap();
    let left = left_behind(&host, &libvirt);
    assert_eq!(left.matches("vnet").count(), 6, "expected five tap devices and a filter binding: {left}");
    // When QEMU exits, libvirt removes them.
    host.sh("kill -9 $(cat /run/libvirt/qemu/works.pid)");
    wait::until_true("libvirt to remove ports and bindings", || left_behind(&host, &libvirt).is_empty());
}

/// The effect of a missing permission.
enum Effect {
    /// This virsh(1) command fails with this error.
    Error(&'static str, &'static str),
    /// A failed start leaves something behind.
    Residue,
}

/// Each permission of the rule, without the `org.libvirt.` prefix, and the effect if the permission is missing.
const PERMISSIONS: [(&str, Effect); 21] = {
    use Effect::{Error, Residue};
    const ACCESS_DENIED: &str = "access denied";
    [
        ("unix.manage", Error("list --all", ACCESS_DENIED)),
        ("api.connect.getattr", Error("list --all", ACCESS_DENIED)),
        ("api.connect.search-domains", Error("list --all", ACCESS_DENIED)),
        // libvirt reports that the domain does not exist.
        ("api.domain.getattr", Error("domstate off", "failed to get domain 'off'")),
        ("api.domain.read", Error("dumpxml off", ACCESS_DENIED)),
        ("api.domain.start", Error("start off", ACCESS_DENIED)),
        ("api.domain.suspend", Error("resume paused", ACCESS_DENIED)),
        ("api.domain.pm-control", Error("dompmwakeup asleep", ACCESS_DENIED)),
        ("api.network.getattr", Error("start nat", "access denied: 'network'")),
        ("api.network.read", Error("start screen", "access denied: 'network'")),
        ("api.network-port.create", Error("start nat", "access denied: 'network'")),
        ("api.network-port.read", Error("start nat", "access denied: 'network'")),
        ("api.network-port.getattr", Residue),
        ("api.network-port.delete", Residue),
        ("api.storage-pool.getattr", Error("start volume", "access denied: 'storage'")),
        // libvirt treats the failed query as an inactive pool.
        ("api.storage-pool.read", Error("start volume", "is not active")),
        ("api.storage-vol.getattr", Error("start volume", "access denied: 'storage'")),
        ("api.storage-vol.read", Error("start volume", "access denied: 'storage'")),
        ("api.nwfilter-binding.create", Error("start filtered", "access denied: 'nwfilter'")),
        ("api.nwfilter-binding.getattr", Residue),
        ("api.nwfilter-binding.delete", Residue),
    ]
};

/// A host with a domain for each of [`PERMISSIONS`].
fn with_domains(host: &Host) -> Restricted<'_> {
    let libvirt = with_objects(host);
    for name in ["off", "paused"] {
        Machine::new(name).define(&libvirt.libvirtd);
    }
    Machine::new("asleep").guest(Guest::Suspends).define(&libvirt.libvirtd);
    libvirt.virsh_as_root("start paused --paused");
    libvirt.virsh_as_root("start asleep");
    libvirt.libvirtd.wait_for_state(QEMU, "asleep", "pmsuspended");
    libvirt.define("nat", &on_network("nat"));
    libvirt.define("screen", SCREEN);
    libvirt.define("volume", &volume());
    libvirt.define("filtered", &interface("bridge", FILTERED));
    libvirt.define("broken", &[&on_network("isolated"), &interface("bridge", FILTERED), BROKEN].concat());
    libvirt
}

#[test]
fn each_permission_of_the_rule_is_needed() {
    privileged!();
    let host = Host::new();
    let mut libvirt = with_domains(&host);
    let rule = shipped(RULE);
    assert_eq!(
        rule.matches("case \"org.libvirt.").count(),
        PERMISSIONS.len(),
        "PERMISSIONS and the rule list different permissions"
    );
    let without = |permission: &str| {
        let case = format!("case \"org.libvirt.{permission}\":");
        assert_eq!(rule.matches(&case).count(), 1, "{permission}");
        rule.replace(&case, "")
    };
    for (permission, effect) in &PERMISSIONS {
        if let Effect::Error(line, expected) = effect {
            libvirt.replace_rule(&without(permission));
            let result = libvirt.virsh(User::Actor, line);
            let denied = result.as_ref().is_err_and(|error| error.contains(expected));
            assert!(denied, "without {permission}: {line}: {result:?}");
        }
    }
    libvirt.replace_rule(&rule);
    assert_commands_succeed(&libvirt);
    for name in ["nat", "filtered", "off", "paused", "asleep"] {
        libvirt.virsh_as_root(&format!("destroy {name}"));
    }
    for (permission, effect) in &PERMISSIONS {
        if matches!(effect, Effect::Residue) {
            libvirt.replace_rule(&without(permission));
            libvirt.virsh(User::Actor, "start broken").unwrap_err();
            let left = left_behind(&host, &libvirt);
            assert_eq!(left.lines().count(), 1, "without {permission}: {left}");
            remove_residue(&libvirt);
            assert_eq!(left_behind(&host, &libvirt), "");
        }
    }
}

/// Checks that the commands in [`PERMISSIONS`] succeed with all permissions.
fn assert_commands_succeed(libvirt: &Restricted<'_>) {
    for (_, effect) in &PERMISSIONS {
        if let Effect::Error(line, _) = effect {
            // Several permissions share a command, which succeeds only once.
            let _ = libvirt.virsh(User::Actor, line).map_err(|error| {
                assert!(
                    error.contains("already active") || error.contains("already running"),
                    "{line}: {error}"
                );
            });
        }
    }
}

/// Removes, as root, what a failed start of `broken` has left behind.
fn remove_residue(libvirt: &Restricted<'_>) {
    for port in libvirt.virsh_as_root("net-port-list isolated").split_whitespace() {
        libvirt.virsh_as_root(&format!("net-port-delete isolated {port}"));
    }
    if let Some(device) = libvirt.virsh_as_root("nwfilter-binding-list").split_whitespace().next() {
        libvirt.virsh_as_root(&format!("nwfilter-binding-delete {device}"));
    }
}

/// virsh(1) commands that the permissions do not include.
const DENIED: &[&str] = &[
    // Networks.
    "net-list --all",
    "net-destroy nat",
    "net-undefine nat",
    "net-autostart nat",
    "net-update nat add ip-dhcp-host '<host ip=\"192.168.122.9\" name=\"x\"/>' --live",
    "net-start off",
    "net-port-list nat",
    // Pools and volumes.
    "pool-list --all",
    "pool-destroy pool",
    "pool-undefine pool",
    "pool-refresh pool",
    "vol-list pool",
    "vol-create-as pool new 1M",
    "vol-delete --pool pool volume",
    "vol-wipe --pool pool volume",
    "vol-resize --pool pool volume 2M",
    "vol-clone --pool pool volume copy",
    "vol-download --pool pool volume /dev/null",
    "vol-upload --pool pool volume /etc/hostname",
    // Filters.
    "nwfilter-list",
    "nwfilter-define /run/filter.xml",
    "nwfilter-dumpxml own-address",
    "nwfilter-undefine own-address",
    "nwfilter-binding-list",
];

#[test]
fn permissions_allow_the_documented_extras_and_no_more() {
    privileged!();
    let host = Host::new();
    let libvirt = with_objects(&host);
    libvirt.virsh_as_root_with("net-define", "<network><name>off</name><bridge name='virbr9'/></network>");
    libvirt.define("filtered", &[on_network("nat"), interface("bridge", FILTERED)].concat());
    libvirt.virsh_as_root("start filtered");
    host.write("/run/filter.xml", "<filter name='new' chain='root'/>");
    libvirt.assert_denied(User::Actor, DENIED);
    assert_can_read(&libvirt);
    assert_can_change(&host, &libvirt);
}

/// Checks what the permissions show to the actor's user: docs/THREAT-MODEL.md.
fn assert_can_read(libvirt: &Restricted<'_>) {
    for (line, expected) in [
        ("net-dumpxml nat", "192.168.122.1"),
        ("net-dhcp-leases nat", ""),
        ("pool-dumpxml pool", "/run/pool"),
        ("pool-info pool", "Capacity"),
        ("vol-path --pool pool volume", "/run/pool/volume"),
        ("vol-info --pool pool volume", "1.00 MiB"),
    ] {
        let output = libvirt.virsh(User::Actor, line).unwrap();
        assert!(output.contains(expected), "{line}: {output}");
    }
}

/// Checks what the permissions allow the actor's user to change: docs/THREAT-MODEL.md.
fn assert_can_change(host: &Host, libvirt: &Restricted<'_>) {
    let bindings = libvirt.virsh_as_root("nwfilter-binding-list");
    let device = bindings.split_whitespace().next().unwrap();
    libvirt.virsh(User::Actor, &format!("nwfilter-binding-delete {device}")).unwrap();
    assert_eq!(libvirt.virsh_as_root("nwfilter-binding-list"), "");
    let owner = format!("<owner><name>x</name><uuid>{OPEN}</uuid></owner><mac address='52:54:00:00:00:01'/>");
    let binding = format!("{owner}<portdev name='br0'/><filterref filter='own-address'/>");
    host.write("/run/binding.xml", &format!("<filterbinding>{binding}</filterbinding>"));
    libvirt.virsh(User::Actor, "nwfilter-binding-create /run/binding.xml").unwrap();
    assert!(libvirt.virsh_as_root("nwfilter-binding-list").contains("br0"));
    let port = libvirt.virsh_as_root("net-port-list nat");
    libvirt.virsh(User::Actor, &format!("net-port-delete nat {}", port.trim())).unwrap();
    assert_eq!(libvirt.virsh_as_root("net-port-list nat"), "");
}

#[test]
fn a_domain_that_uses_inactive_objects_does_not_start() {
    privileged!();
    let host = Host::new();
    let libvirt = with_objects(&host);
    libvirt.virsh_as_root("net-destroy nat");
    libvirt.virsh_as_root("pool-destroy pool");
    libvirt.define("network", &on_network("nat"));
    libvirt.define("volume", &volume());
    for (name, message) in [
        ("network", "network 'nat' is not active"),
        ("volume", "storage pool 'pool' containing volume 'volume' is not active"),
    ] {
        for user in [User::Root, User::Actor] {
            let error = libvirt.virsh(user, &format!("start {name}")).unwrap_err();
            assert!(error.contains(message), "{user:?}: {error}");
        }
    }
}

#[test]
fn uses_a_secret_only_if_it_is_granted() {
    privileged!();
    let host = Host::new();
    let mut libvirt = with_objects(&host);
    define_secret(&libvirt, OPEN, "no", "<usage type='volume'><volume>/run/disk.luks</volume></usage>");
    define_secret(&libvirt, PRIVATE, "yes", "<usage type='vtpm'><name>tpm</name></usage>");
    wait::until_true("qemu-img to create the disk", || {
        // qemu-img measures CPU time, and fails if the kernel reports that no time has passed.
        let mut qemu_img = host.command("qemu-img");
        qemu_img.args(["create", "-q", "-f", "luks", "--object", "secret,id=key,data=secret"]);
        qemu_img.args(["-o", "key-secret=key,iter-time=10", "/run/disk.luks", "1M"]).stderr(Stdio::null());
        qemu_img.status().is_ok_and(|status| status.success())
    });
    let passphrase =
        format!("<encryption format='luks'><secret type='passphrase' uuid='{OPEN}'/></encryption>");
    libvirt.define("disk", &disk("file", &format!("<source file='/run/disk.luks'>{passphrase}</source>")));
    libvirt.define("tpm", &tpm(&encrypted(PRIVATE)));
    for name in ["disk", "tpm"] {
        libvirt.virsh_as_root(&format!("start {name}"));
        libvirt.virsh_as_root(&format!("destroy {name}"));
    }
    libvirt.assert_denied(User::Actor, &["start disk", "start tpm"]);

    for (granted, allowed, denied) in [(OPEN, "disk", "tpm"), (PRIVATE, "tpm", "disk")] {
        libvirt.polkitd.write_rules("05-wakevirt-secrets.rules", &rules_for(granted));
        libvirt.restart_polkit();
        libvirt.virsh(User::Actor, &format!("start {allowed}")).unwrap();
        libvirt.virsh_as_root(&format!("destroy {allowed}"));
        let list =
            ["secret-list", &format!("secret-dumpxml {granted}"), &format!("secret-undefine {granted}")];
        libvirt.assert_denied(User::Actor, &[[&*format!("start {denied}")].as_slice(), &list].concat());
        // The rule applies only to the actor.
        libvirt.assert_denied(User::LibvirtMember, &[&format!("secret-get-value {granted}")]);
        let value = libvirt.virsh(User::Actor, &format!("secret-get-value {granted}"));
        match granted {
            OPEN => assert_eq!(value.unwrap(), "c2VjcmV0"),
            _ => assert!(value.as_ref().is_err_and(|error| error.contains("secret is private")), "{value:?}"),
        }
    }
}

#[test]
fn logs_why_a_domain_with_a_secret_does_not_start() {
    privileged!();
    let host = Host::new();
    let machines = [Machine::new("encrypted").device(&tpm(&encrypted(OPEN)))];
    let scene = Scene::with_access(LibvirtAccess::Restricted, &host, &machines, ALL_ALLOWED);
    host.write(
        "/run/secret.xml",
        &format!("<secret><uuid>{OPEN}</uuid><usage type='vtpm'><name>x</name></usage></secret>"),
    );
    scene.virsh(&["secret-define", "/run/secret.xml"]);
    scene.virsh(&["secret-set-value", OPEN, "--base64", "c2VjcmV0"]);
    scene.packet("encrypted", 1);
    let line = scene.assert_outcome("encrypted", "failed");
    assert!(line.contains("access denied: 'secret' denied access"), "{line}");
    let _ = scene
        .actor()
        .log()
        .wait_for("see \"Encrypted disks and TPMs\" in /usr/share/doc/wakevirt/RESTRICTED.md");
    let page = shipped("docs/RESTRICTED.md");
    assert!(page.contains("## Encrypted disks and TPMs\n"), "the page lacks the section that the log names");
}
