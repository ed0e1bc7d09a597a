//! The container images of capture and of the actor, run by Podman and crun(1) with the commands in INSTALL.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;

use wakevirt_protocol::bus::{ACTOR_NAME, CAPTURE_INTERFACE, CAPTURE_NAME};
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::host::{Host, PROGRAMS, User, built_programs, project, succeed};
use wakevirt_tests::libvirt::{Libvirtd, TEST, test_domain};
use wakevirt_tests::network::Peer;
use wakevirt_tests::{privileged, wait};

const MAC: &str = "52:54:00:01:02:03";

/// Configures Podman to run in a host's namespaces, without cgroups and with its storage in a tmpfs.
const PODMAN: &str = r#"
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /etc/containers /etc/wakevirt
printf '[storage]\ndriver = "vfs"\ngraphroot = "/run/containers/graph"\nrunroot = "/run/containers/run"\n' >/etc/containers/storage.conf
printf '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\nruntime = "crun"\n[containers]\ncgroups = "disabled"\n' >/etc/containers/containers.conf
"#;

/// A host with a network, a bus, and a libvirt with one domain that is shut off.
struct Site<'host> {
    host: &'host Host,
    _bus: Bus<'host>,
    lan: Peer<'host>,
    libvirtd: Libvirtd<'host>,
}

impl<'host> Site<'host> {
    fn new(host: &'host Host) -> Self {
        let bus = Bus::start(host, Kind::DbusDaemon);
        let lan = host.veth("lan0");
        host.sh("ip address add 192.0.2.1/24 dev lan0");
        lan.address("192.0.2.2/24");
        let libvirtd = Libvirtd::start(host);
        libvirtd.define(TEST, &test_domain("vm1", MAC));
        libvirtd.virsh(TEST, &["destroy", "test"]);
        host.sh(PODMAN);
        host.write(
            "/etc/wakevirt/actor.toml",
            &format!("connections = [\"{TEST}\"]\n[[allow]]\ndomain = \"vm1\"\n"),
        );
        Self { host, _bus: bus, lan, libvirtd }
    }

    /// Runs the commands in INSTALL, after this change to them.
    fn start(&self, change: impl Fn(&str) -> String) {
        let built = built_programs();
        for variant in ["capture", "actor"] {
            let mut image = Command::new(project().join("scripts/image"));
            image.arg(variant).env("CARGO_TARGET_DIR", built.parent().unwrap());
            image.env("PROFILE", built.file_name().unwrap());
            let directory = format!("/run/target/image-{variant}");
            succeed(image.env("IMAGE", self.host.path(&directory)));
        }
        for line in commands("## Containers")
            .iter()
            .filter(|line| line.contains("podman ") || line.contains("/run/wakevirt-actor"))
        {
            self.host.sh(&format!("cd /run; {}", change(line)));
        }
        self.host.wait_for_name(CAPTURE_NAME);
        self.host.wait_for_name(ACTOR_NAME);
        wait::until_true("the actor to list its domains", || {
            let mut list = self.host.command_as(User::LibvirtMember, &format!("{PROGRAMS}/wakevirtctl"));
            list.arg("list")
                .output()
                .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("vm1"))
        });
    }

    fn mode(&self) -> String {
        self.host.property(User::Root, CAPTURE_INTERFACE, "Mode").unwrap()
    }

    /// Checks that the first process of a container runs as this user, without capabilities.
    fn assert_unprivileged(&self, container: &str) {
        let user = self.host.sh(&format!("id --user {container}"));
        let status = self
            .host
            .sh(&format!("cat /proc/$(podman inspect --format '{{{{.State.Pid}}}}' {container})/status"));
        let uids = [user.trim(); 4].join("\t");
        for line in
            [format!("Uid:\t{uids}"), "CapEff:\t0000000000000000".to_owned(), "NoNewPrivs:\t1".to_owned()]
        {
            assert!(status.contains(&format!("\n{line}\n")), "{container}: no {line} in\n{status}");
        }
    }
}

/// The commands in the section of INSTALL, each on one line.
fn commands(heading: &str) -> Vec<String> {
    let page = std::fs::read_to_string(project().join("docs/INSTALL.md")).unwrap();
    let (_, section) = page.split_once(heading).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let blocks = section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    let text: String = blocks.collect();
    text.replace("\\\n", " ").lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "make check-anywhere"]
fn packet_is_announced_from_a_container_and_wakes_a_domain() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host);
    site.start(str::to_owned);
    println!("tried: {}", host.sh("podman --version").trim());
    println!("tried: {}", host.sh("crun --version").lines().next().unwrap());
    assert_eq!(site.mode(), "(<'raw'>,)");
    // An Ethernet frame without IP, which only a packet socket receives.
    site.lan.etherwake(MAC, &[]);
    site.libvirtd.wait_for_state(TEST, "vm1", "running");
    for container in ["wakevirt-capture", "wakevirt-actor"] {
        site.assert_unprivileged(container);
        // A container that ignores SIGTERM is killed, with exit status 137.
        let status = host.sh(&format!("podman stop {container}; podman wait {container}"));
        assert_eq!(status.lines().last(), Some("0"), "{container}");
    }
}

#[test]
#[ignore = "make check-anywhere"]
fn datagram_is_announced_from_a_container_without_packet_sockets() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host);
    site.start(|line| line.replace("NET_RAW,", ""));
    assert_eq!(site.mode(), "(<'udp'>,)");
    site.lan.wakeonlan(MAC, "192.0.2.255", &[]);
    site.libvirtd.wait_for_state(TEST, "vm1", "running");
}
