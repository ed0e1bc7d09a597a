//! The units: systemd accepts them without warnings, and their exposure levels stay within limits.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may panic")]

use std::fs::read_to_string;
use std::path::Path;

use wakevirt_tests::bus::Kind;
use wakevirt_tests::debian::Debian;
use wakevirt_tests::host::{Host, project};
use wakevirt_tests::privileged;

const SERVICES: [&str; 2] = ["wakevirt-capture.service", "wakevirt-actor.service"];
/// The units of the wakevirt-host package.
const HOST: [&str; 5] = [
    "wakevirt-drop-ins.service",
    "wakevirt-host.service",
    "wakevirt-sleep.service",
    "wakevirt-suspend.service",
    "wakevirt-shutdown.service",
];
/// The template units of the wakevirt-host package.
const TEMPLATES: [&str; 2] = ["wakevirt-monitor@.service", "wakevirt-nas@.service"];
const METRICS: [&str; 2] = ["wakevirt-metrics.service", "wakevirt-metrics-textfile.service"];

/// A Debian system with wakevirt installed, which is not booted.
fn installed(host: &Host) -> Debian<'_> {
    let debian = Debian::new(host, Kind::DbusDaemon);
    debian.install();
    debian
}

/// Runs a program on the Debian system, checks that it succeeds, and returns its standard output and standard error.
fn run(debian: &Debian<'_>, line: &[&str]) -> (String, String) {
    let (program, arguments) = line.split_first().expect("a program");
    let output = debian.chroot(program).args(arguments).env("XDG_RUNTIME_DIR", "/tmp").output();
    let output = output.expect("chroot runs");
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("the output is UTF-8"));
    assert!(output.status.success(), "{line:?}:\n{stdout}{stderr}");
    (stdout, stderr)
}

/// Checks that systemd-analyze(1) prints nothing. For an unknown key, it succeeds with a warning.
fn verify(debian: &Debian<'_>, options: &[&str], unit: &str) {
    let line = [&["systemd-analyze"], options, &["verify", "--man=no", unit]].concat();
    assert_eq!(run(debian, &line), (String::new(), String::new()), "{unit}");
}

#[test]
fn systemd_accepts_each_unit() {
    privileged!();
    let host = Host::new();
    let debian = installed(&host);
    let others = [
        "wakevirt-capture.socket",
        "wakevirt-capture-links.socket",
        "wakevirt-metrics.socket",
        "wakevirt-metrics-textfile.timer",
        "wakevirt-host.socket",
    ];
    for unit in SERVICES.iter().chain(&METRICS).chain(&HOST).chain(&others) {
        verify(&debian, &[], unit);
    }
    for template in TEMPLATES.iter().chain(&["wakevirt-prepare@.target", "wakevirt-domain@.target"]) {
        verify(&debian, &[], &template.replace('@', "@win11"));
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
    let directories = project().join("docs/examples/dropins").read_dir().expect("the directory can be read");
    let mut checked = 0;
    for directory in directories.map(|directory| directory.expect("the entry can be read")) {
        let name = directory.file_name().into_string().expect("the name is UTF-8");
        let unit = name.strip_suffix(".d").expect("systemd.unit(5): UNIT.d");
        let files = directory.path().read_dir().expect("the directory can be read");
        for drop_in in files.map(|file| file.expect("the entry can be read").path()) {
            let text = read_to_string(&drop_in).expect("the drop-in can be read");
            let target = format!("/etc/systemd/system/{name}/example.conf");
            debian.write(&target, &text);
            verify(&debian, &[], unit);
            // An invalid key shows that systemd reads the drop-in.
            debian.write(&target, &format!("{text}\nBogus=1\n"));
            let (_, warning) = run(&debian, &["systemd-analyze", "verify", "--man=no", unit]);
            assert!(warning.contains("'Bogus'"), "{} is not read: {warning}", drop_in.display());
            std::fs::remove_file(debian.path(&target)).expect("the drop-in exists");
            checked += 1;
        }
    }
    assert!(checked >= 6, "only {checked} drop-ins were checked");
}

/// The exposure level of systemd-analyze(1), in tenths.
fn exposure(debian: &Debian<'_>, service: &str) -> u32 {
    let (output, _) = run(debian, &["systemd-analyze", "security", "--offline=true", "--no-pager", service]);
    let level = output.split("Overall exposure level for ").nth(1).and_then(|rest| rest.split(' ').nth(1));
    let tenths = level.map(|level| level.replace('.', "")).and_then(|level| level.parse().ok());
    tenths.unwrap_or_else(|| panic!("no exposure level in:\n{output}"))
}

#[test]
fn exposure_levels_are_low() {
    privileged!();
    let host = Host::new();
    let debian = installed(&host);
    let [capture, actor] = SERVICES.map(|service| exposure(&debian, service));
    assert!(capture <= 12, "capture: {capture}");
    assert!(actor <= 5, "actor: {actor}");
    for service in METRICS.iter().chain(&HOST) {
        let exposure = exposure(&debian, service);
        assert!(exposure <= 5, "{service}: {exposure}");
    }
    // One can open the I2C buses, the other listens on the host's network.
    for (template, limit) in TEMPLATES.into_iter().zip([12, 14]) {
        let exposure = exposure(&debian, &template.replace('@', "@win11"));
        assert!(exposure <= limit, "{template}: {exposure}");
    }
}

/// A hardening setting of a unit.
#[derive(Debug, PartialEq)]
struct Setting {
    key: String,
    /// `None` if a comment gives the reason why the setting is missing.
    value: Option<String>,
    /// Whether there is a comment above the setting.
    reason: bool,
}

/// The text of a unit in `systemd/` or `systemd/host/`.
fn unit(name: &str) -> String {
    let of_host = project().join("systemd/host").join(name);
    let path = if of_host.exists() { of_host } else { project().join("systemd").join(name) };
    read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The hardening settings: `KEY=VALUE`, or `# No KEY=: reason`.
fn hardening(service: &str) -> Vec<Setting> {
    let text = unit(service);
    let (_, part) = text.split_once("\n# Hardening\n").expect("the unit has a hardening part");
    let part = part.split("\n[Install]\n").next().unwrap_or_default();
    let mut reason = false;
    let mut settings = Vec::new();
    for line in part.lines().filter(|line| !line.is_empty()) {
        if let Some(missing) = line.strip_prefix("# No ") {
            let (key, text) = missing.split_once("=: ").expect("# No KEY=: reason");
            assert!(!text.is_empty(), "{service}: {line}");
            settings.push(Setting { key: key.to_owned(), value: None, reason: true });
            reason = false;
        } else if line.starts_with('#') {
            reason = true;
        } else {
            let (key, value) = line.split_once('=').expect("KEY=VALUE");
            settings.push(Setting { key: key.to_owned(), value: Some(value.to_owned()), reason });
            reason = false;
        }
    }
    settings
}

#[test]
fn units_have_the_same_hardening_keys_in_the_same_order() {
    let actor = hardening(SERVICES[1]);
    let keys = |settings: &[Setting]| settings.iter().map(|setting| setting.key.clone()).collect::<Vec<_>>();
    for service in [SERVICES[0]].iter().chain(&METRICS).chain(&HOST).chain(&TEMPLATES) {
        let settings = hardening(service);
        assert_eq!(keys(&settings), keys(&actor), "{service}");
        assert!(settings.len() > 30, "{settings:?}");
        let mut explained = false;
        for (other, actor) in settings.iter().zip(&actor).filter(|(other, _)| other.key != "User") {
            if other.value == actor.value {
                explained = false;
                continue;
            }
            // One comment can explain several settings.
            explained |= other.reason || actor.reason;
            assert!(explained, "{service}: no comment explains the difference: {other:?} {actor:?}");
        }
    }
}

#[test]
fn units_limit_their_resources() {
    for name in
        SERVICES.iter().chain(&METRICS).chain(&HOST).chain(&TEMPLATES).chain(&["user/wakevirt-actor.service"])
    {
        let text = unit(name);
        let lines = text.lines();
        for key in ["LimitCORE", "MemoryMax", "TasksMax", "LimitNOFILE"] {
            let is_key = |line: &&str| line.split_once('=').is_some_and(|(name, _)| name == key);
            assert_eq!(lines.clone().filter(is_key).count(), 1, "{name}: {key}=");
        }
    }
}

/// The lines of one of the project's files, without comments and blank lines.
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
        .expect("the unit has an alias, which exists only while the unit is enabled");
    assert!(activation.contains(&format!("SystemdService={alias}")), "{activation:?}");
    assert!(activation.contains(&"Exec=/bin/false".to_owned()), "{activation:?}");
}

#[test]
fn presets_disable_every_unit() {
    for (directory, preset) in [
        ("systemd", "systemd/wakevirt.preset"),
        ("systemd/user", "systemd/wakevirt.user-preset"),
        ("systemd/host", "systemd/host/wakevirt-host.preset"),
    ] {
        let mut preset = statements(preset);
        preset.sort();
        let files = project().join(directory).read_dir().expect("the directory can be read");
        let mut units: Vec<String> = files
            .map(|file| {
                file.expect("the entry can be read").file_name().into_string().expect("the name is UTF-8")
            })
            .filter(|name| {
                let kind = Path::new(name).extension().and_then(|kind| kind.to_str());
                kind.is_some_and(|kind| ["service", "socket", "timer"].contains(&kind))
            })
            .map(|name| format!("disable {name}"))
            .collect();
        units.sort();
        assert_eq!(preset, units);
    }
}

/// The command that checks the configuration on a reload. If it fails, the reload fails.
fn check_on_reload(name: &str) -> Vec<String> {
    let text = unit(name);
    let mut reload = text.lines().filter_map(|line| line.strip_prefix("ExecReload=/"));
    let line = reload.next().unwrap_or_else(|| panic!("{name} does not check the configuration on a reload"));
    format!("/{line}").split(' ').map(str::to_owned).collect()
}

#[test]
fn a_reload_does_not_log_the_settings() {
    privileged!();
    let host = Host::new();
    let debian = installed(&host);
    for unit in SERVICES {
        let line = check_on_reload(unit);
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        assert_eq!(run(&debian, &line), (String::new(), String::new()), "{unit}");
        // Without --quiet, the same command prints all settings.
        let verbose: Vec<&str> = line.iter().copied().filter(|word| *word != "--quiet").collect();
        let (output, _) = run(&debian, &verbose);
        assert!(
            output.contains("The configuration is valid") && output.contains("log = \"info\""),
            "{output}"
        );
    }
    assert!(check_on_reload("user/wakevirt-actor.service").contains(&"--quiet".to_owned()));
}
