//! The announcer under stress: a compromised or killed sniffer, a lost bus connection, and more packets than it can
//! read. The tests also check the privileges of both processes, as `/proc` reports them.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::os::unix::fs::PermissionsExt;
use std::process::Output;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wakevirt_protocol::bus::CAPTURE_NAME;
use wakevirt_protocol::sniffer::{Counters, FromSniffer, MAX_MESSAGE, Mode, VERSION};
use wakevirt_protocol::{CapturedPacket, Carrier, MacAddr, MagicPacket, ParsedPacket};
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::{Daemon, StartedBy};
use wakevirt_tests::host::{Host, PROGRAMS, User};
use wakevirt_tests::network::Peer;
use wakevirt_tests::network::frames::{BROADCAST, WAKE_ON_LAN, bytes_of, ethernet, magic};
use wakevirt_tests::process::Process;
use wakevirt_tests::process::kernel_log;
use wakevirt_tests::process::proc::Status;
use wakevirt_tests::{privileged, wait};

const MAC: &str = "52:54:00:01:02:03";

/// CAP_NET_RAW in linux/capability.h.
const NET_RAW: u64 = 1 << 13;

fn capture(host: &Host, started_by: StartedBy, config: &str) -> Daemon {
    Daemon::capture(host).started_by(started_by).config(config).start_on_bus()
}

/// Capture, a bus, and an interface on which capture receives packets.
struct Scene<'host> {
    host: &'host Host,
    capture: Daemon,
    lan: Peer<'host>,
    bus: Bus<'host>,
}

impl<'host> Scene<'host> {
    fn new(host: &'host Host, config: &str) -> Self {
        Self::on(host, Kind::DbusDaemon, config)
    }

    fn on(host: &'host Host, bus: Kind, config: &str) -> Self {
        let bus = Bus::start(host, bus);
        let lan = host.veth("lan0");
        Self { host, capture: capture(host, StartedBy::Manager, config), lan, bus }
    }

    fn sniffer(&self) -> Pid {
        self.capture.child("wakevirt-sniffer")
    }

    /// The value of a numeric property.
    fn count(&self, property: &str) -> u64 {
        count(self.host, property)
    }

    /// Waits until the sum of these properties has this value.
    fn wait_for_sum(&self, properties: &[&str], sum: u64) {
        wait::until_true(&format!("the sum of {properties:?} to be {sum}"), || {
            properties.iter().map(|property| self.count(property)).sum::<u64>() == sum
        });
    }
}

/// The value of a numeric property.
fn count(host: &Host, property: &str) -> u64 {
    host.counter(CAPTURE_NAME, property)
}

/// A frame with a magic packet for a MAC address that ends in this number.
fn frame(number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    let mac = format!("52:54:00:00:{high:02x}:{low:02x}");
    ethernet(BROADCAST, [2, 0, 0, 0, 0, 1], WAKE_ON_LAN, &magic(&mac, &[]))
}

fn has_exited(pid: Pid) -> bool {
    !std::path::Path::new(&format!("/proc/{pid}")).exists()
}

fn encode(message: &FromSniffer) -> Vec<u8> {
    message.encode(&mut [0; MAX_MESSAGE]).unwrap().to_vec()
}

/// The sniffer's `Ready` message.
fn ready() -> Vec<u8> {
    encode(&FromSniffer::Ready { mode: Mode::Raw, landlock: true })
}

/// The sniffer's message about a packet for a MAC address that ends in this number.
fn packet(number: u16, interface: u32) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    let magic = MagicPacket::new(MacAddr::new([2, 0, 0, 0, high, low]), None).unwrap();
    let carrier = Carrier::Ethernet { ethertype: Some(WAKE_ON_LAN), source: None };
    encode(&FromSniffer::Packet(CapturedPacket {
        packet: ParsedPacket { magic, carrier, vlan: None },
        interface,
    }))
}

/// Starts capture with a Python program in place of the sniffer. The program sends the messages, then runs `script`, in
/// which `s` is the channel and `messages` are the messages.
fn start_with_fake_sniffer(host: &Host, config: &str, messages: &[Vec<u8>], script: &str) -> Process {
    host.sh(&format!("mkdir -p /run/fake && cp -u {PROGRAMS}/wakevirt-capture /run/fake/"));
    let hex = |message: &Vec<u8>| message.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let messages: Vec<String> = messages.iter().map(hex).collect();
    host.write(
        "/run/fake/wakevirt-sniffer",
        &format!(
            "#!/usr/bin/python3\nimport socket\ns = socket.socket(fileno=0)\ns.recv(512)\n\
             messages = [bytes.fromhex(message) for message in {messages:?}]\n\
             for message in messages: s.send(message)\n{script}\n"
        ),
    );
    let sniffer = host.path("/run/fake/wakevirt-sniffer");
    std::fs::set_permissions(sniffer, std::fs::Permissions::from_mode(0o755)).unwrap();
    host.write("/run/fake/capture.toml", config);
    let mut command = host.command("/run/fake/wakevirt-capture");
    Process::start("capture", command.args(["--log-to", "stderr", "--config", "/run/fake/capture.toml"]))
}

/// A script that exits at once. Python otherwise closes the channel earlier, and can be killed 500 ms later.
const EXIT: &str = "import os; os._exit(7)";

/// Invalid sequences of messages from a compromised sniffer, each with the error that the service logs when it exits.
fn invalid_messages() -> Vec<(Vec<Vec<u8>>, &'static str)> {
    let ready = ready();
    let packet = encode(&FromSniffer::Packet(CapturedPacket {
        packet: ParsedPacket {
            magic: MagicPacket::new(MacAddr::new(bytes_of(MAC)), None).unwrap(),
            carrier: Carrier::Ethernet { ethertype: Some(WAKE_ON_LAN), source: None },
            vlan: None,
        },
        interface: 1,
    }));
    let counters = |malformed| {
        encode(&FromSniffer::Counters(Counters {
            malformed,
            dropped_raw: malformed,
            dropped_udp: malformed,
            ..Counters::default()
        }))
    };
    let reason = "fine\n2026-01-01 INFO all is well\x1b[2J".to_owned();
    // A multicast address as the target. Its first byte follows the version and the type of the message.
    let mut group = packet.clone();
    group[2] |= 1;
    vec![
        (vec![packet.clone()], "sniffer sent a message before Ready"),
        (vec![ready.clone(), ready.clone()], "sniffer sent Ready twice"),
        (vec![ready.clone(), vec![0xee; 40]], "a message of version 238"),
        (vec![ready.clone(), vec![1; MAX_MESSAGE + 1]], "a message of 513 bytes; the maximum is 512"),
        (vec![ready.clone(), vec![1; 100_000]], "a message of 513 bytes; the maximum is 512"),
        (vec![ready.clone(), vec![VERSION, 200]], "an invalid message"),
        (vec![ready.clone(), group], "an invalid message"),
        (vec![ready.clone(), packet[..packet.len() - 1].to_vec()], "an invalid message"),
        (vec![ready.clone(), [&packet[..], &[0]].concat()], "a message followed by excess bytes (1)"),
        (vec![ready.clone(), counters(7), counters(6)], "sniffer sent counters that decrease"),
        (
            vec![ready.clone(), counters(u64::MAX), packet.clone(), counters(6)],
            "sniffer sent counters that decrease",
        ),
        (vec![ready.clone(), vec![]], "sniffer exited ("),
        (vec![ready], "sniffer exited (code 7); capture will exit, and"),
        (
            vec![encode(&FromSniffer::Failed { reason })],
            "sniffer failed: fine\\n2026-01-01 INFO all is well\\u{1b}[2J",
        ),
    ]
}

#[test]
fn exits_on_an_invalid_sniffer_message() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    for (messages, error) in invalid_messages() {
        let mut capture = start_with_fake_sniffer(&host, "", &messages, EXIT);
        assert_eq!(capture.wait_for_exit().code(), Some(1), "{error}");
        let line = capture.log().wait_for(error);
        assert!(line.contains("ERROR"), "{line}");
        assert!(
            !capture.log().all().iter().any(|line| line.starts_with("2026-01-01")),
            "the log has a forged line"
        );
    }
}

#[test]
fn invented_interfaces_share_one_budget() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let packet = |number: u16| packet(number, 1000 + u32::from(number));
    let ready = ready();
    let messages: Vec<Vec<u8>> = [ready].into_iter().chain((0..200).map(packet)).collect();
    let mut capture = start_with_fake_sniffer(&host, "limit = 5", &messages, "while s.recv(512): pass");
    host.wait_for_name(CAPTURE_NAME);
    wait::until_true("all packets to be received", || count(&host, "Received") == 200);
    // Capture announces five packets immediately, and five more per second.
    let (announced, limited) = (count(&host, "Sequence"), count(&host, "Limited"));
    assert_eq!(announced + limited, 200);
    assert!((5..100).contains(&announced), "{announced} packets were announced");
    capture.stop();
}

#[test]
fn replies_and_stops_while_the_sniffer_sends_without_pause() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let messages: Vec<Vec<u8>> = [ready()].into_iter().chain((0..200).map(|n| packet(n, 1))).collect();
    // These are eight processes that block only while the channel is full, so another message is always waiting for the
    // announcer.
    let flood = "import os\nfor _ in range(3): os.fork()\nwhile True:\n  for message in messages[1:]: s.send(message)";
    let mut capture = start_with_fake_sniffer(&host, "", &messages, flood);
    host.wait_for_name(CAPTURE_NAME);
    let monitor = host.monitor(User::Unprivileged, CAPTURE_NAME);
    host.call(User::WakevirtMember, CAPTURE_NAME, "SetInterest", &["[[byte 2, 0, 0, 0, 0, 7]]"]).unwrap();
    let address = "'02:00:00:00:00:07'";
    let before = monitor.log().count(address);
    let _ = monitor.log().wait_for_nth(address, before + 1);
    for _ in 0..10 {
        let before = count(&host, "Received");
        wait::until_true("capture to receive more packets", || count(&host, "Received") > before);
    }
    capture.stop();
}

#[test]
fn drops_all_capabilities_and_cannot_trace_the_sniffer() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    for started_by in [StartedBy::Manager, StartedBy::Root] {
        let mut capture = capture(&host, started_by, "");
        assert_unprivileged(&host, &Status::of(capture.pid()), "0", started_by);
        assert_unprivileged(&host, &Status::of(capture.child("wakevirt-sniffer")), "2", started_by);
        assert_descriptors_of_sniffer(&host, started_by);
        assert_sniffer_cannot_be_read(&host);
        capture.stop();
    }
}

/// Checks that a process of capture runs as capture's user and has no privileges.
fn assert_unprivileged(host: &Host, status: &Status, seccomp: &str, started_by: StartedBy) {
    let gid = host.sh("id -g wakevirt-capture");
    for (field, id) in [("Uid", &host.sh("id -u wakevirt-capture")), ("Gid", &gid)] {
        assert_eq!(status.field(field), [id.trim(); 4].join(" "), "{started_by:?}: {field}");
    }
    let mut groups = status.field("Groups").split_whitespace();
    assert!(groups.all(|group| group == gid.trim()), "{started_by:?}: it has a supplementary group");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status.capabilities(set), 0, "{started_by:?}: {set}");
    }
    assert_eq!(status.capabilities("CapBnd"), NET_RAW, "{started_by:?}");
    assert_eq!(status.field("NoNewPrivs"), "1", "{started_by:?}");
    assert_eq!(status.field("Seccomp"), seccomp, "{started_by:?}");
}

/// Checks the sniffer's descriptors: standard output and standard error are /dev/null, and besides the channel, which
/// is standard input, there are only sockets for packets.
fn assert_descriptors_of_sniffer(host: &Host, started_by: StartedBy) {
    let pid = sniffer_on_host(host);
    assert_eq!(host.sh(&format!("readlink /proc/{pid}/fd/1 /proc/{pid}/fd/2")), "/dev/null\n/dev/null\n");
    let others = host.sh(&format!("ls /proc/{pid}/fd | grep -v '[012]$' | wc -l"));
    assert_eq!(others.trim(), socket_count(started_by));
}

/// Checks that the announcer's user can neither read nor trace the sniffer. As a control, it must be able to do both to
/// an unprotected process.
fn assert_sniffer_cannot_be_read(host: &Host) {
    let unprotected = Process::start("sleep", host.command_as(User::Capture, "sleep").arg("60"));
    let status = Status::of(unprotected.pid());
    let control_pid = status.field("NSpid").rsplit(' ').next().unwrap();
    for (attack, expected) in [
        ("open('/proc/{}/mem', 'rb')", "PermissionError"),
        ("os.listdir('/proc/{}/fd')", "PermissionError"),
        ("open('/proc/{}/environ', 'rb').read()", "PermissionError"),
        ("trace({})", "Operation not permitted"),
    ] {
        let control = run_attack(host, &attack.replace("{}", control_pid));
        assert!(control.status.success(), "{attack}: {}", String::from_utf8_lossy(&control.stderr));
        let denied = run_attack(host, &attack.replace("{}", &sniffer_on_host(host)));
        let error = String::from_utf8_lossy(&denied.stderr).into_owned();
        assert!(!denied.status.success() && error.contains(expected), "{attack}: {error}");
    }
}

/// Runs a Python expression as the announcer's user. `trace(pid)` makes the PTRACE_ATTACH request.
fn run_attack(host: &Host, expression: &str) -> Output {
    let script = format!(
        "import ctypes, os\n\
         libc = ctypes.CDLL(None, use_errno=True)\n\
         def trace(pid):\n    \
         if libc.ptrace(16, pid, None, None): raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))\n\
         {expression}"
    );
    host.command_as(User::Capture, "python3").args(["-c", &script]).output().unwrap()
}

/// The sniffer's process ID in the host's PID namespace.
fn sniffer_on_host(host: &Host) -> String {
    host.sh("pgrep -x wakevirt-sniffe").trim().to_owned()
}

/// The number of the sniffer's sockets besides the channel. It has UDP sockets only if capture can bind port 9.
fn socket_count(started_by: StartedBy) -> &'static str {
    if started_by == StartedBy::Root { "3" } else { "1" }
}

#[test]
fn does_not_pass_open_descriptors_to_the_sniffer() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let line = format!("exec 9</etc/shadow; exec {PROGRAMS}/wakevirt-capture --log-to stderr");
    let mut capture = Process::start("capture", host.command("sh").args(["-c", &line]));
    let _ = capture.log().wait_for("connected to the bus");
    let open = |pid: &str| host.sh(&format!("readlink /proc/{pid}/fd/*"));
    assert!(open(host.sh("pgrep -x wakevirt-captur").trim()).contains("/etc/shadow"));
    assert!(!open(&sniffer_on_host(&host)).contains("/etc/shadow"));
    capture.stop();
}

#[test]
fn announcer_and_sniffer_exit_together() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let mut first = capture(&host, StartedBy::Manager, "");
    let killed = first.child("wakevirt-sniffer");
    kill(killed, Signal::SIGKILL).unwrap();
    assert_eq!(first.wait_for_exit().code(), Some(1));
    let _ = first.log().wait_for("sniffer exited (killed by signal 9)");

    let mut second = capture(&host, StartedBy::Manager, "");
    let orphan = second.child("wakevirt-sniffer");
    second.kill();
    wait::until_true("the sniffer to exit", || has_exited(orphan));

    let mut third = capture(&host, StartedBy::Root, "");
    let stopped = third.child("wakevirt-sniffer");
    third.stop();
    assert!(has_exited(stopped), "the sniffer is still running after a clean exit");
    assert_no_warnings(&third);

    // On Ctrl-C, a terminal sends SIGINT to both processes.
    let mut fourth = capture(&host, StartedBy::Root, "");
    let interrupted = fourth.child("wakevirt-sniffer");
    kill(interrupted, Signal::SIGINT).unwrap();
    fourth.signal(Signal::SIGINT);
    assert!(fourth.wait_for_exit().success());
    assert_no_warnings(&fourth);

    let Some(seccomp) = kernel_log::sniffers_killed_by_seccomp() else { return };
    for sniffer in [killed, orphan, stopped, interrupted] {
        let pid = u32::try_from(sniffer.as_raw()).unwrap();
        assert!(!seccomp.contains(&pid), "the kernel logged that seccomp killed {sniffer}");
    }
}

fn assert_no_warnings(capture: &Daemon) {
    let lines = capture.log().all();
    assert!(!lines.iter().any(|line| line.contains("WARN") || line.contains("ERROR")), "{lines:#?}");
}

#[test]
fn captures_while_the_bus_is_down_and_loses_no_packets() {
    privileged!();
    for kind in [Kind::DbusDaemon, Kind::DbusBroker] {
        let host = Host::new();
        let mut scene = Scene::on(&host, kind, "");
        let sniffer = scene.sniffer();
        scene.lan.etherwake(MAC, &[]);
        scene.wait_for_sum(&["Sequence"], 1);
        let epoch = host.property(User::Unprivileged, CAPTURE_NAME, "Epoch").unwrap();
        scene.bus.kill();
        let _ = scene.capture.log().wait_for("connection to the system bus lost");
        scene.lan.etherwake("52:54:00:01:02:04", &[]);
        scene.bus.start_again();
        host.wait_for_name(CAPTURE_NAME);
        scene.wait_for_sum(&["Sequence"], 2);
        assert_eq!(host.property(User::Unprivileged, CAPTURE_NAME, "Epoch").unwrap(), epoch, "{kind:?}");
        let epoch = epoch.trim_start_matches("(<").trim_end_matches(">,)");
        let missed = host.call(User::WakevirtMember, CAPTURE_NAME, "Replay", &[epoch, "uint64 1"]).unwrap();
        assert!(missed.contains("false, false, [(uint64 2, '52:54:00:01:02:04', {"), "{kind:?}: {missed}");
        assert_eq!(scene.sniffer(), sniffer);
        scene.capture.stop();
    }
}

#[test]
fn starts_before_the_bus() {
    privileged!();
    let host = Host::new();
    let mut capture = Daemon::capture(&host).start_ready();
    let _ = capture.log().wait_for("connection to the system bus failed: ");
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    host.wait_for_name(CAPTURE_NAME);
    // A second announcer logs which process owns the name, and exits.
    let mut second = Daemon::capture(&host).start();
    assert_eq!(second.wait_for_exit().code(), Some(1));
    let _ = second.log().wait_for("the bus name org.wakevirt.Capture1 is already owned by process");
    capture.stop();
}

#[test]
fn never_blocks_the_sniffer() {
    privileged!();
    let host = Host::new();
    let mut scene = Scene::new(&host, "");
    let sniffer = scene.sniffer();
    let mut wire = scene.lan.injector();
    scene.capture.signal(Signal::SIGSTOP);
    (0..2000).for_each(|number| wire.send(&frame(number)));
    // The sniffer has read all packets when it waits for more.
    wait::until_true("the sniffer to wait for packets", || {
        Status::of(sniffer).field("State").starts_with('S')
    });
    scene.capture.signal(Signal::SIGCONT);
    wait::until_true("lost packets to be counted", || scene.count("ChannelDropped") > 0);
    scene.wait_for_sum(&["Received", "ChannelDropped"], 2000);
    assert_eq!(scene.count("KernelDropped"), 0);
    let _ = scene.capture.log().wait_for("packets were lost: 0 before they reached the sniffer");
    wire.send(&frame(2001));
    scene.wait_for_sum(&["Received", "ChannelDropped"], 2001);
    scene.capture.stop();
}

#[test]
fn counts_packets_dropped_by_the_kernel() {
    privileged!();
    let host = Host::new();
    let mut scene = Scene::new(&host, "");
    let sniffer = scene.sniffer();
    let mut wire = scene.lan.injector();
    // The sandbox does not prevent signals that stop and continue the process.
    kill(sniffer, Signal::SIGSTOP).unwrap();
    let padding = [0; 1300];
    (0..8000).for_each(|number| wire.send(&[&frame(number)[..], &padding].concat()));
    kill(sniffer, Signal::SIGCONT).unwrap();
    wait::until_true("lost packets to be counted", || scene.count("KernelDropped") > 0);
    scene.wait_for_sum(&["Received", "KernelDropped", "ChannelDropped"], 8000);
    let transports = host.property(User::Unprivileged, CAPTURE_NAME, "Transports").unwrap();
    let (_, dropped) = transports.split_once("'raw': {'dropped': ").unwrap();
    assert!(dropped.starts_with(|digit: char| ('1'..='9').contains(&digit)), "{transports}");
    let _ = scene.capture.log().wait_for("packets were lost:");
    scene.capture.stop();
}

#[test]
fn announces_copies_once_and_limits_each_address_separately() {
    privileged!();
    let host = Host::new();
    let mut scene = Scene::new(&host, "limit = 5\ndeduplicate = \"1h\"");
    // The interest remains for a while after its client disconnects.
    let interest = format!("[{}]", bytes_of(MAC).map(|byte| format!("byte 0x{byte:02x}")).join(", "));
    host.call(User::WakevirtMember, CAPTURE_NAME, "SetInterest", &[&format!("[{interest}]")]).unwrap();
    let mut wire = scene.lan.injector();
    (0..200).for_each(|number| wire.send(&frame(number)));
    for _ in 0..3 {
        scene.lan.etherwake(MAC, &[]);
    }
    scene.wait_for_sum(&["Received"], 203);
    let (limited, sequence) = (scene.count("Limited"), scene.count("Sequence"));
    assert_eq!(scene.count("Duplicates"), 2);
    assert_eq!(sequence + limited, 201);
    assert!(limited >= 100, "only {limited} of 200 packets were limited");
    let replay = host.call(User::WakevirtMember, CAPTURE_NAME, "Replay", &["''", "uint64 0"]).unwrap();
    assert!(replay.contains(&format!("({sequence}, '{MAC}', {{")), "{replay}");
    assert_eq!(replay.matches("'copies': <uint32 3>").count(), 1, "{replay}");
    // Capture logs only packets of interest.
    assert_eq!(scene.capture.log().count("magic packet for"), 1);
    assert_eq!(scene.capture.log().count(&format!("magic packet for {MAC} from ")), 1);

    let rejected = |argument: &str| {
        host.call(User::WakevirtMember, CAPTURE_NAME, "SetInterest", &[argument]).unwrap_err()
    };
    for bad in ["[[byte 1, 2, 3]]", "[[byte 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]]"] {
        assert_eq!(rejected(bad).name, "org.wakevirt.Error.InvalidArgument", "{bad}");
    }
    scene.capture.stop();
}

#[test]
fn limits_log_lines_about_packets() {
    privileged!();
    let host = Host::new();
    let mut scene = Scene::new(&host, "limit = 100000\nlog = \"debug\"");
    let mut wire = scene.lan.injector();
    let start = Instant::now();
    (0..3000).for_each(|number| wire.send(&frame(number)));
    scene.wait_for_sum(&["Received"], 3000);
    let lines = scene.capture.log().count("magic packet for");
    // Capture logs at most 20 lines in 10 s.
    let limit = 20 * (start.elapsed().as_secs() / 10 + 2);
    assert!(lines >= 1 && lines as u64 <= limit, "{lines} lines, expected at most {limit}");
    scene.capture.stop();
}

#[test]
fn forgets_the_interest_of_a_client_that_disconnects_immediately() {
    privileged!();
    let host = Host::new();
    let mut scene = Scene::new(&host, "");
    // These addresses fill the table of interests: while their client is connected, capture refuses other interests.
    let macs: Vec<Vec<u8>> = (0..100_000_u32).map(|n| [&[2, 0][..], &n.to_be_bytes()].concat()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for _ in 0..3 {
        scene.capture.signal(Signal::SIGSTOP);
        runtime.block_on(async {
            let connection = scene.bus.connect().await;
            let call = zbus::Message::method_call("/org/wakevirt/Capture1", "SetInterest")
                .destination(CAPTURE_NAME)
                .interface(CAPTURE_NAME)
                .with_flags(zbus::message::Flags::NO_REPLY_EXPECTED)
                .build(&macs)
                .unwrap();
            connection.send(&call).await.unwrap();
            connection.close().await.unwrap();
        });
        scene.capture.signal(Signal::SIGCONT);
        let interest = "[[byte 2, 0, 0, 0, 0, 1]]";
        wait::until_true("the interest of the disconnected client to be forgotten", || {
            host.call(User::WakevirtMember, CAPTURE_NAME, "SetInterest", &[interest]).is_ok()
        });
    }
    scene.capture.stop();
}
