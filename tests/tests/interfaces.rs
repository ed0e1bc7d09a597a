//! Interfaces that appear, disappear, flap, are renamed or do not exist at startup: capture keeps receiving packets,
//! with the same processes and without capabilities.

use std::net::{Ipv4Addr, Ipv6Addr};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use wakevirt_protocol::bus::CAPTURE_NAME;
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::{Daemon, StartedBy};
use wakevirt_tests::host::{Host, User};
use wakevirt_tests::network::frames::{
    BROADCAST, WAKE_ON_LAN, bytes_of, ethernet, magic, tagged, udp4, udp6,
};
use wakevirt_tests::privileged;
use wakevirt_tests::process::Process;
use wakevirt_tests::process::proc::Status;

const SOURCE: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A host on which capture runs, with a subscriber to its signals.
struct Scene<'host> {
    host: &'host Host,
    _bus: Bus<'host>,
    capture: Daemon,
    monitor: Process,
    sniffer: Pid,
    /// The number of signals so far.
    signals: usize,
}

impl<'host> Scene<'host> {
    fn new(host: &'host Host, config: &str) -> Self {
        let bus = Bus::start(host, Kind::DbusDaemon);
        let capture = Daemon::capture(host).config(config).started_by(StartedBy::Manager).start_on_bus();
        let monitor = host.monitor(User::Unprivileged, CAPTURE_NAME);
        let sniffer = capture.child("wakevirt-sniffer");
        Self { host, _bus: bus, capture, monitor, sniffer, signals: 0 }
    }

    /// Waits for the next signal, and checks its MAC address and ingress interface.
    fn expect(&mut self, mac: &str, interface: &str) -> String {
        self.signals += 1;
        let signal = self.monitor.log().wait_for_nth("MagicPacket", self.signals);
        assert!(signal.contains(&format!("'{mac}'")), "for {mac}: {signal}");
        assert!(signal.contains(&format!("'interface': <'{interface}'>")), "on {interface}: {signal}");
        signal
    }

    fn wait_for_interfaces(&self, names: &str) {
        wakevirt_tests::wait::until_true(&format!("Interfaces to be {names}"), || {
            self.host
                .property(User::Unprivileged, CAPTURE_NAME, "Interfaces")
                .is_ok_and(|found| found == names)
        });
    }

    /// Checks that no process was restarted or has a capability, and that there were no other signals.
    fn finish(mut self) {
        assert_eq!(self.capture.child("wakevirt-sniffer"), self.sniffer);
        for pid in [self.sniffer, self.capture.pid()] {
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(Status::of(pid).capabilities(set), 0, "{set} of process {pid}");
            }
        }
        assert_eq!(self.monitor.log().count("MagicPacket"), self.signals);
        self.capture.stop();
    }
}

/// A MAC address for each number, so that no packet is a copy of another.
fn mac(number: u8) -> String {
    format!("52:54:00:00:00:{number:02x}")
}

fn wake_on_lan(mac: &str) -> Vec<u8> {
    ethernet(bytes_of(mac), SOURCE, WAKE_ON_LAN, &magic(mac, &[]))
}

#[test]
fn follows_interfaces_that_appear_disappear_and_are_renamed() {
    privileged!();
    let host = Host::new();
    let mut scene = Scene::new(&host, "");
    scene.wait_for_interfaces("(<['lo']>,)");

    // An interface that did not exist at startup.
    let lan = host.veth("lan0");
    scene.wait_for_interfaces("(<['lan0', 'lo']>,)");
    lan.etherwake(&mac(1), &[]);
    scene.expect(&mac(1), "lan0");

    // The interface flaps.
    for round in 0..5 {
        host.sh("ip link set lan0 down && ip link set lan0 up");
        lan.wait_for_link();
        lan.send(&wake_on_lan(&mac(10 + round)));
        scene.expect(&mac(10 + round), "lan0");
    }

    // The interface is renamed.
    host.sh("ip link set lan0 down && ip link set lan0 name uplink && ip link set uplink up");
    scene.wait_for_interfaces("(<['lo', 'uplink']>,)");
    lan.wait_for_link();
    lan.send(&wake_on_lan(&mac(2)));
    scene.expect(&mac(2), "uplink");

    // The interface is deleted, and a new one gets the original name.
    host.sh("ip link del uplink && ip netns del peer-lan0");
    scene.wait_for_interfaces("(<['lo']>,)");
    let lan = host.veth("lan0");
    lan.send(&wake_on_lan(&mac(3)));
    scene.expect(&mac(3), "lan0");
    scene.finish();
}

#[test]
fn receives_on_tap_tun_and_loopback() {
    privileged!();
    let host = Host::new();
    let mut scene = Scene::new(&host, "");
    let (mut tap, mut tun) = (host.tap("tap0"), host.tun("tun0"));
    scene.wait_for_interfaces("(<['lo', 'tap0', 'tun0']>,)");

    tap.send(&wake_on_lan(&mac(1)));
    scene.expect(&mac(1), "tap0");

    // A link without Ethernet headers, like WireGuard's. VPN packets are unicast.
    let (here, there) = (Ipv4Addr::new(198, 51, 100, 2), Ipv4Addr::new(198, 51, 100, 1));
    tun.send(&udp4(there, here, 9, &magic(&mac(2), &[])));
    let signal = scene.expect(&mac(2), "tun0");
    assert!(signal.contains("'source': <'198.51.100.1'>") && !signal.contains("source-mac"), "{signal}");
    let multicast = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    tun.send(&udp6(Ipv6Addr::LOCALHOST, multicast, 47_998, &magic(&mac(3), &[])));
    let signal = scene.expect(&mac(3), "tun0");
    assert!(signal.contains("'destination-port': <uint16 47998>"), "{signal}");

    // Loopback.
    host.sh(&format!("wakeonlan -i 127.0.0.1 {}", mac(4)));
    scene.expect(&mac(4), "lo");
    scene.finish();
}

#[test]
fn announces_packets_of_port_and_bridge_separately() {
    privileged!();
    let host = Host::new();
    host.bridge("br0");
    let lan = host.veth("port0");
    host.sh("ip link set port0 master br0");
    let mut scene = Scene::new(&host, "");
    scene.wait_for_interfaces("(<['br0', 'lo', 'port0']>,)");

    // This frame is for the MAC address of a VM that is shut off, which is not the address of the bridge.
    lan.etherwake(&mac(1), &[]);
    scene.expect(&mac(1), "port0");
    // This frame is for the broadcast address. Both the port and the bridge receive it.
    lan.etherwake(&mac(2), &["-b"]);
    scene.expect(&mac(2), "port0");
    scene.expect(&mac(2), "br0");
    scene.finish();
}

#[test]
fn receives_frames_with_vlan_tags() {
    privileged!();
    let host = Host::new();
    let lan = host.veth("lan0");
    let mut scene = Scene::new(&host, "");
    let with_tag = |number, vlan| tagged(&wake_on_lan(&mac(number)), 0x8100, vlan);
    lan.send(&with_tag(1, 10));
    let signal = scene.expect(&mac(1), "lan0");
    assert!(signal.contains("'vlan': <uint16 10>"), "{signal}");

    lan.send(&tagged(&with_tag(2, 10), 0x88a8, 20));
    let signal = scene.expect(&mac(2), "lan0");
    assert!(signal.contains("'vlan': <uint16 20>"), "{signal}");

    let datagram = udp4(Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::BROADCAST, 9, &magic(&mac(3), b"four"));
    lan.send(&tagged(&ethernet(BROADCAST, SOURCE, 0x0800, &datagram), 0x8100, 4094));
    let signal = scene.expect(&mac(3), "lan0");
    assert!(signal.contains("'vlan': <uint16 4094>") && signal.contains("'secureon': <true>"), "{signal}");

    // A frame whose tag contains only a priority (VLAN ID 0) does not belong to a VLAN.
    lan.send(&with_tag(4, 0xe000));
    assert!(scene.expect(&mac(4), "lan0").contains("'vlan': <uint16 0>"));

    // Headers that follow two tags are parsed as well.
    let datagram = udp4(Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::BROADCAST, 9, &magic(&mac(5), &[]));
    let inner = tagged(&ethernet(BROADCAST, SOURCE, 0x0800, &datagram), 0x8100, 10);
    lan.send(&tagged(&inner, 0x88a8, 20));
    let signal = scene.expect(&mac(5), "lan0");
    assert!(signal.contains("'vlan': <uint16 20>") && signal.contains("'udp4'"), "{signal}");

    // Frames with three tags or with the reserved VLAN ID are dropped.
    lan.send(&tagged(&tagged(&with_tag(6, 10), 0x88a8, 20), 0x88a8, 30));
    lan.send(&with_tag(6, 4095));
    lan.send(&wake_on_lan(&mac(7)));
    assert!(scene.expect(&mac(7), "lan0").contains("'vlan': <uint16 0>"));

    // Without a first tag, bytes that look like a second one are payload.
    let disguised = [&[0, 10, 0x08, 0x42], magic(&mac(8), &[]).as_slice()].concat();
    lan.send(&ethernet(BROADCAST, SOURCE, WAKE_ON_LAN, &disguised));
    assert!(scene.expect(&mac(8), "lan0").contains("'vlan': <uint16 0>"));
    scene.finish();
}

#[test]
fn selects_interfaces_by_name_and_glob_and_reloads_the_selection() {
    privileged!();
    let host = Host::new();
    let (guest, lan) = (host.veth("vnet0"), host.veth("lan0"));
    let mut scene = Scene::new(&host, "interfaces = [\"*\", \"!vnet*\", \"!lo\"]");
    scene.wait_for_interfaces("(<['lan0']>,)");
    guest.send(&wake_on_lan(&mac(1)));
    lan.send(&wake_on_lan(&mac(2)));
    scene.expect(&mac(2), "lan0");

    let config = host.sh("ls /etc/wakevirt/wakevirt-capture-test-*.toml");
    host.write(config.trim(), "interfaces = [\"vnet0\", \"not-yet\"]");
    scene.capture.signal(Signal::SIGHUP);
    scene.wait_for_interfaces("(<['vnet0']>,)");
    let _ = scene.capture.log().wait_for("interface \"not-yet\" does not exist");
    lan.send(&wake_on_lan(&mac(3)));
    guest.send(&wake_on_lan(&mac(4)));
    scene.expect(&mac(4), "vnet0");

    // An invalid configuration changes nothing.
    host.write(config.trim(), "intefaces = [\"*\"]");
    scene.capture.signal(Signal::SIGHUP);
    let line = scene.capture.log().wait_for("the old configuration remains in use");
    assert!(line.contains("did you mean \"interfaces\""), "{line}");
    let _ = scene.capture.notifications().wait_for("the last reload failed: ");
    guest.send(&wake_on_lan(&mac(5)));
    scene.expect(&mac(5), "vnet0");
    host.write(config.trim(), "");
    scene.capture.signal(Signal::SIGHUP);
    wakevirt_tests::wait::until_true("a status without the failed reload", || {
        scene
            .capture
            .notifications()
            .all()
            .last()
            .is_some_and(|status| !status.contains("the last reload failed"))
    });
    scene.finish();
}

/// The interfaces of the bound packet sockets, sorted; `all` for a socket that receives on all interfaces.
fn bound(host: &Host) -> Vec<String> {
    let script = "awk 'NR > 1 && $4 != \"0000\" { print $5 }' /proc/net/packet |
        while read -r index; do
            [ $index = 0 ] && echo all || ip -o link | sed -n \"s/^$index: \\([^:@]*\\).*/\\1/p\"
        done | sort";
    host.sh(script).split_whitespace().map(str::to_owned).collect()
}

fn wait_until_bound(host: &Host, names: &[&str]) {
    wakevirt_tests::wait::until_true(&format!("sockets on {names:?}"), || bound(host) == names);
}

#[test]
fn binds_a_socket_to_each_interface_that_is_named() {
    privileged!();
    let host = Host::new();
    let (lan, guest, other) = (host.veth("lan0"), host.veth("guest0"), host.veth("other0"));
    host.sh("ip link property add dev lan0 altname uplink");
    let mut scene = Scene::new(&host, "interfaces = [\"lan0\", \"guest0\", \"uplink\", \"!lo\"]");
    scene.wait_for_interfaces("(<['guest0', 'lan0']>,)");
    let wait = |names: &[&str]| wait_until_bound(&host, names);
    // The kernel does not show a socket that is not bound.
    wait(&["guest0", "lan0"]);
    other.send(&wake_on_lan(&mac(1)));
    lan.send(&wake_on_lan(&mac(2)));
    scene.expect(&mac(2), "lan0");
    guest.send(&wake_on_lan(&mac(3)));
    scene.expect(&mac(3), "guest0");

    let config = host.sh("ls /etc/wakevirt/wakevirt-capture-test-*.toml");
    let reload = |capture: &Daemon, interfaces: &str| {
        host.write(config.trim(), interfaces);
        capture.signal(Signal::SIGHUP);
    };
    // One socket for all interfaces. Another is on lo, because a bound socket cannot be unbound.
    reload(&scene.capture, "interfaces = [\"guest*\", \"lan*\"]");
    wait(&["all", "lo"]);
    lan.send(&wake_on_lan(&mac(4)));
    scene.expect(&mac(4), "lan0");
    other.send(&wake_on_lan(&mac(5)));
    guest.send(&wake_on_lan(&mac(6)));
    scene.expect(&mac(6), "guest0");

    reload(&scene.capture, "interfaces = [\"other0\"]");
    wait(&["lo", "other0"]);
    lan.send(&wake_on_lan(&mac(7)));
    other.send(&wake_on_lan(&mac(8)));
    scene.expect(&mac(8), "other0");

    let property = |name| host.property(User::Unprivileged, CAPTURE_NAME, name).unwrap();
    assert_eq!(
        (property("Duplicates"), property("Malformed")),
        ("(<uint64 0>,)".into(), "(<uint64 0>,)".into())
    );
    scene.finish();
}

#[test]
fn a_socket_follows_the_interface_to_which_it_is_bound() {
    privileged!();
    let host = Host::new();
    let other = host.veth("other0");
    let mut scene = Scene::new(&host, "interfaces = [\"other0\"]");
    let wait = |names: &[&str]| wait_until_bound(&host, names);
    wait(&["other0"]);
    // The interface goes down, is renamed, disappears and appears again.
    host.sh("ip link set other0 down && ip link set other0 name gone0 && ip link set gone0 up");
    scene.wait_for_interfaces("(<@as []>,)");
    wait(&["lo"]);
    other.send(&wake_on_lan(&mac(9)));
    host.sh("ip link set gone0 down && ip link set gone0 name other0 && ip link set other0 up");
    wait(&["other0"]);
    other.wait_for_link();
    other.send(&wake_on_lan(&mac(10)));
    scene.expect(&mac(10), "other0");
    host.sh("ip link del other0 && ip netns del peer-other0");
    scene.wait_for_interfaces("(<@as []>,)");
    let other = host.veth("other0");
    wait(&["other0"]);
    other.send(&wake_on_lan(&mac(11)));
    scene.expect(&mac(11), "other0");

    scene.finish();
}

#[test]
fn a_socket_follows_an_interface_that_returns_from_another_network_namespace() {
    privileged!();
    let host = Host::new();
    let other = host.veth("other0");
    host.sh("ip netns add away");
    let mut scene = Scene::new(&host, "interfaces = [\"other0\"]\noutgoing = [\"other0\"]");
    wait_until_bound(&host, &["other0", "other0"]);
    let index = || host.sh("ip -o link show other0").split(':').next().map(str::to_owned);
    let before = index();
    for round in 0..10 {
        // In every other round, the announcer lists the interfaces only after the interface has returned.
        let late = round % 2 == 0;
        if late {
            scene.capture.signal(Signal::SIGSTOP);
            wakevirt_tests::wait::until_true("the announcer to stop", || {
                Status::of(scene.capture.pid()).field("State").starts_with('T')
            });
        }
        host.sh(
            "ip link set other0 netns away && ip -n away link set other0 netns $$ && ip link set other0 up",
        );
        assert_eq!(index(), before);
        if late {
            scene.capture.signal(Signal::SIGCONT);
        }
        wait_until_bound(&host, &["other0", "other0"]);
        other.wait_for_link();
        other.send(&wake_on_lan(&mac(20 + round)));
        scene.expect(&mac(20 + round), "other0");
        host.sh(&format!("etherwake -i other0 {}", mac(40 + round)));
        scene.expect(&mac(40 + round), "other0");
    }
    scene.finish();
}

#[test]
fn selects_interfaces_by_alternative_name() {
    privileged!();
    let host = Host::new();
    let lan = host.veth("eth0");
    let guest = host.veth("vnet0");
    // The last one is longer than an interface name can be.
    host.sh("ip link property add dev eth0 altname enp1s0 altname enx-a-name-of-more-than-fifteen-bytes");
    host.sh("ip link property add dev vnet0 altname guest7");
    let mut scene = Scene::new(&host, "interfaces = [\"enp1s0\", \"later0\", \"guest*\", \"!guest7\"]");
    scene.wait_for_interfaces("(<['eth0']>,)");
    let _ = scene.capture.log().wait_for("interface \"later0\" does not exist");
    assert_eq!(scene.capture.log().count("interface \"enp1s0\" does not exist"), 0);
    guest.send(&wake_on_lan(&mac(1)));
    lan.send(&wake_on_lan(&mac(2)));
    let signal = scene.expect(&mac(2), "eth0");
    let all = "'interface-alternatives': <['enp1s0', 'enx-a-name-of-more-than-fifteen-bytes']>";
    assert!(signal.contains(all), "{signal}");

    // One name is added, and another is removed.
    host.sh("ip link property add dev vnet0 altname later0 && ip link property del dev vnet0 altname guest7");
    scene.wait_for_interfaces("(<['eth0', 'vnet0']>,)");
    guest.send(&wake_on_lan(&mac(3)));
    scene.expect(&mac(3), "vnet0");
    host.sh("ip link property del dev eth0 altname enp1s0");
    scene.wait_for_interfaces("(<['vnet0']>,)");
    lan.send(&wake_on_lan(&mac(4)));
    guest.send(&wake_on_lan(&mac(5)));
    scene.expect(&mac(5), "vnet0");

    // Without a matching name, the interface is no longer selected.
    host.sh("ip link property del dev vnet0 altname later0 && ip link property add dev lo altname guest8");
    scene.wait_for_interfaces("(<['lo']>,)");
    scene.finish();
}

#[test]
fn captures_sent_packets_on_outgoing_interfaces() {
    privileged!();
    let host = Host::new();
    let mut scene = Scene::new(&host, "outgoing = [\"br0\"]\ninterfaces = [\"br0\", \"port0\"]");
    let _ = scene.capture.log().wait_for("interface \"br0\" does not exist");
    for round in 0..3 {
        host.bridge("br0");
        let _lan = host.veth("port0");
        host.sh("ip link set port0 master br0");
        scene
            .capture
            .log()
            .wait_for_nth("also capturing outgoing packets on \"br0\"", usize::from(round) + 1);
        // The line is logged before the sniffer binds the socket.
        wait_until_bound(&host, &["br0", "br0", "port0"]);
        // Capture does not receive packets that the host sends through port0. It receives packets that the host sends
        // through br0, each of them once.
        host.sh(&format!("etherwake -i port0 {}", mac(100 + round)));
        host.sh(&format!("etherwake -i br0 {}", mac(round)));
        scene.expect(&mac(round), "br0");
        host.sh("ip link set br0 down && ip link set br0 up");
        host.sh(&format!("etherwake -i br0 {}", mac(50 + round)));
        scene.expect(&mac(50 + round), "br0");
        host.sh("ip link del br0 && ip link del port0 && ip netns del peer-port0");
    }
    scene.finish();
}
