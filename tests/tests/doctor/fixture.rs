//! A host with both services, libvirt's test driver, and one domain that is shut off.

use std::process::Output;

use serde_json::Value;
use wakevirt_protocol::bus::ACTOR_NAME;
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::{Daemon, StartedBy};
use wakevirt_tests::host::{Host, PROGRAMS, User};
use wakevirt_tests::libvirt::{Libvirtd, TEST, test_domain};
use wakevirt_tests::network::Peer;
use wakevirt_tests::process::Process;
use wakevirt_tests::wait;

/// The domain to wake.
pub const DOMAIN: &str = "win11";
/// Its MAC address.
pub const MAC: &str = "52:54:00:12:34:56";

/// How a host is set up before the services start.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// The content of capture.toml.
    pub capture: &'static str,
    /// The content of actor.toml without `connections`.
    pub actor: &'static str,
    /// A shell command that runs on the host.
    pub shell: &'static str,
    /// The definition of the domain. `None` means an ordinary domain.
    pub domain: Option<&'static str>,
    /// Who starts capture.
    pub started_by: StartedBy,
}

/// A rule that allows the domain.
pub const ALLOWED: &str = "[[allow]]\ndomain = \"win11\"\n";

/// A host without a fault.
pub const HEALTHY: Setup =
    Setup { capture: "", actor: ALLOWED, shell: "", domain: None, started_by: StartedBy::Manager };

/// The host, and another machine on its network.
pub struct Fixture<'host> {
    pub host: &'host Host,
    pub lan: Peer<'host>,
    pub libvirtd: Libvirtd<'host>,
    pub actor: Daemon,
    pub capture: Daemon,
    pub decisions: Process,
    _bus: Bus<'host>,
}

impl<'host> Fixture<'host> {
    /// Starts everything. The other machine has the address 192.0.2.2 and is connected to `port0`, a port of `br0`.
    pub fn new(host: &'host Host, setup: Setup) -> Self {
        let libvirtd = Libvirtd::start(host);
        let bus = Bus::start(host, Kind::DbusDaemon);
        host.bridge("br0");
        let lan = host.veth("port0");
        host.sh("ip link set port0 master br0 && ip address add 192.0.2.1/24 brd + dev br0");
        lan.address("192.0.2.2/24");
        host.sh(&format!("true; {}", setup.shell));
        match setup.domain {
            Some(xml) => libvirtd.define(TEST, xml),
            None => libvirtd.define(TEST, &test_domain(DOMAIN, MAC)),
        }
        let capture = Daemon::capture(host).config(setup.capture).started_by(setup.started_by).start_on_bus();
        let config = format!("connections = [\"{TEST}\"]\n{}", setup.actor);
        let actor = Daemon::actor(host).config(&config).start_connected();
        let decisions = host.monitor(User::Root, ACTOR_NAME);
        Self { host, lan, libvirtd, actor, capture, decisions, _bus: bus }
    }

    /// The configuration file of a service.
    pub fn config(daemon: &Daemon) -> String {
        daemon.config_file().to_owned()
    }

    /// Runs doctor as root.
    pub fn doctor(&self, arguments: &[&str]) -> Output {
        doctor(self.host, arguments)
    }

    /// Runs doctor as root, and returns its diagnosis.
    pub fn diagnose(&self, arguments: &[&str]) -> Diagnosis {
        Diagnosis { json: diagnose(self.host, arguments) }
    }

    /// Sends a packet, and waits until the actor has made a decision on it.
    pub fn packet(&self, mac: &str, options: &[&str]) {
        let before = self.decisions.log().count("WakeFinished");
        self.lan.etherwake(mac, options);
        wait::until_true("a decision", || self.decisions.log().count("WakeFinished") > before);
    }

    /// Sends packets until the domain is running. A packet like a previous one counts as a copy for two seconds.
    pub fn assert_wakes(&self, mac: &str, options: &[&str], diagnosis: &Diagnosis) {
        let woken = wait::within(wait::TIMEOUT, || {
            self.lan.etherwake(mac, options);
            let runs = || (self.libvirtd.state(TEST, DOMAIN) == "running").then_some(());
            wait::within(std::time::Duration::from_millis(500), runs)
        });
        assert!(woken.is_some(), "no packet wakes the domain after\n{:#}", diagnosis.json);
    }
}

/// Runs doctor as root.
fn doctor(host: &Host, arguments: &[&str]) -> Output {
    let mut doctor = host.command(&format!("{PROGRAMS}/wakevirtctl"));
    doctor.args(["--json", "doctor"]).args(arguments).output().expect("wakevirtctl runs")
}

/// Runs doctor as root, and returns its JSON output. Checks that the exit status matches it.
pub fn diagnose(host: &Host, arguments: &[&str]) -> Value {
    let output = doctor(host, arguments);
    let json = serde_json::from_slice(&output.stdout);
    let json: Value = json.unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let healthy = json["healthy"].as_bool().expect("a bool");
    assert_eq!(output.status.code(), Some(i32::from(!healthy)), "{json:#}");
    json
}

/// doctor's output.
#[derive(Debug)]
pub struct Diagnosis {
    pub json: Value,
}

impl Diagnosis {
    /// The first finding.
    pub fn first(&self) -> &Value {
        &self.json["findings"][0]
    }

    /// The finding of a check.
    pub fn finding(&self, check: &str) -> &Value {
        let findings = self.json["findings"].as_array().expect("a list");
        let found = findings.iter().find(|finding| finding["check"] == check);
        found.unwrap_or_else(|| panic!("no {check} finding in {:#}", self.json))
    }

    /// The command that fixes a finding.
    pub fn command_for(&self, check: &str) -> &str {
        let command = self.finding(check)["cure"].as_str();
        command.unwrap_or_else(|| panic!("no command fixes {check} in {:#}", self.json))
    }

    /// The evidence of a finding.
    pub fn evidence(&self, check: &str) -> Vec<&str> {
        let evidence = self.finding(check)["evidence"].as_array().expect("a list");
        evidence.iter().filter_map(Value::as_str).collect()
    }

    /// Whether the evidence of a finding contains this text.
    pub fn has_evidence(&self, check: &str, text: &str) -> bool {
        self.evidence(check).iter().any(|line| line.contains(text))
    }
}
