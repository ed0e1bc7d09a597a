//! `wakevirtctl doctor` on a booted Debian system with one fault after another. For each fault, the test runs the first
//! command that doctor prints, until doctor finds nothing. Then a packet must wake the domain.
#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test may panic")]

use std::time::{Duration, Instant};

use serde_json::Value;
use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::Debian;
use wakevirt_tests::host::Host;
use wakevirt_tests::libvirt::{qemu_domain, qemu_domain_with};
use wakevirt_tests::network::Peer;
use wakevirt_tests::project::readme;
use wakevirt_tests::{privileged, wait};

const DOMAIN: &str = "win11";
const MAC: &str = "52:54:00:12:34:56";
/// The maximum number of commands that it takes to fix a fault.
const MAX_COMMANDS: usize = 3;
/// How long a command may take to have an effect before the next command is run.
const SETTLE_TIME: Duration = Duration::from_secs(5);

/// A fault of the system.
struct Fault {
    /// The shell commands that cause it.
    broken_by: &'static str,
    /// Whether the test sends a packet, which must fail to wake the domain, before it runs doctor.
    packet: bool,
    /// The check of the first finding.
    check: &'static str,
    /// Part of its evidence.
    evidence: &'static str,
}

const fn fault(check: &'static str, evidence: &'static str, broken_by: &'static str) -> Fault {
    Fault { broken_by, packet: false, check, evidence }
}

const FAULTS: [Fault; 16] = [
    fault(
        "unit-not-enabled",
        "wakevirt-capture.service: inactive (dead), disabled",
        "systemctl disable --now wakevirt-capture wakevirt-actor",
    ),
    fault("unit-stopped", "inactive (dead), enabled", "systemctl stop wakevirt-actor"),
    fault("unit-masked", "wakevirt-actor.service", "systemctl mask --now wakevirt-actor"),
    fault("group-missing", "wakevirt-actor.service", "groupdel libvirt; ! systemctl restart wakevirt-actor"),
    fault(
        "configuration",
        "actor.d/bad.toml:1: unknown key \"lgo\"; did you mean \"log\"?",
        "echo 'lgo = \"info\"' >/etc/wakevirt/actor.d/bad.toml; ! systemctl restart wakevirt-actor",
    ),
    fault(
        "links-masked",
        "netlink socket",
        "systemctl mask --now wakevirt-capture-links.socket; ! systemctl restart wakevirt-capture",
    ),
    fault(
        "unit-restart-loop",
        "changed by /etc/systemd/system/wakevirt-actor.service.d/bad.conf",
        "mkdir -p /etc/systemd/system/wakevirt-actor.service.d
         printf '[Service]\\nExecStart=\\nExecStart=/usr/bin/false\\n' >/etc/systemd/system/wakevirt-actor.service.d/bad.conf
         systemctl daemon-reload; systemctl restart --no-block wakevirt-actor
         until [ $(systemctl show --property=NRestarts --value wakevirt-actor) -ge 3 ]; do sleep 0.1; done",
    ),
    fault(
        "unit-failed",
        "changed by /etc/systemd/system/wakevirt-actor.service.d/bad.conf",
        "mkdir -p /etc/systemd/system/wakevirt-actor.service.d
         printf '[Service]\\nRestart=no\\nExecStart=\\nExecStart=/usr/bin/false\\n' >/etc/systemd/system/wakevirt-actor.service.d/bad.conf
         systemctl daemon-reload; ! systemctl restart wakevirt-actor",
    ),
    fault(
        "udp-mode",
        "changed by /etc/systemd/system/wakevirt-capture.service.d/bad.conf",
        "mkdir -p /etc/systemd/system/wakevirt-capture.service.d
         printf '[Service]\\nCapabilityBoundingSet=\\nAmbientCapabilities=\\n' >/etc/systemd/system/wakevirt-capture.service.d/bad.conf
         systemctl daemon-reload; systemctl restart wakevirt-capture",
    ),
    fault(
        "port-taken",
        "wakevirt-capture.socket is failed",
        "systemctl stop wakevirt-capture
         systemd-run --quiet --unit=squatter perl -MSocket -e 'socket(S, PF_INET, SOCK_DGRAM, 0); bind(S, sockaddr_in(9, INADDR_ANY)); sleep 1000'
         until grep -q ':0009 ' /proc/net/udp; do sleep 0.1; done
         systemctl start wakevirt-capture",
    ),
    fault(
        "libvirt-unreachable",
        "libvirtd.service: masked, inactive",
        "systemctl mask --now libvirtd.socket libvirtd.service",
    ),
    fault(
        "libvirt-denied",
        "SupplementaryGroups=",
        "mkdir -p /etc/systemd/system/libvirtd.socket.d /etc/systemd/system/wakevirt-actor.service.d
         printf '[Socket]\\nSocketMode=0660\\nSocketGroup=libvirt\\n' >/etc/systemd/system/libvirtd.socket.d/group.conf
         printf '[Service]\\nSupplementaryGroups=\\n' >/etc/systemd/system/wakevirt-actor.service.d/group.conf
         systemctl daemon-reload; systemctl stop libvirtd.service 'libvirtd*.socket'; systemctl start libvirtd.socket
         systemctl restart wakevirt-actor",
    ),
    fault("not-allowed", "rules in the configuration: 0", "rm /etc/wakevirt/actor.d/*; systemctl reload wakevirt-actor"),
    fault(
        "bus-policy",
        "/usr/share/dbus-1/system.d/org.wakevirt.Actor1.conf exists",
        // Both implementations of the bus notice a new file, but not a directory that is mounted.
        "cp -r /usr/share/dbus-1/system.d /run/policies; rm /run/policies/org.wakevirt.Actor1.conf
         mount --bind /run/policies /usr/share/dbus-1/system.d; systemctl reload dbus
         systemctl restart --no-block wakevirt-actor
         until journalctl --unit wakevirt-actor | grep -q 'the bus policy does not allow'; do sleep 0.1; done
         umount /usr/share/dbus-1/system.d",
    ),
    fault(
        "version-skew",
        "wakevirt-capture 0.0.9",
        "cp /usr/bin/wakevirt-capture /root/new; sed 's/0\\.1\\.0/0.0.9/g' /root/new >/root/old; chmod 755 /root/old
         mv /root/old /usr/bin/wakevirt-capture; systemctl restart wakevirt-capture
         mv /root/new /usr/bin/wakevirt-capture",
    ),
    Fault {
        packet: true,
        ..fault(
            "managed-save",
            "Managed save: yes",
            "virsh --quiet start win11 || true; virsh --quiet managedsave win11; truncate --size=16K /var/lib/libvirt/qemu/save/win11.save",
        )
    },
];

/// A Debian system with wakevirt and one domain, and another machine on its network.
struct Fixture<'host> {
    debian: Debian<'host>,
    lan: Peer<'host>,
}

impl<'host> Fixture<'host> {
    fn new(host: &'host Host) -> Self {
        let mut debian = Debian::new(host, Kind::DbusBroker);
        debian.install();
        host.bridge("br0");
        let lan = host.veth("port0");
        host.sh("ip link set port0 master br0 && ip address add 192.0.2.1/24 brd + dev br0");
        lan.address("192.0.2.2/24");
        debian.boot();
        debian.write("/root/win11.xml", &qemu_domain(DOMAIN, MAC, "br0"));
        debian.write("/etc/wakevirt/actor.d/rule.toml", "[[allow]]\ndomain = \"win11\"\n");
        debian.sh("virsh --quiet --connect qemu:///system define /root/win11.xml");
        debian.sh("systemctl enable --now wakevirt-capture wakevirt-actor");
        Self { debian, lan }
    }

    fn diagnose(&self) -> Value {
        let mut doctor = self.debian.command("wakevirtctl");
        let output = doctor.args(["--json", "doctor", DOMAIN]).output().expect("wakevirtctl runs");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    /// Waits until doctor finds no problem, because services and connections need time to start.
    fn assert_healthy(&self, context: &str) {
        let (diagnosis, is_healthy) =
            wait::observe(wait::TIMEOUT, || self.diagnose(), |diagnosis| diagnosis["healthy"] == true);
        assert!(is_healthy, "{context}: {diagnosis:#}\n{}", self.debian.journal("wakevirt-actor"));
    }

    /// Waits until the first finding is that of the fault, and returns the diagnosis.
    fn assert_found(&self, fault: &Fault) -> Value {
        let is_expected = |diagnosis: &Value| {
            let finding = &diagnosis["findings"][0];
            let evidence = finding["evidence"].to_string().replace('\\', "");
            finding["check"] == fault.check && evidence.contains(fault.evidence)
        };
        let (diagnosis, is_found) = wait::observe(wait::TIMEOUT, || self.diagnose(), is_expected);
        assert!(is_found, "{}, {:?}: {diagnosis:#}", fault.check, fault.evidence);
        diagnosis
    }

    /// Runs the first command that doctor prints, until doctor finds nothing, at most `MAX_COMMANDS` times. Returns the
    /// commands.
    fn fix(&self, mut diagnosis: Value) -> Vec<String> {
        let mut commands = Vec::new();
        while commands.len() < MAX_COMMANDS && diagnosis["healthy"] != true {
            let command = diagnosis["findings"][0]["cure"].as_str();
            let command = command.unwrap_or_else(|| panic!("doctor prints no command: {diagnosis:#}"));
            self.debian.sh(command);
            commands.push(command.to_owned());
            // Services and connections need time to start, and doctor can find other problems until then.
            let fixed_at = Instant::now();
            let is_settled = |diagnosis: &Value| {
                let another =
                    fixed_at.elapsed() > SETTLE_TIME && diagnosis["findings"][0]["cure"].is_string();
                diagnosis["healthy"] == true || another
            };
            (diagnosis, _) = wait::observe(wait::TIMEOUT, || self.diagnose(), is_settled);
        }
        commands
    }

    /// Sends packets until the domain is running, then destroys the domain. A restart of the actor ends the cool-down.
    fn assert_wakes(&self, context: &str) {
        // A repeated packet of the previous round can have started it again.
        self.destroy();
        let state = || self.debian.sh(&format!("virsh --quiet domstate {DOMAIN}")).trim().to_owned();
        let woken = wait::within(wait::TIMEOUT, || {
            self.lan.etherwake(MAC, &[]);
            wait::within(Duration::from_millis(500), || (state() == "running").then_some(()))
        });
        let journal = || self.debian.journal("wakevirt-actor");
        assert!(woken.is_some(), "the domain is {} after\n{context}\n{}", state(), journal());
        self.destroy();
        self.debian.sh("systemctl restart wakevirt-actor");
    }

    /// Destroys the domain if it is running.
    fn destroy(&self) {
        self.debian.sh(&format!(
            "virsh --quiet destroy {DOMAIN} || virsh --quiet domstate {DOMAIN} | grep -q 'shut off'"
        ));
    }

    /// Causes each fault, runs the commands that doctor prints, and checks that a packet wakes the domain afterwards.
    fn assert_each_is_fixed(&self, faults: &[Fault]) {
        for fault in faults {
            self.assert_healthy(&format!("before {}", fault.check));
            self.debian.sh(fault.broken_by);
            if fault.packet {
                self.fail_to_wake();
            }
            let diagnosis = self.assert_found(fault);
            let commands = self.fix(diagnosis);
            self.assert_healthy(&format!("{}, after {commands:?}", fault.check));
            self.assert_wakes(&format!("{commands:?}"));
        }
    }

    /// Sends packets until a wake fails.
    fn fail_to_wake(&self) {
        let failures = || self.debian.journal("wakevirt-actor").matches("failed: domain").count();
        let before = failures();
        // A packet like the previous one counts as a copy for two seconds.
        wait::until_true("the wake to fail", || {
            self.lan.etherwake(MAC, &[]);
            wait::within(Duration::from_millis(500), || (failures() > before).then_some(())).is_some()
        });
    }
}

#[test]
fn each_fault_is_found_and_fixed() {
    privileged!();
    let host = Host::new();
    let fixture = Fixture::new(&host);
    fixture.assert_healthy("after the installation");
    fixture.assert_wakes("the installation");
    fixture.assert_each_is_fixed(&FAULTS);
}

/// Removes lines from the shipped rule. `$lines` is a regular expression.
macro_rules! without {
    ($lines:literal) => {
        concat!(
            "rm -f /etc/polkit-1/rules.d/0*.rules; cp /root/rule /usr/share/polkit-1/rules.d/10-wakevirt-libvirt.rules
             sed -i '/",
            $lines,
            "/d' /usr/share/polkit-1/rules.d/10-wakevirt-libvirt.rules; systemctl reset-failed polkit; systemctl restart polkit wakevirt-actor"
        )
    };
}

/// Faults of the setup in docs/RESTRICTED.md.
const RESTRICTED: [Fault; 7] = [
    // libvirt does not allow the actor to connect.
    fault("libvirt-denied", "org.libvirt.unix.manage is denied to the actor", without!("unix.manage")),
    fault("libvirt-denied", "org.libvirt.api.connect.getattr is denied to the actor", without!("connect.getattr")),
    // libvirt does not show the domain to the actor.
    fault("libvirt-permission", "org.libvirt.api.domain.getattr is denied to the actor", without!("api.domain.getattr")),
    Fault {
        packet: true,
        ..fault("libvirt-permission", "org.libvirt.api.domain.start is denied to the actor", without!("domain.start"))
    },
    // Only domains with networks need this permission.
    Fault {
        packet: true,
        ..fault("libvirt-permission", "org.libvirt.api.network.getattr is denied to the actor", without!("network.getattr"))
    },
    fault(
        "libvirt-permission",
        "org.libvirt.api.domain.start is denied to the actor",
        "rm -f /etc/polkit-1/rules.d/0*.rules; cp /root/rule /usr/share/polkit-1/rules.d/10-wakevirt-libvirt.rules
         echo 'polkit.addRule(function (action) { if (action.id == \"org.libvirt.api.domain.start\") return polkit.Result.NO; });' \
            >/etc/polkit-1/rules.d/05-own.rules
         systemctl reset-failed polkit; systemctl restart polkit wakevirt-actor",
    ),
    fault(
        "libvirt-denied",
        "10-wakevirt-libvirt.rules is missing",
        "rm -f /etc/polkit-1/rules.d/0*.rules /usr/share/polkit-1/rules.d/10-wakevirt-libvirt.rules
         systemctl reset-failed polkit; systemctl restart polkit wakevirt-actor",
    ),
];

const NETWORK: &str = "<network><name>own</name><forward mode='bridge'/><bridge name='br0'/></network>";

#[test]
fn missing_permissions_are_found_and_granted() {
    privileged!();
    let host = Host::new();
    let fixture = Fixture::new(&host);
    let interface = format!("<mac address='{MAC}'/><source network='own'/><model type='virtio'/>");
    let domain = qemu_domain_with(DOMAIN, &format!("<interface type='network'>{interface}</interface>"));
    fixture.debian.write("/root/own.xml", NETWORK);
    fixture.debian.write("/root/win11.xml", &domain);
    fixture.debian.sh("cp /usr/share/polkit-1/rules.d/10-wakevirt-libvirt.rules /root/rule
         virsh='virsh --quiet --connect qemu:///system'; $virsh undefine win11; $virsh define /root/win11.xml
         $virsh net-define /root/own.xml; $virsh net-start own; $virsh net-autostart own");
    // Without the access driver, the rule allows only the connection.
    fixture.assert_each_is_fixed(&[fault(
        "libvirt-denied",
        "10-wakevirt-libvirt.rules is missing",
        "rm /usr/share/polkit-1/rules.d/10-wakevirt-libvirt.rules; systemctl reset-failed polkit; systemctl restart polkit wakevirt-actor",
    )]);
    let enable = readme::commands_of("docs/RESTRICTED.md", "Enable");
    fixture.debian.sh(enable.last().expect("commands"));
    fixture.debian.sh(without!("^no such line$"));
    fixture.assert_healthy("with the restrictions");
    fixture.assert_wakes("the restrictions");
    fixture.assert_each_is_fixed(&RESTRICTED);
}
