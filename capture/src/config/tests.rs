use std::fs;
use std::path::Path;

use clap::Parser as _;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::network::links::Interface;

/// Loads the settings from a file with this content and from these options.
fn settings(content: &str, options: &[&str]) -> Result<Settings, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("capture.toml");
    fs::write(&path, content).unwrap();
    load_file(&path, options)
}

fn load_file(path: &Path, options: &[&str]) -> Result<Settings, String> {
    let path = path.to_str().unwrap();
    let line = ["wakevirt-capture", "--config", path].into_iter().chain(options.iter().copied());
    let options = Options::try_parse_from(line).map_err(|error| error.to_string())?;
    Settings::load(&options).map_err(|error| error.to_string())
}

fn assert_default(settings: &Settings) {
    assert_eq!(settings.start.request, Request::Auto);
    assert_eq!(settings.start.ports, [0, 7, 9]);
    assert_eq!(settings.start.outgoing, 0);
    assert!(settings.start.require_landlock);
    assert!(settings.outgoing.is_empty());
    assert_eq!(settings.listen, ["0.0.0.0:9".parse().unwrap(), "[::]:9".parse().unwrap()]);
    assert!(settings.interfaces.includes_all());
    assert_eq!(
        settings.ledger,
        LedgerSettings { deduplicate: Duration::from_secs(2), remember: 256, limit: 100 }
    );
    assert_eq!(settings.log, LogFilter::default());
}

#[test]
fn loads_the_defaults_from_an_empty_file() {
    assert_default(&settings("", &[]).unwrap());
}

#[test]
fn the_example_contains_every_key_with_its_default() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/capture.toml");
    assert_default(&load_file(&example, &[]).unwrap());
    let text = fs::read_to_string(&example).unwrap();
    // The error for an unknown key lists all keys.
    let error = settings("no-such-key = 1", &[]).unwrap_err();
    let (_, keys) = error.split_once("Valid keys here: ").unwrap();
    for key in keys.split(", ") {
        assert!(text.lines().any(|line| line.starts_with(&format!("{key} "))), "{key} is not in the example");
    }
}

#[test]
fn options_override_keys() {
    let file = "mode = \"raw\"\ninterfaces = [\"br0\"]\nlisten = [\"127.0.0.1:4000\"]\nlimit = 7";
    let options = ["--mode", "udp", "--interface", "en*", "--interface", "!en1", "--listen", "[::1]:9"];
    let settings = settings(file, &options).unwrap();
    assert_eq!(settings.start.request, Request::Udp);
    let included = |name: &str| {
        settings.interfaces.includes(&Interface { name: name.to_owned(), alternatives: Vec::new() })
    };
    assert_eq!(["en0", "en1", "br0"].map(included), [true, false, false]);
    assert_eq!(settings.listen, ["[::1]:9".parse().unwrap()]);
    assert_eq!(settings.ledger.limit, 7);
}

#[test]
fn errors_name_the_line_and_the_valid_values() {
    for (content, parts) in [
        ("mode = \"auto\"\nintefaces = []", &[":2:", "intefaces", "interfaces"] as &[&str]),
        ("mode = \"promiscuous\"", &[":1:", "auto", "raw", "udp"]),
        ("\n\ninterfaces = [\"a/b\"]", &[":3:", "a/b"]),
        ("interfaces = [\"br[\"]", &[":1:", "br["]),
        ("interfaces = []", &[":1:", "an empty list", "remove this key"]),
        ("outgoing = [\"br*\"]", &[":1:", "br*", "not a glob"]),
        ("ports = [70000]", &[":1:", "70000"]),
        ("listen = [\"0.0.0.0\"]", &[":1:"]),
        ("deduplicate = \"2 parsecs\"", &[":1:", "parsecs"]),
        ("ports = [9, -1]", &[":1:", "-1", "a whole number from 0 to 65535"]),
        ("outgoing = [\"br{0,1}\"]", &[":1:", "br{0,1}", "not a glob"]),
        ("deduplicate = \"100years\"", &[":1:", "100years", "at most \"1h\""]),
        ("remember = 100000", &[":1:", "100000", "from 1 to 65536"]),
        ("remember = 0", &[":1:", "0", "from 1 to 65536"]),
        ("limit = -1", &[":1:", "-1", "from 0 to 100000"]),
        ("limit = 100001", &[":1:", "from 0 to 100000"]),
        ("log = \"loud\"", &[":1:", "loud", "debug"]),
    ] {
        let error = settings(content, &[]).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{content:?} gives {error:?}, without {part:?}");
        }
    }
    let many = format!("ports = {:?}", (0..65).collect::<Vec<u16>>());
    assert!(settings(&many, &[]).unwrap_err().contains("more than 64 UDP ports"));
}

#[test]
fn a_change_to_the_sniffers_configuration_requires_a_restart() {
    let running = settings("", &[]).unwrap();
    let other = "mode = \"udp\"\nports = [9]\nlimit = 1\ninterfaces = [\"br0\"]\noutgoing = [\"br0\"]";
    assert_eq!(settings(other, &[]).unwrap().keys_that_need_restart(&running), ["mode", "ports", "outgoing"]);
    assert!(running.keys_that_need_restart(&running).is_empty());
}

#[test]
fn shows_a_valid_configuration_file() {
    let text = r#"mode = "udp"
interfaces = ["br0", "!vnet*"]
outgoing = ["br0"]
ports = [9, 4000]
listen = ["127.0.0.1:4000", "[::1]:9"]
deduplicate = "1m 30s"
remember = 7
limit = 0
require-landlock = false
log = "debug""#;
    assert_eq!(settings(text, &[]).unwrap().to_string(), text);
    let defaults = settings("", &[]).unwrap().to_string();
    assert_default(&settings(&defaults, &[]).unwrap());
}

#[test]
fn options_have_the_limits_of_the_keys() {
    let many = |option: &'static str, value: &'static str, count| [option, value].repeat(count);
    assert!(settings("", &many("--interface", "br0", 64)).is_ok());
    let error = settings("", &many("--interface", "br0", 65)).unwrap_err();
    assert_eq!(error, "--interface: given 65 times; the maximum is 64");
    assert!(settings("", &many("--listen", "[::1]:9", 16)).is_ok());
    let error = settings("", &many("--listen", "[::1]:9", 17)).unwrap_err();
    assert_eq!(error, "--listen: given 17 times; the maximum is 16");
    let list = format!("interfaces = {:?}", ["br0"; 65]);
    assert!(settings(&list, &[]).unwrap_err().contains("more than 64 interfaces"));
}

/// Parts of configuration files, valid and invalid.
const PARTS: &[&str] = &[
    "\nmode = ",
    "\ninterfaces = ",
    "\noutgoing = ",
    "\nports = ",
    "\nlisten = ",
    "\ndeduplicate = ",
    "\nremember = ",
    "\nlimit = ",
    "\nrequire-landlock = ",
    "\nlog = ",
    "\n",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    ",",
    "\n[[a]]\n",
    "#",
    "\"raw\"",
    "[\"br0\", \"!vnet*\"]",
    "[\"br0\"]",
    "[\"{a,{b,c}}*\"]",
    "'[a-'",
    "[0, 65535]",
    "[\"[::1]:9\"]",
    "\"1h\"",
    "\"0s\"",
    "\"300000000000years\"",
    "true",
    "-1",
    "0",
    "1",
    "65536",
    "9223372036854775807",
    "1e400",
    "nan",
    "\"debug\"",
    "[[[[[[[[[[[[[[[[",
    "{a={a={a={a={",
    "1979-05-27",
    "\u{202e}",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// Each input either is rejected or yields a configuration that stays the same when it is displayed and parsed
    /// again.
    #[test]
    fn parses_any_parts_without_panic(parts in vec(select(PARTS), 0..24)) {
        if let Ok(file) = toml::from_str::<CaptureFile>(&parts.concat()) {
            let settings = Settings::from(file).to_string();
            let again: CaptureFile = toml::from_str(&settings).unwrap();
            prop_assert_eq!(Settings::from(again).to_string(), settings);
        }
    }

    #[test]
    fn parses_any_text_without_panic(text in "\\PC{0,200}") {
        let _ = toml::from_str::<CaptureFile>(&text);
    }
}
