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
    assert_eq!(config.connection, "qemu:///system");
    assert_eq!(config.log, Level::Info);
    assert!(config.rules.is_empty());
}

#[test]
fn the_example_shows_every_default() {
    let example = std::fs::read_to_string(EXAMPLE).unwrap();
    assert_eq!(load(&example), load(""));
    // Every key is there, as itself or behind a '#'; a new one makes this pattern incomplete.
    let File { connections, log, allow } = toml::from_str(&uncommented(&example)).unwrap();
    assert_eq!(connections, Some(Connections(DEFAULT_URI.to_owned())));
    assert_eq!(log, Some(Level::default()));
    assert!(!allow.is_empty());
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
    assert_eq!(Config::new(file, &options(&["--connect", "test:///default"])).connection, "test:///default");
    let file: File = toml::from_str(r#"connections = ["lxc:///system"]"#).unwrap();
    assert_eq!(Config::new(file, &options(&[])).connection, "lxc:///system");
}

#[test]
fn higher_layers_win_and_rules_accumulate() {
    use config::Layer as _;
    let parse = |text| toml::from_str::<File>(text).unwrap();
    let high = parse("log = \"debug\"\n[[allow]]\ndomain = \"a\"");
    let low = parse("log = \"warn\"\nconnections = [\"lxc:///\"]\n[[allow]]\ndomain = \"b\"");
    let whole = high.over(low);
    assert_eq!(whole.log, Some(Level::Debug));
    assert_eq!(whole.connections, Some(Connections("lxc:///".to_owned())));
    let rules: Vec<String> = whole.allow.iter().map(ToString::to_string).collect();
    assert_eq!(rules, ["domain = \"a\"", "domain = \"b\""]);
}

#[test]
fn errors_name_the_file_the_line_and_what_to_write() {
    for (text, line, says) in [
        ("\nconection = []", 2, "connections"),
        ("connections = []", 1, "no connection"),
        ("connections = [\"a:///\", \"b:///\"]", 1, "exactly one"),
        ("connections = [\"\"]", 1, "empty"),
        ("log = \"loud\"", 1, "info"),
        ("log = \"info\"\n\n[[allow]]\n", 3, "add domain"),
        ("log = \"info\"\n\n[[allow]]\ndomain = \"a\"\nmac = \"*\"", 3, "either domain or mac"),
        ("[[allow]]\ndomain = \"a\"\n[[allow]]\ndomain = \"[\"", 4, "not a glob"),
        ("[[allow]]\ndomain = \"\"", 2, "empty"),
        ("[[allow]]\nmac = \"52:54\"", 2, "not a MAC address"),
        ("[[allow]]\ndomian = \"a\"", 2, "did you mean \"domain\""),
        ("[allow]\ndomain = \"a\"", 1, "allow"),
    ] {
        let error = load(text).unwrap_err();
        assert!(error.starts_with(&format!("FILE:{line}: ")), "{text}: {error}");
        assert!(error.contains(says), "{text}: {error}");
    }
}
