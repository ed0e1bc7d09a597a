//! Tests the example program that runs commands for packets: docs/examples/commands.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::fs::PermissionsExt;

use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::{Host, User, project, succeed};
use wakevirt_tests::network::Peer;
use wakevirt_tests::privileged;
use wakevirt_tests::process::Process;

const EXAMPLE: &str = "docs/examples/commands/wakevirt-commands.py";
const CONFIGURATION: &str = "docs/examples/commands/wakevirt-commands.toml";
/// A MAC address for which the example's configuration has no entry.
const OTHER: &str = "02:00:00:00:00:99";

/// Replaces a program that cannot be used on this host: writes its arguments to a file.
const STUB: &str = "#!/bin/sh\necho \"${0##*/} $*\" >>/run/stubs.log\n";

/// Configures Podman to run in a host's namespaces, without cgroups and with its storage in a tmpfs, and creates a
/// container.
const PODMAN: &str = r#"
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /etc/containers /run/image/bin
printf '[storage]\ndriver = "vfs"\ngraphroot = "/run/containers/graph"\nrunroot = "/run/containers/run"\n' >/etc/containers/storage.conf
printf '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n[containers]\ncgroups = "disabled"\n' >/etc/containers/containers.conf
cp /usr/bin/busybox /run/image/bin/
tar -C /run/image -c . | podman import - image
podman create --network=none --name=minecraft image /bin/busybox sleep 1000
"#;

/// A host with an interface and capture, on which the example runs with a configuration.
struct Example<'host> {
    process: Process,
    lan: Peer<'host>,
    _capture: Daemon,
    _bus: Bus<'host>,
}

impl<'host> Example<'host> {
    fn start(host: &'host Host, configuration: &str) -> Self {
        let bus = Bus::start(host, Kind::DbusDaemon);
        let lan = host.veth("enp1s0");
        let capture = Daemon::capture(host).config("deduplicate = \"1ms\"\n").start_ready();
        let process = start(host, configuration);
        let _ = process.log().wait_for("waiting for packets");
        Self { process, lan, _capture: capture, _bus: bus }
    }

    /// Sends a packet, and waits for the line about it.
    fn send(&self, mac: &str, expected: &str) {
        self.lan.etherwake(mac, &[]);
        let _ = self.process.log().wait_for(expected);
    }
}

fn start(host: &Host, configuration: &str) -> Process {
    host.write("/run/commands.toml", configuration);
    host.write("/run/commands.py", &std::fs::read_to_string(project().join(EXAMPLE)).unwrap());
    let mut command = host.command("python3");
    Process::start("wakevirt-commands.py", command.args(["/run/commands.py", "/run/commands.toml"]))
}

#[test]
fn example_commands_start_services_vms_and_containers() {
    privileged!();
    let host = Host::new();
    let configuration = std::fs::read_to_string(project().join(CONFIGURATION)).unwrap();
    // On this host, these programs are stubs. Their real paths are in directories that all hosts share.
    let configuration = ["/usr/bin/systemctl", "/usr/sbin/qm", "/usr/sbin/pct", "/usr/bin/incus"]
        .into_iter()
        .fold(configuration, |text, program| {
            let stub = format!("/run/stubs/{}", program.rsplit('/').next().unwrap());
            host.write(&stub, STUB);
            std::fs::set_permissions(host.path(&stub), std::fs::Permissions::from_mode(0o755)).unwrap();
            assert!(text.contains(program), "the example does not use {program}");
            text.replace(program, &stub)
        });
    host.sh(PODMAN);
    let example = Example::start(&host, &configuration);

    for (last, line) in [
        (1, "systemctl start jellyfin.service"),
        (3, "qm start 100"),
        (4, "pct start 101"),
        (5, "incus start win11"),
    ] {
        let mac = format!("02:00:00:00:00:0{last}");
        example.send(&mac, &format!("{mac}: /run/stubs/{} exited with 0", line.split(' ').next().unwrap()));
        assert_eq!(host.read("/run/stubs.log").lines().last(), Some(line));
    }
    example.send("02:00:00:00:00:02", "02:00:00:00:00:02: /usr/bin/podman exited with 0");
    assert_eq!(host.sh("podman ps --format '{{.Names}}'"), "minecraft\n");
    host.sh("podman kill minecraft");
}

#[test]
fn a_command_runs_only_for_packets_from_capture_on_its_interfaces_and_not_during_the_cool_down() {
    privileged!();
    let host = Host::new();
    let other = host.veth("enp2s0");
    let entry = |mac: &str| {
        format!(
            "[[command]]\nmac = \"{mac}\"\nrun = [\"/bin/echo\", \"ran\"]\ninterfaces = [\"enp1s0\"]\ncool-down = 3600\n"
        )
    };
    let example = Example::start(&host, &(entry("02:00:00:00:00:01") + &entry("02:00:00:00:00:02")));
    let log = example.process.log();

    let forge =
        "gdbus emit --system --object-path /org/wakevirt/Capture1 --signal org.wakevirt.Capture1.MagicPacket";
    let details = "\"{'interface': <'enp1s0'>}\"";
    succeed(
        host.command_as(User::Unprivileged, "sh")
            .args(["-euc", &format!("{forge} 'uint64 1' \"'02:00:00:00:00:01'\" {details}")]),
    );
    other.etherwake("02:00:00:00:00:01", &[]);
    let _ = log.wait_for("02:00:00:00:00:01 on enp2s0: ignored, this interface is not allowed");
    example.lan.etherwake(OTHER, &[]);
    assert_eq!(runs(&example), 0, "{:?}", log.all());

    example.send("02:00:00:00:00:01", "02:00:00:00:00:01: /bin/echo exited with 0");
    example.send(
        "02:00:00:00:00:01",
        "02:00:00:00:00:01 on enp1s0: ignored, the command was started less than cool-down ago",
    );
    example.send("02:00:00:00:00:02", "02:00:00:00:00:02: /bin/echo exited with 0");
    assert_eq!((runs(&example), log.count(OTHER)), (2, 0), "{:?}", log.all());
}

/// How many times a command has printed its line.
fn runs(example: &Example<'_>) -> usize {
    example.process.log().all().iter().filter(|line| *line == "ran").count()
}

#[test]
fn an_invalid_configuration_is_an_error() {
    privileged!();
    let host = Host::new();
    for (configuration, error) in [
        ("[[command]]\nmac = \"52:54\"\n", "mac = '52:54' is not a MAC address such as 52:54:00:12:34:56"),
        (
            "[[command]]\nmac = \"02:00:00:00:00:01\"\nrun = \"/bin/true\"\n",
            "run = '/bin/true' is not a list of strings",
        ),
        (
            "[[command]]\nmac = \"02:00:00:00:00:01\"\nrun = [\"true\"]\n",
            "run must be a list that begins with an absolute path",
        ),
        ("[[commands]]\n", "unknown key 'commands'; the file can contain only [[command]] tables"),
        ("[[command]]\nexec = 1\n", "unknown key 'exec'; the keys are: cool-down, interfaces, mac, run"),
    ] {
        let mut process = start(&host, configuration);
        assert_eq!(process.wait_for_exit().code(), Some(1));
        let expected = format!("cannot use /run/commands.toml: {error}");
        // The log can be read after the exit was noticed.
        let _ = process.log().wait_for(&expected);
    }
}
