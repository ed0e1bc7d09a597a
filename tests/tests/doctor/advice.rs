//! A healthy host, and faults that no command on this host cures.

use wakevirt_tests::daemon::StartedBy;
use wakevirt_tests::host::{Host, PROGRAMS, User};
use wakevirt_tests::network::frames::{BROADCAST, WAKE_ON_LAN, ethernet, magic};
use wakevirt_tests::process::Process;
use wakevirt_tests::{privileged, wait};

use wakevirt_tests::libvirt::machine::Machine;
use wakevirt_tests::libvirt::second::{SECOND_URI, SecondLibvirtd};
use wakevirt_tests::scene::{ALL_ALLOWED, Scene};

use crate::patient::{DOMAIN, HEALTHY, MAC, Patient, Setup, diagnose};

#[test]
fn a_healthy_host_passes_the_loop_back_test() {
    privileged!();
    let host = Host::new();
    let shell = "sysctl --quiet --write net.ipv4.ip_unprivileged_port_start=9";
    let patient = Patient::new(&host, Setup { shell, ..HEALTHY });
    let works = |arguments: &[&str]| patient.diagnose(arguments).json["works"].to_string();
    let text = works(&[]);
    assert!(text.contains("capture announced a packet for the unused address 02:57:4f:4c:"), "{text}");
    assert!(
        text.contains("a packet for 52:54:00:12:34:56 can wake \\\"win11\\\", which is shut off now"),
        "{text}"
    );
    assert!(!works(&["--no-test"]).contains("capture announced"));
    // doctor changes nothing.
    assert_eq!(patient.libvirtd.state(wakevirt_tests::libvirt::TEST, DOMAIN), "shut off");

    // Without the loopback interface, the kernel loops a broadcast back.
    let port = Patient::config(&patient.capture);
    host.write(&port, "interfaces = [\"*\", \"!lo\"]\n");
    patient.capture.signal(nix::sys::signal::Signal::SIGHUP);
    wait::until_true("capture to leave lo", || {
        host.property(User::Root, "org.wakevirt.Capture1", "Interfaces").is_ok_and(|it| !it.contains("'lo'"))
    });
    let text = works(&[]);
    assert!(text.contains("sent to 192.0.2.255, on br0"), "{text}");
}

#[test]
fn an_ordinary_user_reads_what_was_not_checked() {
    privileged!();
    let host = Host::new();
    let patient = Patient::new(&host, HEALTHY);
    let program = "/run/copy/wakevirtctl";
    host.sh(&format!(
        "mkdir /run/copy && cp {PROGRAMS}/wakevirtctl {PROGRAMS}/wakevirt-actor {PROGRAMS}/wakevirt-capture /run/copy/"
    ));
    let run = |user| {
        let output = host.command_as(user, program).arg("doctor").output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = run(User::Unprivileged);
    assert!(
        text.contains("not checked: the domains (user wakevirt-test-unprivileged may not call"),
        "{text}"
    );
    assert!(text.contains("), run sudo wakevirtctl list"), "{text}");
    let text = run(User::LibvirtMember);
    assert!(text.contains("can wake \"win11\""), "{text}");
    drop(patient);
}

#[test]
fn services_that_do_not_run() {
    privileged!();
    let host = Host::new();
    let mut patient = Patient::new(&host, HEALTHY);
    patient.actor.stop();
    let diagnosis = patient.diagnose(&[]);
    assert_eq!(diagnosis.first()["check"], "service-absent", "{:#}", diagnosis.json);
    assert!(diagnosis.has_seen("service-absent", "org.wakevirt.Actor1 has no owner"), "{:#}", diagnosis.json);
    assert!(diagnosis.json["not-checked"].to_string().contains("the units"), "{:#}", diagnosis.json);
}

#[test]
fn there_is_no_bus() {
    privileged!();
    let host = Host::new();
    let json = diagnose(&host, &[]);
    assert_eq!(json["findings"].as_array().map(Vec::len), Some(1), "{json:#}");
    assert_eq!(json["findings"][0]["check"], "bus-unreachable", "{json:#}");
}

#[test]
fn udp_only() {
    privileged!();
    let host = Host::new();
    let setup = Setup {
        shell: "sysctl --quiet --write net.ipv4.ip_unprivileged_port_start=9",
        started_by: StartedBy::Unprivileged,
        ..HEALTHY
    };
    let patient = Patient::new(&host, setup);
    let diagnosis = patient.diagnose(&[]);
    assert_eq!(diagnosis.first()["check"], "udp-mode", "{:#}", diagnosis.json);
    assert!(diagnosis.has_seen("udp-mode", "CAP_NET_RAW"), "{:#}", diagnosis.json);
}

#[test]
fn another_program_has_the_port() {
    privileged!();
    let host = Host::new();
    let script = "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind((\"0.0.0.0\", 9))\n\
                  print(\"bound\", flush=True)\ntime.sleep(1000)";
    let mut python = host.command("python3");
    let python = Process::start("python3", python.args(["-c", script]));
    let _ = python.log().wait_for("bound");
    let patient = Patient::new(&host, Setup { capture: "listen = [\"[::1]:4009\"]\n", ..HEALTHY });
    let diagnosis = patient.diagnose(&[]);
    assert_eq!(diagnosis.first()["check"], "port-taken", "{:#}", diagnosis.json);
    assert!(diagnosis.first()["problem"].as_str().is_some_and(|it| it.contains("python3, process")));
    host.sh(diagnosis.cure("port-taken"));
    assert_eq!(patient.diagnose(&[]).json["healthy"], true);
}

#[test]
fn libvirt_is_gone() {
    privileged!();
    let host = Host::new();
    let mut patient = Patient::new(&host, HEALTHY);
    patient.libvirtd.kill();
    wait::until_true("the actor to notice", || {
        host.property(User::Root, "org.wakevirt.Actor1", "Connections").is_ok_and(|it| it.contains("false"))
    });
    let diagnosis = patient.diagnose(&[DOMAIN]);
    assert_eq!(diagnosis.first()["check"], "libvirt-unreachable", "{:#}", diagnosis.json);
    assert!(diagnosis.has_seen("libvirt-unreachable", "Failed to connect socket"), "{:#}", diagnosis.json);
}

#[test]
fn counters_and_the_cool_down_are_explained() {
    privileged!();
    let host = Host::new();
    let patient = Patient::new(&host, Setup { capture: "limit = 1\ndeduplicate = \"0s\"\n", ..HEALTHY });
    // The last copy of the address differs. The port and the bridge receive both frames.
    let mut almost = magic(MAC, &[]);
    almost[101] ^= 1;
    patient.lan.send(&ethernet(BROADCAST, [2, 0, 0, 0, 0, 1], WAKE_ON_LAN, &almost));
    patient.lan.send(&ethernet(BROADCAST, [2, 0, 0, 0, 0, 1], WAKE_ON_LAN, &magic("01:00:5e:00:00:01", &[])));
    wait::until_true("both to be counted", || host.counter("org.wakevirt.Capture1", "Malformed") == 4);
    for number in 0..8 {
        patient.lan.etherwake(&format!("52:54:00:00:00:0{number}"), &[]);
    }
    patient.wakes(MAC, &[], &patient.diagnose(&[]));
    patient.libvirtd.virsh(wakevirt_tests::libvirt::TEST, &["destroy", DOMAIN]);
    patient.packet(MAC, &[]);
    let _ = patient.decisions.log().wait_for("cooling-down");
    let diagnosis = patient.diagnose(&[DOMAIN]);
    for check in ["malformed", "limited", "cool-down"] {
        assert_eq!(diagnosis.finding(check)["severity"], "note", "{:#}", diagnosis.json);
    }
    assert!(
        diagnosis.finding("malformed")["problem"]
            .to_string()
            .contains("an address that no network card can have")
    );
    assert_eq!(diagnosis.json["healthy"], true, "{:#}", diagnosis.json);
}

#[test]
fn a_domain_that_migrated_is_named() {
    privileged!();
    let host = Host::new();
    let scene = Scene::new(&host, &[Machine::new(DOMAIN)], ALL_ALLOWED);
    let _destination = SecondLibvirtd::start(&host);
    scene.virsh(&["start", DOMAIN]);
    scene.virsh(&["migrate", "--live", DOMAIN, SECOND_URI, "--migrateuri", "unix:///run/migration"]);
    let json = diagnose(&host, &[DOMAIN]);
    let first = &json["findings"][0];
    assert_eq!(first["check"], "migrated-away", "{json:#}");
    assert!(first["evidence"].to_string().contains("shut off (migrated)"), "{json:#}");
    assert!(first["cure"].as_str().is_some_and(|cure| cure.ends_with("start win11")), "{json:#}");
}

/// Two daemons of an ordinary user, with and without the runtime directory of a login.
#[test]
fn two_daemons_of_a_user_in_two_directories() {
    privileged!();
    let host = Host::new();
    let patient = Patient::new(&host, HEALTHY);
    let name = User::Unprivileged.name();
    host.sh(&format!(
        "mkdir /run/user /run/home /run/copy; install -d -o {name} /run/user/test /run/home/test"
    ));
    host.sh(&format!("cp {PROGRAMS}/wakevirtctl {PROGRAMS}/wakevirt-actor /run/copy/"));
    let as_user = |program: &str, runtime: Option<&str>| {
        let mut command = host.command_as(User::Unprivileged, program);
        command.env("HOME", "/run/home/test").envs(runtime.map(|runtime| ("XDG_RUNTIME_DIR", runtime)));
        command
    };
    let sockets = ["/run/user/test/libvirt/libvirt-sock", "/run/home/test/.cache/libvirt/libvirt-sock"];
    let daemons: Vec<Process> = [Some("/run/user/test"), None]
        .into_iter()
        .map(|runtime| Process::start("libvirtd", as_user("libvirtd", runtime).args(["--timeout", "600"])))
        .collect();
    for socket in sockets {
        wait::until_true(socket, || host.path(socket).exists());
    }
    // The actor of the user, on another bus.
    let address = "unix:path=/run/user/test/bus";
    let mut bus = as_user("dbus-daemon", None);
    let bus = bus.args(["--session", "--nofork", "--nopidfile", "--nosyslog", "--address", address]);
    let _bus = Process::start("the session bus", bus);
    wait::until_true("the session bus", || host.path("/run/user/test/bus").exists());
    let mut actor = as_user("/run/copy/wakevirt-actor", Some("/run/user/test"));
    actor.args(["--bus", address, "--connect", "qemu:///session", "--log-to", "stderr"]);
    let actor = Process::start(
        "wakevirt-actor",
        actor.env("LIBVIRT_AUTOSTART", "0").env("RUNTIME_DIRECTORY", "/run/user/test"),
    );
    let _ = actor.log().wait_for("connected to qemu:///session");
    let mut doctor = as_user("/run/copy/wakevirtctl", Some("/run/user/test"));
    let output = doctor.args(["--bus", address, "--json", "doctor"]).output().expect("wakevirtctl runs");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let first = &json["findings"][0];
    assert_eq!(first["check"], "two-runtime-directories", "{json:#}");
    for part in ["/run/user/test/libvirt", "/run/home/test/.cache/libvirt"] {
        assert!(first["evidence"].to_string().contains(part), "{json:#}");
    }
    // The command ends both.
    let cure = first["cure"].as_str().expect("a command");
    let mut shell = as_user("sh", None);
    assert!(shell.args(["-euc", cure]).status().expect("sh runs").success(), "{cure}");
    for mut daemon in daemons {
        let _ = daemon.wait_for_exit();
    }
    drop(patient);
}

#[test]
fn a_report_can_be_masked() {
    privileged!();
    let host = Host::new();
    let patient = Patient::new(&host, HEALTHY);
    patient.packet(MAC, &[]);
    let report = |options: &[&str]| {
        let output = patient.doctor(&[&["--report"], options].concat());
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (plain, masked) = (report(&[]), report(&["--mask"]));
    for text in ["win11", MAC, "## Findings", "## Last decisions", "started"] {
        assert!(plain.contains(text), "{text} is not in\n{plain}");
    }
    assert!(masked.contains("domain-1") && masked.contains("mac-1"), "{masked}");
    for secret in ["win11", MAC, "192.0.2.1"] {
        assert!(!masked.contains(secret), "{secret} is in\n{masked}");
    }
}
