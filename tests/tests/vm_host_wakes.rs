//! Wakes around real suspend to RAM, and around jumps of CLOCK_REALTIME, in a virtual machine, because both affect the
//! whole machine. Another machine, a network namespace, sends the packets to `eth0`.

#![expect(clippy::expect_used, reason = "a test may panic")]

use std::time::Duration;

use serde_json::Value;
use wakevirt_tests::host::Host;
use wakevirt_tests::privileged;
use wakevirt_tests::vm::{Domain, Vm};

/// The packet that arrives during a fault wakes this domain.
const DURING: &str = "during";
/// The packets before the first fault and after each fault wake this domain.
const BETWEEN: &str = "between";

/// All packets for a domain have the same sender. By default, later ones would count as copies.
const CAPTURE: &str = "deduplicate = '0s'";
/// Longer than the test, and shorter than the jumps of the clock.
const LONG_HOLD: &str = "1h";
/// Shorter than [`LONG`].
const SHORT_HOLD: &str = "20s";
/// Longer than `WatchdogSec=` of both services.
const LONG: Duration = Duration::from_secs(32);

/// systemd-sleep(8) runs this program right before the kernel suspends.
const SEND_BEFORE_SUSPEND: &str = "/usr/lib/systemd/system-sleep/send";

const LIBVIRTD: &str = "libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirtd.service";

/// A host with both services, and domains that are off.
struct System {
    vm: Vm,
    /// The domain and the outcome of each wake so far.
    ended: Vec<(String, String)>,
}

fn mac(domain: &str) -> &'static str {
    if domain == DURING { "52:54:00:00:00:01" } else { "52:54:00:00:00:02" }
}

/// The command that sends a packet for this domain.
fn send(domain: &str) -> String {
    format!("ip netns exec lan wakevirtctl send --raw --interface lan0 {}", mac(domain))
}

impl System {
    fn boot(host: &Host) -> Self {
        let mut vm = Vm::boot(host);
        vm.without_apparmor();
        vm.connect_lan();
        for name in [DURING, BETWEEN] {
            let interface = format!("<interface type='user'><mac address='{}'/></interface>", mac(name));
            vm.define(&Domain::new(name).devices(&interface));
        }
        vm.write("/etc/wakevirt/capture.d/test.toml", CAPTURE);
        let mut system = Self { vm, ended: Vec::new() };
        system.configure(LONG_HOLD);
        system.vm.sh("systemctl start wakevirt-actor wakevirt-capture
            timeout 200 sh -c 'until wakevirtctl list | grep --quiet during; do sleep 0.2; done'");
        system
    }

    /// Changes the actor's configuration. Any packet wakes its domain, and is held for at most this time.
    fn configure(&mut self, hold: &str) {
        let configuration = format!("cool-down = '0s'\nhold = '{hold}'\n[[allow]]\ndomain = '*'");
        self.vm.write("/etc/wakevirt/actor.d/test.toml", &configuration);
        self.vm.sh("! systemctl is-active --quiet wakevirt-actor || systemctl reload wakevirt-actor");
    }

    /// The main processes of both services, and how often systemd has restarted each. A restart, such as by the watchdog,
    /// changes both.
    fn processes(&mut self) -> String {
        self.vm.sh("systemctl show --property=MainPID,NRestarts,ActiveState wakevirt-capture wakevirt-actor")
    }

    /// Waits until a wake of this domain has ended with this outcome, and no other wake has. Then the domain is switched
    /// off: if the actor repeats the wake, libvirt starts it again. Returns the reason for the outcome.
    fn expect(&mut self, domain: &str, outcome: &str) -> String {
        self.ended.push((domain.to_owned(), outcome.to_owned()));
        let count = self.ended.len();
        let history = self.vm.run(&format!(
            "timeout 60 bash -c 'until wakevirtctl --json history -n 100 >/run/history &&
                (( $(wc -l </run/history) >= {count} )); do sleep 0.2; done'
             cat /run/history"
        ));
        let mut decisions: Vec<Value> =
            history.output.lines().map(|line| serde_json::from_str(line).expect("a decision")).collect();
        decisions.sort_by_key(|decision| decision["number"].as_u64());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let ended: Vec<_> = decisions
            .iter()
            .map(|decision| (text(&decision["domain"]), text(&decision["outcome"])))
            .collect();
        assert_eq!(ended, self.ended, "{}", history.output);
        if outcome == "started" {
            self.vm.virsh(&format!("destroy {domain}"));
        }
        decisions.last().map(|decision| text(&decision["reason"])).unwrap_or_default()
    }

    /// How often libvirt has started the domain, according to the log of its QEMU.
    fn starts(&mut self, domain: &str) -> usize {
        let log = format!("/var/log/libvirt/qemu/{domain}.log");
        let count = self.vm.sh(&format!("grep --count 'starting up libvirt' {log} || true"));
        count.trim().parse().expect("a number")
    }

    /// Wakes a domain between two faults.
    fn wake(&mut self) {
        self.vm.sh(&send(BETWEEN));
        self.expect(BETWEEN, "started");
    }

    /// Runs a fault with a packet for [`DURING`], and sends a packet afterwards.
    ///
    /// # Panics
    /// If the number of times that libvirt has started a domain differs from that of its successful wakes, or if a service
    /// was restarted.
    fn survives(&mut self, fault: impl FnOnce(&mut Self)) {
        let processes = self.processes();
        fault(self);
        self.wake();
        for domain in [DURING, BETWEEN] {
            let started = (domain.to_owned(), "started".to_owned());
            let expected = self.ended.iter().filter(|ended| **ended == started).count();
            assert_eq!(self.starts(domain), expected, "starts of {domain}");
        }
        assert_eq!(self.processes(), processes);
    }

    /// Stops libvirtd, and sends a packet that is therefore held.
    fn hold_a_packet(&mut self) {
        self.vm.sh(&format!(
            "systemctl stop {LIBVIRTD}
             {}
             printf '\"wake\":\"held\"' >/run/held
             timeout 60 sh -c 'until wakevirtctl --json explain {} | grep --quiet --file=/run/held; do sleep 0.2; done'",
            send(DURING),
            mac(DURING)
        ));
    }

    /// CLOCK_BOOTTIME, in seconds.
    fn boottime(&mut self) -> u64 {
        self.vm.sh("cut --delimiter=. --fields=1 /proc/uptime").trim().parse().expect("a number")
    }

    fn start_libvirtd(&mut self) {
        self.vm.sh(&format!("systemctl start {LIBVIRTD}"));
    }
}

#[test]
#[ignore = "it boots a virtual machine: make check-host"]
fn packets_wake_domains_around_suspends_and_jumps_of_the_clock() {
    privileged!();
    let host = Host::new();
    let mut system = System::boot(&host);
    system.wake();
    system.survives(a_packet_arrives_right_before_a_suspend);
    for jump in ["3 days", "6 days ago"] {
        system.survives(|system| the_clock_jumps_while_a_packet_is_held(system, jump));
    }
    system.survives(a_packet_is_held_during_a_long_suspend);
}

fn a_packet_arrives_right_before_a_suspend(system: &mut System) {
    system.vm.sh("mkdir -p /usr/lib/systemd/system-sleep");
    system.vm.write(SEND_BEFORE_SUSPEND, &format!("#!/bin/sh\n[ \"$1\" != pre ] || {}", send(DURING)));
    system.vm.sh(&format!("chmod +x {SEND_BEFORE_SUSPEND}"));
    system.vm.suspend(Duration::from_secs(5));
    system.vm.sh(&format!("rm {SEND_BEFORE_SUSPEND}"));
    system.expect(DURING, "started");
}

fn the_clock_jumps_while_a_packet_is_held(system: &mut System, jump: &str) {
    system.hold_a_packet();
    system.vm.sh(&format!("date --set='{jump}'"));
    system.start_libvirtd();
    system.expect(DURING, "started");
}

/// The time in which the host is suspended counts towards `hold`.
fn a_packet_is_held_during_a_long_suspend(system: &mut System) {
    system.hold_a_packet();
    let held = system.boottime();
    system.vm.suspend(LONG);
    // The packet expires only after this.
    let age = system.boottime() - held;
    system.configure(SHORT_HOLD);
    system.start_libvirtd();
    let reason = system.expect(DURING, "expired");
    let words: Vec<_> = reason.split(' ').collect();
    let reported = words.iter().find_map(|word| word.parse::<u64>().ok()).expect("the age of the packet");
    // Both times are rounded.
    assert!(reported + 1 >= age, "held for {age} s: {reason}");
    system.configure(LONG_HOLD);
}
