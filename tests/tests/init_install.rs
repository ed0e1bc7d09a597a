//! The commands of INSTALL.md for hosts without systemd: `make install`, its users, an upgrade, and `make uninstall`.
#![expect(clippy::expect_used, reason = "a test may panic")]

use nix::unistd::Pid;
use wakevirt_tests::host::{Host, PROGRAMS, project};
use wakevirt_tests::init::{Init, System};
use wakevirt_tests::privileged;
use wakevirt_tests::project::readme::{blocks_of, commands_of};
use wakevirt_tests::wait;

const ACTOR: &str = "wakevirt-actor";
const CAPTURE: &str = "wakevirt-capture";

/// The directory of the project on the system, which has no make(1).
const PROJECT: &str = "/mnt/project";
/// The directory of the built programs on the system.
const BUILT: &str = "/mnt/build";

/// A booted system with a bus, on which wakevirt is not installed.
fn bare(host: &Host, init: Init) -> System<'_> {
    let mut system = System::new(host, init);
    system.bind(&project().to_string_lossy(), PROJECT);
    system.bind(PROGRAMS, &format!("{BUILT}/programs"));
    match init {
        Init::S6 => system.write("/etc/s6/service/README", ""),
        Init::Shepherd => system.write("/etc/shepherd.scm", ""),
        Init::OpenRc | Init::Runit => {}
    }
    system.write("/etc/wakevirt/actor.toml", "connections = [\"test:///default\"]\n");
    system.boot();
    start_bus(&system);
    system
}

fn start_bus(system: &System<'_>) {
    system.sh("mkdir -p /run/dbus && dbus-daemon --system --fork --nopidfile");
}

/// The page's commands for this init system, for a system without make(1).
fn commands(init: Init) -> String {
    let install = format!("make install INIT={}\n", init.name());
    let blocks = commands_of("docs/INSTALL.md", "Without systemd");
    let block = blocks.into_iter().find(|block| block.starts_with(&install));
    let block = block.expect("the page has commands for this init system");
    block.replace(&install, &make("install", init)).replace("/run/service", "/etc/s6/service")
}

/// What `make TARGET` runs.
fn make(target: &str, init: Init) -> String {
    let variables = format!("INIT={} SCANDIR=/etc/s6/service", init.name());
    format!(
        "(cd {PROJECT} && CARGO_TARGET_DIR={BUILT} PROFILE=programs {variables} scripts/install {target})\n"
    )
}

fn pids(system: &System<'_>) -> [Pid; 2] {
    [ACTOR, CAPTURE].map(|program| system.process(program))
}

fn check(init: Init) {
    let host = Host::new();
    let mut system = bare(&host, init);
    let users = system.sh("getent passwd; getent group");
    assert!(!users.contains(ACTOR), "{users}");
    system.sh(&commands(init));
    system.wait_until("both services on the bus", "wakevirtctl list");
    let _ = pids(&system);
    if init == Init::Shepherd {
        let lines = blocks_of("docs/INSTALL.md", "Without systemd", "scheme").concat();
        system.write("/etc/shepherd.scm", &lines);
    }
    system.reboot();
    start_bus(&system);
    system.wait_until("both services on the bus after a reboot", "wakevirtctl list");
    if init == Init::Shepherd {
        system.wait_until("the rotation of logs", "herd status log-rotation | grep running");
    }
    let first = pids(&system);

    // The users are those of systemd's list. An upgrade creates no further ones.
    let users = system.sh("getent passwd; getent group");
    for line in ["systemd", "systemd/host"].iter().flat_map(|directory| sysusers(directory)) {
        let (kind, name) = line.split_once(' ').expect("a line has two columns");
        let databases: &[&str] = if kind == "u" { &["passwd", "group"] } else { &["group"] };
        for database in databases {
            assert!(system.succeeds(&format!("getent {database} {name}")), "{database} {name}:\n{users}");
        }
    }
    system.sh(&make("install", init));
    assert_eq!(system.sh("getent passwd; getent group"), users);
    let second = wait::until("both services to restart", || {
        let all = [ACTOR, CAPTURE].map(|program| system.processes(program));
        let [actor, capture] = all;
        let now = [*actor.first()?, *capture.first()?];
        (now[0] != first[0] && now[1] != first[1]).then_some(now)
    });
    system.wait_until("both services on the bus", "wakevirtctl list");
    assert_eq!(pids(&system), second, "the services restarted once");

    system.sh(&make("uninstall", init));
    for program in [ACTOR, CAPTURE, "wakevirt-sniffer"] {
        assert_eq!(system.processes(program), [], "{program}");
    }
    let left =
        system.sh("find / -xdev -name '*wakevirt*' ! -path '/mnt/*' ! -path '/proc/*' ! -path '/var/log/*'");
    let left: Vec<_> = left.lines().filter(|path| !path.starts_with("/run/")).collect();
    assert_eq!(left, ["/etc/wakevirt"]);

    if init == Init::OpenRc {
        let output = system.sh(&make("install", init).replace("INIT=openrc", ""));
        assert!(output.contains("run `make uninstall`, and then `make install INIT=openrc`"), "{output}");
    }
}

/// The types and names in the sysusers.d(5) file of this directory.
fn sysusers(directory: &str) -> Vec<String> {
    let files = std::fs::read_dir(project().join(directory)).expect("the directory can be read");
    let files = files.flatten().map(|file| file.path());
    let file = files.into_iter().find(|path| path.to_string_lossy().ends_with(".sysusers.conf"));
    let text = std::fs::read_to_string(file.expect("there is a file")).expect("the file can be read");
    let words = text.lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" "));
    words.filter(|words| words.starts_with("u ") || words.starts_with("g ")).collect()
}

#[test]
#[ignore = "make check-anywhere"]
fn page_installs_upgrades_and_removes_with_openrc() {
    privileged!();
    check(Init::OpenRc);
}

#[test]
#[ignore = "make check-anywhere"]
fn page_installs_upgrades_and_removes_with_runit() {
    privileged!();
    check(Init::Runit);
}

#[test]
#[ignore = "make check-anywhere"]
fn page_installs_upgrades_and_removes_with_s6() {
    privileged!();
    check(Init::S6);
}

#[test]
#[ignore = "make check-anywhere"]
fn page_installs_upgrades_and_removes_with_shepherd() {
    privileged!();
    check(Init::Shepherd);
}
