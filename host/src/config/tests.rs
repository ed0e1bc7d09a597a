use std::collections::BTreeSet;
use std::io::Write as _;

use super::*;
use crate::sleep::{OnFailure, ShutdownMode, SleepMode};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/host.toml");

/// The configuration from a file with this text.
fn load(text: &str) -> Result<Config, String> {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    Config::load(Some(file.path()), "wakevirt-host").map_err(|error| error.to_string().replace(path, "FILE"))
}

fn settings(text: &str) -> Settings {
    load(text).unwrap().settings_for("win11", None).unwrap()
}

#[test]
fn an_empty_file_selects_no_domain() {
    let config = load("").unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.settings_for("win11", Some(Uuid::nil())), None);
    assert_eq!(
        [config.prepare_wait, config.sleep_wait, config.shutdown_wait].map(|wait| wait.as_secs()),
        [30, 60, 120]
    );
}

#[test]
fn a_table_with_only_a_pattern_prepares_nothing() {
    assert_eq!(settings("[[domain]]\nmatch = \"win*\""), Settings::default());
}

#[test]
fn the_first_table_that_contains_a_key_decides() {
    let text = "[[domain]]\nmatch = \"win11\"\nweight = 900\nprepare = []\nnosleep = false\n\
                [[domain]]\nmatch = \"linux\"\nrequire = true\n\
                [[domain]]\nmatch = \"*\"\nweight = 5\nprepare = [\"isolate\"]\nnosleep = true\nsleep = \"save\"";
    let expected = Settings { weight: Some(900), sleep: Some(SleepMode::Save), ..Settings::default() };
    assert_eq!(settings(text), expected);
    let config = load(text).unwrap();
    let linux = config.settings_for("linux", None).unwrap();
    assert_eq!((linux.require, linux.weight, linux.nosleep), (true, Some(5), Some(Inhibit::Weak)));
}

#[test]
fn later_files_come_first() {
    let parse = |text: &str| toml::from_str::<HostFile>(text).unwrap();
    let lower =
        parse("prepare-wait = \"5s\"\nsleep-wait = \"5s\"\n[[domain]]\nmatch = \"win11\"\nweight = 1");
    let upper = parse("prepare-wait = \"9s\"\n[[domain]]\nmatch = \"win*\"\nweight = 2");
    let config = Config::from(config::Layer::over(upper, lower));
    assert_eq!((config.prepare_wait.as_secs(), config.sleep_wait.as_secs()), (9, 5));
    assert_eq!(config.settings_for("win11", None).unwrap().weight, Some(2));
    assert_eq!(config.patterns().collect::<Vec<_>>(), ["win*", "win11"]);
}

#[test]
fn matches_by_uuid() {
    let config = load("[[domain]]\nmatch = \"6695eb01-f6a4-8304-79aa-97f2502e193f\"").unwrap();
    let uuid = Uuid::from_u128(0x6695_eb01_f6a4_8304_79aa_97f2_502e_193f);
    assert!(config.settings_for("a", Some(uuid)).is_some());
    assert!(config.settings_for("a", None).is_none());
}

#[test]
fn reads_every_key() {
    let text = "[[domain]]\nmatch = \"win11\"\nprepare = [\"isolate\", \"hugepages\", \"compact\"]\nweight = 10000\n\
                require = true\nsleep = \"hibernate\"\non-failure = \"stay-awake\"\nshutdown = \"save\"\n\
                nosleep = \"block\"\nlid = true\n\
                monitor = { serial = \"XYZ123\", vm = 0x11, host = 15, feature = 0xf4 }";
    let monitor = Monitor { id: MonitorId::Serial("XYZ123".to_owned()), vm: 0x11, host: 15, feature: 0xf4 };
    let expected = Settings {
        prepare: BTreeSet::from([Preparation::Hugepages, Preparation::Isolate, Preparation::Compact]),
        weight: Some(10_000),
        require: true,
        sleep: Some(SleepMode::Hibernate),
        on_failure: Some(OnFailure::StayAwake),
        shutdown: Some(ShutdownMode::Save),
        nosleep: Some(Inhibit::Block),
        lid: true,
        monitor: Some(monitor),
    };
    assert_eq!(settings(text), expected);
}

#[test]
fn printed_configuration_loads_to_itself() {
    let example = uncommented(&std::fs::read_to_string(EXAMPLE).unwrap());
    let config = load(&example).unwrap();
    assert_eq!(load(&config.to_string()), Ok(config));
}

#[test]
fn the_example_contains_every_key_with_its_default() {
    let example = std::fs::read_to_string(EXAMPLE).unwrap();
    assert_eq!(load(&example), load(""));
    // A new key makes this pattern incomplete.
    let HostFile { prepare_wait, sleep_wait, shutdown_wait, log, domain } =
        toml::from_str(&uncommented(&example)).unwrap();
    let defaults = Config::default();
    assert_eq!(
        [prepare_wait, sleep_wait, shutdown_wait],
        [defaults.prepare_wait, defaults.sleep_wait, defaults.shutdown_wait]
            .map(|duration| Some(HumanDuration::from(duration)))
    );
    assert_eq!(log, Some(LogFilter::default()));
    let text: String = domain.iter().map(|domain| format!("{domain}\n")).collect();
    for key in
        ["prepare", "weight", "require", "sleep", "on-failure", "shutdown", "nosleep", "lid", "monitor"]
    {
        assert!(text.contains(&format!("\n{key} = ")), "the example does not contain {key}");
    }
}

/// Removes the '#' from commented-out lines: those that begin with '#' without a space.
fn uncommented(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(toml) if !toml.starts_with(' ') => format!("{toml}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[test]
fn errors_name_the_line_and_the_valid_values() {
    let table = |keys: &str| format!("[[domain]]\nmatch = \"a\"\n{keys}");
    for (text, line, expected) in [
        ("prepare-wait = \"121s\"".to_owned(), 1, "at most \"2m\""),
        ("sleep-wait = \"0s\"".to_owned(), 1, "at least \"1s\""),
        ("[[domain]]\nweight = 5".to_owned(), 1, "match = "),
        ("[[domain]]\nmatch = \"\"".to_owned(), 2, "an empty string does not match any domain"),
        (table("weight = 0"), 3, "a whole number from 1 to 10000"),
        (table("prepare = [\"hugepage\"]"), 3, "did you mean \"hugepages\"?"),
        (table("sleep = \"s3\""), 3, "Valid values here: suspend, hibernate, pause, save, shutdown"),
        (table("on-failure = \"awake\""), 3, "Valid values here: stay-awake, sleep"),
        (table("nosleep = \"weak\""), 3, "write true, false or \"block\""),
        (table("require = \"yes\""), 3, "expected a boolean"),
        (table("on_failure = \"sleep\""), 3, "did you mean \"on-failure\"?"),
        (table("monitor = { vm = 1, host = 2 }"), 3, "exactly one of serial, model and bus"),
        (table("monitor = { bus = 1, model = \"a\", vm = 1, host = 2 }"), 3, "exactly one of"),
        (table("monitor = { bus = 1, vm = 1 }"), 3, "vm = … and host = …"),
        (table("monitor = { serial = \"-x\", vm = 1, host = 2 }"), 3, "ddcutil detect"),
        (table("monitor = { bus = 1, vm = 65536, host = 2 }"), 3, "from 0 to 65535"),
    ] {
        let error = load(&text).unwrap_err();
        assert!(error.starts_with(&format!("FILE:{line}: ")) && error.contains(expected), "{text}\n{error}");
    }
}

#[test]
fn limits_the_number_of_tables_and_globs() {
    let tables = |pattern: &str, count| format!("[[domain]]\nmatch = \"{pattern}\"\n").repeat(count);
    assert!(load(&tables("a", MAX_TABLES)).is_ok());
    assert!(load(&tables("a", MAX_TABLES + 1)).unwrap_err().contains("1024 [[domain]] tables"));
    let layer = |count: usize| HostFile {
        domain: toml::from_str::<HostFile>(&tables("a*", count)).unwrap().domain,
        ..HostFile::default()
    };
    let merged = config::Layer::over(layer(600), layer(600));
    assert!(config::Layer::check_limits(&merged).unwrap_err().contains("1024"));
}
