use std::io::Write as _;

use clap::Parser as _;

use super::*;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/actor.toml");

fn options(arguments: &[&str]) -> Options {
    Options::parse_from([&["wakevirt-actor"], arguments].concat())
}

/// The configuration that this text gives, by way of a file.
fn load(text: &str) -> Result<Config, String> {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    Config::load(&options(&["--config", path])).map_err(|error| error.to_string().replace(path, "FILE"))
}

#[test]
fn an_empty_file_is_a_configuration_that_allows_nothing() {
    let config = load("").unwrap();
    assert_eq!(config.connections, ["qemu:///system"]);
    assert_eq!(config.policy.times, Times::default());
    assert_eq!(config.log, Level::Info);
    assert!(config.policy.rules.is_empty());
}

#[test]
fn the_example_shows_every_default() {
    let example = std::fs::read_to_string(EXAMPLE).unwrap();
    assert_eq!(load(&example), load(""));
    // Every key is there, as itself or behind a '#'; a new one makes this pattern incomplete.
    let File { connections, metadata, hold, shutdown_wait, cool_down, log, allow, alias } =
        toml::from_str(&uncommented(&example)).unwrap();
    assert_eq!(connections, Some(Connections(vec![DEFAULT_URI.to_owned()])));
    assert_eq!(log, Some(Level::default()));
    let Times { hold: held, shutdown_wait: waited, cool_down: cooled } = Times::default();
    assert_eq!(metadata, Some(true));
    assert_eq!(
        [hold, shutdown_wait, cool_down],
        [held, waited, cooled].map(|duration| Some(HumanDuration::from(duration)))
    );
    assert!(!allow.is_empty() && !alias.is_empty());
    // And every key of a rule.
    let keys = allow.iter().flat_map(Rule::keys).map(|key| key.split(' ').next().map(str::to_owned));
    let keys: BTreeSet<String> = keys.flatten().collect();
    let all = ["connection", "domain", "interfaces", "mac", "paused", "secure-on", "sources"];
    assert_eq!(keys.iter().map(String::as_str).collect::<Vec<_>>(), all);
}

/// The file with what is commented out: '#' and, without a blank, TOML.
fn uncommented(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(toml) if !toml.starts_with(' ') => format!("{toml}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[test]
fn options_go_before_the_files() {
    let file: File = toml::from_str(r#"connections = ["lxc:///system"]"#).unwrap();
    assert_eq!(
        Config::new(file, &options(&["--connect", "test:///default"])).connections,
        ["test:///default"]
    );
    let file: File = toml::from_str(r#"connections = ["lxc:///system"]"#).unwrap();
    assert_eq!(Config::new(file, &options(&[])).connections, ["lxc:///system"]);
}

#[test]
fn higher_layers_win_and_rules_accumulate() {
    use config::Layer as _;
    let parse = |text| toml::from_str::<File>(text).unwrap();
    let high = parse("log = \"debug\"\n[[allow]]\ndomain = \"a\"");
    let low = parse("log = \"warn\"\nconnections = [\"lxc:///\"]\n[[allow]]\ndomain = \"b\"");
    let whole = high.over(low);
    assert_eq!(whole.log, Some(Level::Debug));
    assert_eq!(whole.connections, Some(Connections(vec!["lxc:///".to_owned()])));
    let rules: Vec<String> = whole.allow.iter().map(ToString::to_string).collect();
    assert_eq!(rules, ["domain = \"a\"", "domain = \"b\""]);
}

#[test]
fn errors_name_the_file_the_line_and_what_to_write() {
    for (text, line, says) in [
        ("\nconection = []", 2, "connections"),
        ("connections = []", 1, "no connection"),
        ("connections = [\"a:///\", \"a:///\"]", 1, "twice"),
        ("connections = [\"\"]", 1, "empty"),
        ("log = \"loud\"", 1, "info"),
        ("log = \"info\"\n\n[[allow]]\n", 3, "add domain"),
        ("log = \"info\"\n\n[[allow]]\ndomain = \"a\"\nmac = \"*\"", 3, "either domain or mac"),
        ("[[allow]]\ndomain = \"a\"\n[[allow]]\ndomain = \"[\"", 4, "not a glob"),
        ("[[allow]]\ndomain = \"\"", 2, "empty"),
        ("[[allow]]\nmac = \"52:54\"", 2, "not a MAC address"),
        ("[[allow]]\ndomian = \"a\"", 2, "did you mean \"domain\""),
        ("[[allow]]\ndomain = \"a\"\ninterfaces = [\"!b\"]", 3, "not an interface"),
        ("[[allow]]\ndomain = \"a\"\nsources = [\"192.168.1.0/33\"]", 3, "neither a network"),
        ("[[allow]]\ndomain = \"a\"\nsecure-on = \"01:02:03:04:05:06\"", 3, "absolute path"),
        ("[[allow]]\ndomain = \"a\"\npaused = \"stay\"", 3, "resume, leave"),
        ("[[alias]]\nmac = \"52:54:*\"\ndomain = \"a\"", 2, "not a MAC address"),
        ("cool_down = \"5s\"", 1, "did you mean \"cool-down\""),
        ("hold = \"60\"", 1, "a duration with its unit"),
        ("[allow]\ndomain = \"a\"", 1, "allow"),
    ] {
        let error = load(text).unwrap_err();
        assert!(error.starts_with(&format!("FILE:{line}: ")), "{text}: {error}");
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn shows_what_could_be_written() {
    let text = r#"connections = ["a:///", "b:///"]
metadata = false
hold = "2m"
shutdown-wait = "1s"
cool-down = "0s"
log = "debug"

[[allow]]
domain = "a"
interfaces = ["br0"]
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
