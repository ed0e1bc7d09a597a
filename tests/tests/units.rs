//! The units as systemd reads them: without a complaint, and with no more exposure than was measured.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may panic")]

use std::fs::read_to_string;
use std::path::Path;

use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::Debian;
use wakevirt_tests::host::{Host, project};
use wakevirt_tests::privileged;

const SERVICES: [&str; 2] = ["wakevirt-capture.service", "wakevirt-actor.service"];

/// A Debian with what belongs to wakevirt, which does not run.
fn installed(host: &Host) -> Debian<'_> {
    let debian = Debian::new(host, Kind::DbusDaemon);
    debian.install();
    debian
}

/// Runs a program of the Debian's in its root, and returns what it wrote to standard output and to
/// standard error, if it succeeded.
fn run(debian: &Debian<'_>, line: &[&str]) -> (String, String) {
    let (program, arguments) = line.split_first().expect("a program");
    let output = debian.chroot(program).args(arguments).env("XDG_RUNTIME_DIR", "/tmp").output();
    let output = output.expect("chroot runs");
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("it is text"));
    assert!(output.status.success(), "{line:?}:\n{stdout}{stderr}");
    (stdout, stderr)
}

/// systemd-analyze(1) succeeds where it does not know a key, and says so.
fn verify(debian: &Debian<'_>, options: &[&str], unit: &str) {
    let line = [&["systemd-analyze"], options, &["verify", "--man=no", unit]].concat();
    assert_eq!(run(debian, &line), (String::new(), String::new()), "{unit}");
}

#[test]
fn systemd_accepts_each_unit() {
    privileged!();
    let host = Host::new();
    let debian = installed(&host);
    for unit in SERVICES.iter().chain(&["wakevirt-capture.socket", "wakevirt-capture-links.socket"]) {
        verify(&debian, &[], unit);
    }
    for unit in ["wakevirt-actor.service", "wakevirt-libvirtd.service"] {
        verify(&debian, &["--user"], unit);
    }
}

#[test]
fn systemd_accepts_each_drop_in() {
    privileged!();
    let host = Host::new();
    let debian = installed(&host);
    let folders = project().join("docs/examples/dropins").read_dir().expect("the drop-ins");
    let mut seen = 0;
    for folder in folders.map(|folder| folder.expect("a folder")) {
        let name = folder.file_name().into_string().expect("the name of a unit");
        let unit = name.strip_suffix(".d").expect("systemd.unit(5): UNIT.d");
        for drop_in in folder.path().read_dir().expect("drop-ins").map(|file| file.expect("a file").path()) {
            let text = read_to_string(&drop_in).expect("a drop-in");
            let target = format!("/etc/systemd/system/{name}/example.conf");
            debian.write(&target, &text);
            verify(&debian, &[], unit);
            // That a drop-in was read at all shows when it is wrong.
            debian.write(&target, &format!("{text}\nBogus=1\n"));
            let (_, complaint) = run(&debian, &["systemd-analyze", "verify", "--man=no", unit]);
            assert!(complaint.contains("'Bogus'"), "{} is not read: {complaint}", drop_in.display());
            std::fs::remove_file(debian.path(&target)).expect("the drop-in was there");
            seen += 1;
        }
    }
    assert!(seen >= 6, "only {seen} drop-ins");
}

/// In tenths, as systemd-analyze(1) tells it.
fn exposure(debian: &Debian<'_>, service: &str) -> u32 {
    let (told, _) = run(debian, &["systemd-analyze", "security", "--offline=true", "--no-pager", service]);
    let level = told.split("Overall exposure level for ").nth(1).and_then(|rest| rest.split(' ').nth(1));
    let tenths = level.map(|level| level.replace('.', "")).and_then(|level| level.parse().ok());
    tenths.unwrap_or_else(|| panic!("no level:\n{told}"))
}

#[test]
fn exposure_levels_are_low() {
    privileged!();
    let host = Host::new();
    let debian = installed(&host);
    let [capture, actor] = SERVICES.map(|service| exposure(&debian, service));
    assert!(capture <= 12, "capture: {capture}");
    assert!(actor <= 5, "actor: {actor}");
}

/// A line of a unit that is about hardening.
#[derive(Debug, PartialEq)]
struct Line {
    key: String,
    /// `None` where a comment says why it is missing.
    value: Option<String>,
    /// Whether a comment stands above it.
    reason: bool,
}

/// The lines about hardening: `KEY=VALUE`, or `# No KEY=: reason`.
fn hardening(service: &str) -> Vec<Line> {
    let text = read_to_string(project().join("systemd").join(service)).expect("the unit");
    let (_, part) = text.split_once("\n# Hardening\n").expect("a part about hardening");
    let (part, _) = part.split_once("\n[Install]\n").expect("a part about installation");
    let mut reason = false;
    let mut lines = Vec::new();
    for line in part.lines().filter(|line| !line.is_empty()) {
        if let Some(missing) = line.strip_prefix("# No ") {
            let (key, why) = missing.split_once("=: ").expect("# No KEY=: why");
            assert!(!why.is_empty(), "{service}: {line}");
            lines.push(Line { key: key.to_owned(), value: None, reason: true });
            reason = false;
        } else if line.starts_with('#') {
            reason = true;
        } else {
            let (key, value) = line.split_once('=').expect("KEY=VALUE");
            lines.push(Line { key: key.to_owned(), value: Some(value.to_owned()), reason });
            reason = false;
        }
    }
    lines
}

#[test]
fn units_have_the_same_hardening_keys_in_one_order() {
    let [capture, actor] = SERVICES.map(hardening);
    let keys = |lines: &[Line]| lines.iter().map(|line| line.key.clone()).collect::<Vec<_>>();
    assert_eq!(keys(&capture), keys(&actor));
    assert!(capture.len() > 30, "{capture:?}");
    let mut explained = false;
    for (capture, actor) in capture.iter().zip(&actor).filter(|(capture, _)| capture.key != "User") {
        if capture.value == actor.value {
            explained = false;
            continue;
        }
        // One comment may be for several lines that differ.
        explained |= capture.reason || actor.reason;
        assert!(explained, "no comment says why they differ: {capture:?} {actor:?}");
    }
}

#[test]
fn units_limit_their_resources() {
    for unit in ["wakevirt-capture.service", "wakevirt-actor.service", "user/wakevirt-actor.service"] {
        let lines = statements(&format!("systemd/{unit}"));
        for key in ["LimitCORE", "MemoryMax", "TasksMax", "LimitNOFILE"] {
            let set =
                lines.iter().filter(|line| line.split_once('=').is_some_and(|(name, _)| name == key)).count();
            assert_eq!(set, 1, "{unit}: {key}=");
        }
    }
}

/// The lines of a file of the project, without comments and blank ones.
fn statements(file: &str) -> Vec<String> {
    let text = read_to_string(project().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn the_bus_starts_only_an_enabled_actor() {
    let activation = statements("dbus/org.wakevirt.Actor1.service");
    let alias = statements("systemd/wakevirt-actor.service")
        .iter()
        .find_map(|line| line.strip_prefix("Alias=").map(str::to_owned))
        .expect("an alias, which is there only while the unit is enabled");
    assert!(activation.contains(&format!("SystemdService={alias}")), "{activation:?}");
    assert!(activation.contains(&"Exec=/bin/false".to_owned()), "{activation:?}");
}

#[test]
fn presets_disable_every_unit() {
    for (folder, preset) in
        [("systemd", "systemd/wakevirt.preset"), ("systemd/user", "systemd/wakevirt.user-preset")]
    {
        let mut preset = statements(preset);
        preset.sort();
        let files = project().join(folder).read_dir().expect("the units");
        let mut units: Vec<String> = files
            .map(|file| file.expect("a file").file_name().into_string().expect("a name"))
            .filter(|name| Path::new(name).extension().is_some_and(|it| it == "service" || it == "socket"))
            .map(|name| format!("disable {name}"))
            .collect();
        units.sort();
        assert_eq!(preset, units);
    }
}

/// The program by which a unit checks the configuration on a reload: a mistake fails the reload.
fn check_on_reload(unit: &str) -> Vec<String> {
    let text = read_to_string(project().join("systemd").join(unit)).expect("the unit is there");
    let mut reload = text.lines().filter_map(|line| line.strip_prefix("ExecReload=/"));
    let line = reload.next().unwrap_or_else(|| panic!("{unit} checks nothing on a reload"));
    format!("/{line}").split(' ').map(str::to_owned).collect()
}

#[test]
fn a_reload_logs_no_list_of_settings() {
    privileged!();
    let host = Host::new();
    let debian = installed(&host);
    for unit in SERVICES {
        let line = check_on_reload(unit);
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        assert_eq!(run(&debian, &line), (String::new(), String::new()), "{unit}");
        // By hand the same check shows every setting.
        let by_hand: Vec<&str> = line.iter().copied().filter(|word| *word != "--quiet").collect();
        let (shown, _) = run(&debian, &by_hand);
        assert!(shown.contains("The configuration is good") && shown.contains("log = \"info\""), "{shown}");
    }
    assert!(check_on_reload("user/wakevirt-actor.service").contains(&"--quiet".to_owned()));
}
