use std::io::Write as _;

use clap::Parser as _;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/actor.toml");

fn options(arguments: &[&str]) -> Options {
    Options::parse_from([&["wakevirt-actor"], arguments].concat())
}

/// The configuration from a file with this text.
fn load(text: &str) -> Result<Config, String> {
    load_for(&Program::TEST, text)
}

/// The configuration of this program from a file with this text.
fn load_for(program: &Program, text: &str) -> Result<Config, String> {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    let mut config = Config::load(&options(&["--config", path]), program)
        .map_err(|error| error.to_string().replace(path, "FILE"))?;
    assert_eq!(config.policy.file, file.path());
    config.policy.file = FILE.into();
    Ok(config)
}

#[test]
fn an_empty_file_allows_nothing() {
    let config = load("").unwrap();
    assert_eq!(config.connections, ["qemu:///system"]);
    assert_eq!(config.policy.timing, Timing::default());
    assert_eq!(config.log, LogFilter::default());
    assert!(config.policy.rules.is_empty());
}

#[test]
fn reads_a_directory_with_drop_ins() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let load = || {
        let config = Config::load(&options(&["--config-dir", path.to_str().unwrap()]), &Program::TEST);
        config.map_err(|error| error.to_string())
    };
    let config = load().unwrap();
    assert!(config.policy.rules.is_empty());
    assert_eq!(config.policy.file, path.join("actor.toml"));
    std::fs::write(path.join("actor.toml"), "hold = \"7s\"\n[[allow]]\ndomain = \"a\"\n").unwrap();
    std::fs::create_dir(path.join("actor.d")).unwrap();
    std::fs::write(path.join("actor.d/50-allow-b.toml"), "[[allow]]\ndomain = \"b\"\n").unwrap();
    let config = load().unwrap();
    assert_eq!((config.policy.rules.iter().count(), config.policy.timing.hold.as_secs()), (2, 7));
    std::fs::remove_dir_all(path).unwrap();
    let error = load().unwrap_err();
    assert!(error.contains("cannot read") && error.contains("No such file or directory"), "{error}");
    assert!(Options::try_parse_from(["wakevirt-actor", "--config", "/a", "--config-dir", "/b"]).is_err());
}

#[test]
fn the_example_contains_every_key_with_its_default() {
    let example = std::fs::read_to_string(EXAMPLE).unwrap();
    assert_eq!(load(&example), load(""));
    // The example contains every key; some of them are commented out. A new key makes this pattern incomplete.
    let ActorFile {
        connections,
        metadata,
        hold,
        shutdown_wait,
        cool_down,
        namespace_selector,
        vm_selector,
        metadata_namespaces,
        start_wait,
        cluster_key: _,
        autostart,
        autostart_file: _,
        log,
        allow,
        alias,
    } = toml::from_str(&uncommented(&example)).unwrap();
    assert_eq!(connections, Some(Connections(vec![Program::TEST.uri.to_owned()])));
    assert_eq!(log, Some(LogFilter::default()));
    let defaults = Timing::default();
    assert_eq!((metadata, autostart), (Some(true), Some(Vec::new())));
    assert_eq!(
        [hold, shutdown_wait, cool_down],
        [defaults.hold, defaults.shutdown_wait, defaults.cool_down]
            .map(|duration| Some(HumanDuration::from(duration)))
    );
    // The keys of a cluster are in another example.
    assert_eq!((namespace_selector, vm_selector, metadata_namespaces, start_wait), (None, None, None, None));
    assert!(!allow.is_empty() && !alias.is_empty());
    // It also contains every key of a rule.
    let keys = allow
        .iter()
        .flat_map(|rule| rule.get_ref().keys())
        .map(|key| key.split(' ').next().map(str::to_owned));
    let keys: BTreeSet<String> = keys.flatten().collect();
    let all = ["connection", "domain", "interfaces", "mac", "paused", "secure-on", "sources", "vlans"];
    assert_eq!(keys.iter().map(String::as_str).collect::<Vec<_>>(), all);
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
fn rules_and_aliases_know_their_lines() {
    let text = "log = \"info\"\n\n# one\n[[allow]]\ndomain = \"a\"\n[[alias]]\nmac = \"52:54:00:00:00:01\"\n\
                domain = \"a\"\n\n[[allow]]\n\ndomain = \"b\"";
    let policy = load(text).unwrap().policy;
    let line = |origin: Option<&Origin>| origin.filter(|it| it.file.is_absolute()).map(|it| it.line);
    let lines = |policy: &Policy| policy.rules.iter().map(|rule| line(rule.origin())).collect::<Vec<_>>();
    assert_eq!(lines(&policy), [Some(4), Some(10)]);
    assert_eq!(line(policy.aliases[0].origin()), Some(6));
    let inline = load("allow = [\n  {domain = \"a\"},\n  {domain = \"b\"},\n]").unwrap().policy;
    assert_eq!(lines(&inline), [Some(2), Some(3)]);
}

#[test]
fn options_override_files() {
    let file: ActorFile = toml::from_str(r#"connections = ["lxc:///system"]"#).unwrap();
    assert_eq!(
        Config::new(file, &options(&["--connect", "test:///default"]), &Program::TEST).connections,
        ["test:///default"]
    );
    let file: ActorFile = toml::from_str(r#"connections = ["lxc:///system"]"#).unwrap();
    assert_eq!(Config::new(file, &options(&[]), &Program::TEST).connections, ["lxc:///system"]);
}

#[test]
fn higher_layers_win_and_rules_accumulate() {
    use config::Layer as _;
    let parse = |text| toml::from_str::<ActorFile>(text).unwrap();
    let high = parse("log = \"debug\"\n[[allow]]\ndomain = \"a\"");
    let low = parse("log = \"warn\"\nconnections = [\"lxc:///\"]\n[[allow]]\ndomain = \"b\"");
    let whole = high.over(low);
    assert_eq!(whole.log, Some("debug".parse().unwrap()));
    assert_eq!(whole.connections, Some(Connections(vec!["lxc:///".to_owned()])));
    let rules: Vec<String> = whole.allow.iter().map(ToString::to_string).collect();
    assert_eq!(rules, ["domain = \"a\"", "domain = \"b\""]);
}

#[test]
fn errors_name_the_file_the_line_and_the_solution() {
    for (text, line, part) in [
        ("\nconection = []", 2, "connections"),
        ("connections = []", 1, "the list is empty"),
        ("connections = [\"a:///\", \"a:///\"]", 1, "twice"),
        ("connections = [\"\"]", 1, "empty"),
        ("log = \"loud\"", 1, "info"),
        ("log = \"info,wakevirt-actor=debug\"", 1, "\"wakevirt-actor\" is not a log target"),
        ("log = \"info,wakevirt_actor=loud\"", 1, "\"loud\" is not a log level"),
        ("log = \"info\"\n\n[[allow]]\n", 3, "add domain"),
        ("log = \"info\"\n\n[[allow]]\ndomain = \"a\"\nmac = \"*\"", 3, "cannot contain both domain and mac"),
        ("[[allow]]\ndomain = \"a\"\n[[allow]]\ninterfaces = [\"[\"]", 4, "not a glob"),
        ("[[allow]]\ndomain = \"{{{{{{{{{{{{{{{{{\"", 2, "17 groups in braces; the maximum is 16"),
        (
            "[[alias]]\nmac = \"52:54:00:00:00:01\"\ndomain = \"{{{{{{{{{{{{{{{{{\"",
            3,
            "17 groups in braces; the maximum is 16",
        ),
        ("[[allow]]\ndomain = \"a\"\nconnection = \"a\\nb\"", 3, "control character"),
        ("[[allow]]\ndomain = \"a\"\nsecure-on = \"/a\\u0000b\"", 3, "control character"),
        ("connections = [\"a\\u001bb\"]", 1, "control character"),
        ("hold = \"0s\"", 1, "the duration must be at least \"1s\""),
        ("hold = \"300000000000years\"", 1, "the duration must be at most \"7days\""),
        ("shutdown-wait = \"2days\"", 1, "the duration must be at most \"1day\""),
        ("cool-down = \"25h\"", 1, "the duration must be at most \"1day\""),
        ("autostart = [\"a\", \"\"]", 1, "a name is empty"),
        ("autostart = [\"a\\nb\"]", 1, "control character"),
        ("[[allow]]\ndomain = \"\"", 2, "empty"),
        ("[[allow]]\nmac = \"52:54\"", 2, "not a MAC address"),
        ("[[allow]]\ndomian = \"a\"", 2, "did you mean \"domain\""),
        ("[[allow]]\ndomain = \"a\"\ninterfaces = [\"!b\"]", 3, "cannot exclude interfaces"),
        ("[[allow]]\ndomain = \"a\"\ninterfaces = [\"a/b\"]", 3, "a name has at most 127 bytes"),
        ("[[allow]]\ndomain = \"a\"\nsources = [\"192.168.1.0/33\"]", 3, "neither a network"),
        ("[[allow]]\ndomain = \"a\"\nvlans = [10, 4095]", 3, "a whole number from 0 to 4094"),
        ("[[allow]]\ndomain = \"a\"\nvlans = [-1]", 3, "a whole number from 0 to 4094"),
        ("[[allow]]\ndomain = \"a\"\nvlans = [\"10\"]", 3, "a whole number from 0 to 4094"),
        ("[[allow]]\ndomain = \"a\"\nvlans = []", 1, "an empty list matches nothing"),
        ("[[allow]]\ndomain = \"a\"\nsecure-on = \"01:02:03:04:05:06\"", 3, "absolute path"),
        ("[[allow]]\ndomain = \"a\"\npaused = \"stay\"", 3, "resume, leave"),
        ("[[alias]]\nmac = \"52:54:*\"\ndomain = \"a\"", 2, "not a MAC address"),
        ("cool_down = \"5s\"", 1, "did you mean \"cool-down\""),
        ("hold = \"60\"", 1, "a duration with a unit"),
        ("[allow]\ndomain = \"a\"", 1, "allow"),
    ] {
        let error = load(text).unwrap_err();
        assert!(error.starts_with(&format!("FILE:{line}: ")), "{text}: {error}");
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn shows_a_valid_configuration_file() {
    let text = r#"connections = ["a:///", "b:///"]
metadata = false
autostart = ["win[1]", "6695eb01-f6a4-8304-79aa-97f2502e193f"]
hold = "2m"
shutdown-wait = "1s"
cool-down = "0s"
log = "debug,wakevirt_actor::engine=trace"

[[allow]]
domain = "a"
interfaces = ["br0"]
vlans = [0, 10]
sources = ["10.0.0.0/8"]
paused = "leave"

[[alias]]
mac = "d8:5e:d3:00:00:01"
domain = "win11""#;
    assert_eq!(load(text).unwrap().to_string(), text);
}

#[test]
fn a_password_that_cannot_be_read_is_an_error() {
    let error = load("[[allow]]\ndomain = \"a\"\nsecure-on = \"/no/such/file\"").unwrap_err();
    assert!(error.starts_with("/no/such/file: "), "{error}");
}

#[test]
fn limits_the_length_of_lists() {
    let uris: Vec<String> = (0..17).map(|number| format!("a:///{number}")).collect();
    for (text, limit) in [
        (format!("connections = {uris:?}"), "17 connections; the maximum is 16"),
        (format!("connections = [\"{}\"]", "a".repeat(1025)), "has 1025 bytes; the maximum is 1024"),
        ("[[allow]]\ndomain = \"a\"\n".repeat(1025), "more than 1024 [[allow]] tables"),
        (
            "[[alias]]\nmac = \"52:54:00:00:00:01\"\ndomain = \"a\"\n".repeat(1025),
            "more than 1024 [[alias]] tables",
        ),
        (format!("[[allow]]\ndomain = \"a\"\nsecure-on = \"/{}\"", "a".repeat(4095)), "the maximum is 4095"),
    ] {
        let error = load(&text).unwrap_err();
        assert!(error.starts_with("FILE:") && error.contains(limit), "{error}");
    }
    let options = options(&["--connect", "a:///", "--connect", "a:///"]);
    let error = Config::load(&options, &Program::TEST).unwrap_err().to_string();
    assert_eq!(error, "--connect: the list contains a URI twice; write it once");
}

#[test]
fn limits_apply_to_all_files_together() {
    use config::Layer as _;
    let parse = |count| toml::from_str::<ActorFile>(&"[[allow]]\ndomain = \"a\"\n".repeat(count)).unwrap();
    assert!(parse(1000).over(parse(24)).check_limits().is_ok());
    let error = parse(1000).over(parse(25)).check_limits().unwrap_err();
    assert!(error.contains("more than 1024 [[allow]] tables"), "{error}");
    let globs = |count, last| {
        let rule = "[[allow]]\ndomain = \"a*\"\ninterfaces = [\"eth*\", \"br0\"]\n".repeat(count);
        toml::from_str::<ActorFile>(&format!(
            "{rule}[[alias]]\nmac = \"52:54:00:00:00:01\"\ndomain = \"{last}\"\n"
        ))
        .unwrap()
    };
    assert!(globs(512, "b").check_limits().is_ok());
    let error = globs(512, "b*").check_limits().unwrap_err();
    assert!(error.contains("more than 1024 globs"), "{error}");
}

/// A glob takes far more memory than its text.
#[test]
fn stops_reading_a_file_with_too_many_globs() {
    let rule =
        |globs: usize| format!("[[allow]]\ndomain = \"a\"\ninterfaces = [{}]\n", "\"eth*\",".repeat(globs));
    let parse = |text: &str| toml::from_str::<ActorFile>(text).map_err(|error| error.to_string());
    assert!(parse(&rule(32).repeat(32)).is_ok());
    // The parser would reject this table.
    let unread = "[[allow]]\nno-key = 1\n";
    let error = parse(&(rule(32).repeat(32) + &rule(1) + unread)).unwrap_err();
    assert!(error.contains("more than 1024 globs in [[allow]] tables"), "{error}");
}

/// Parts of configuration files, valid and invalid.
const PARTS: &[&str] = &[
    "\n[[allow]]\n",
    "\n[[alias]]\n",
    "\n",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    ",",
    " = ",
    "\nhold = ",
    "\nshutdown-wait = ",
    "\ncool-down = ",
    "\nlog = ",
    "\nmetadata = ",
    "\nconnections = ",
    "\ndomain = ",
    "\nmac = ",
    "\nconnection = ",
    "\ninterfaces = ",
    "\nsources = ",
    "\nsecure-on = ",
    "\npaused = ",
    "\"60s\"",
    "\"7days\"",
    "\"300000000000years\"",
    "\"0s\"",
    "\"1ns\"",
    "true",
    "-1",
    "0",
    "9223372036854775807",
    "1e400",
    "nan",
    "\"a\"",
    "\"win[1]\"",
    "\"{a,{b,c}}*\"",
    "'[a-'",
    "\"\\u0000\"",
    "\"52:54:00:*\"",
    "\"52:54:00:00:00:01\"",
    "[\"br0\", \"eth*\"]",
    "[\"10.0.0.0/8\"]",
    "[\"::/0\"]",
    "\"/a/b\"",
    "\"credential:x\"",
    "\"leave\"",
    "\"debug\"",
    "[[[[[[[[[[[[[[[[",
    "{a={a={a={a={",
    "1979-05-27",
    "'''",
    "\"\"\"",
    "#",
    "\u{202e}",
    "\n[[allow]]\ndomain = \"a\"\n",
    "autostart = [\"a\"]\n",
    "\n[[alias]]\nmac = \"52:54:00:00:00:01\"\ndomain = \"a\"\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// Each input is either rejected, or gives a configuration that is the same after it is displayed and parsed again.
    #[test]
    fn does_not_panic_on_any_parts(parts in vec(select(PARTS), 0..24)) {
        if let Ok(file) = toml::from_str::<ActorFile>(&parts.concat()) {
            let config = Config::new(file, &options(&[]), &Program::TEST);
            let again: ActorFile = toml::from_str(&config.to_string()).unwrap();
            prop_assert_eq!(Config::new(again, &options(&[]), &Program::TEST), config);
        }
    }

    #[test]
    fn does_not_panic_on_any_text(text in "\\PC{0,200}") {
        let _ = toml::from_str::<ActorFile>(&text);
    }
}

/// Also long strings, and characters that a terminal does not show.
#[test]
fn displays_any_string_as_toml() {
    for text in [&"x".repeat(1000), "e\u{301}", "a\u{200b}b", "\\\"'", "\u{e0041}"] {
        let text = toml_string(text);
        let file = format!(
            "connections = [{text}]\nvm-selector = {text}\n\n[[allow]]\nmac = \"*\"\nconnection = {text}"
        );
        let shown = load_for(&Program::CLUSTER, &file).unwrap().to_string();
        assert_eq!(load_for(&Program::CLUSTER, &shown).unwrap().to_string(), shown);
        assert_eq!(shown.matches(&text.to_string()).count(), 3, "{shown}");
    }
}

#[test]
fn the_program_for_a_cluster_rejects_autostart() {
    let error = load_for(&Program::CLUSTER, "autostart = [\"web/vm1\"]").unwrap_err();
    assert!(error.starts_with("FILE: the key autostart is for wakevirt-actor; remove it: "), "{error}");
}

#[test]
fn only_the_program_for_a_cluster_accepts_its_keys() {
    for (text, key) in [
        ("namespace-selector = \"wake=true\"", "namespace-selector"),
        ("vm-selector = \"wake=true\"", "vm-selector"),
        ("metadata-namespaces = [\"web\"]", "metadata-namespaces"),
        ("start-wait = \"2min\"", "start-wait"),
        ("[[allow]]\ndomain = \"web/vm1\"\nlabels = { app = \"web\" }", "labels in the rule in line 1"),
        ("[[allow]]\ndomain = \"web/vm1\"\nhalted = \"leave\"", "halted in the rule in line 1"),
    ] {
        let error = load(text).unwrap_err();
        let expected = format!(
            "FILE: the key {key} is for wakevirt-kubevirt; remove it: wakevirt-actor does not use it"
        );
        assert_eq!(error, expected);
        let config = load_for(&Program::CLUSTER, text).unwrap();
        let again = load_for(&Program::CLUSTER, &config.to_string()).unwrap();
        assert_eq!(again.to_string(), config.to_string(), "{text}");
    }
    assert_eq!(load("connections = [\"kubevirt://\"]").unwrap_err(), "connections: another program");
    for text in ["metadata-namespaces = [\"web-*\"]", "vm-selector = \"\"", "start-wait = \"0s\""] {
        load_for(&Program::CLUSTER, text).unwrap_err();
    }
}
