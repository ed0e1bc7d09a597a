use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::str::FromStr;

use nix::sys::stat::Mode;
use serde::{Deserialize, Deserializer};
use tempfile::TempDir;
use wakevirt_tests::host::guard;

use super::*;
use crate::logs::Level;

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Sample {
    interfaces: Option<Vec<String>>,
    cool_down: Option<HumanDuration>,
    limit: Option<u32>,
    log: Option<Level>,
    allow: Vec<Rule>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Rule {
    mac: Mac,
    sources: Option<Vec<Mac>>,
}

#[derive(Debug, PartialEq)]
struct Mac(String);

impl FromStr for Mac {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() == 17 { Ok(Self(text.to_owned())) } else { Err("a MAC address is six pairs of digits") }
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a MAC address")
    }
}

impl Layer for Sample {
    const SERVICE: &'static str = "sample";

    fn over(self, mut lower: Self) -> Self {
        lower.allow.extend(self.allow);
        Self {
            interfaces: self.interfaces.or(lower.interfaces),
            cool_down: self.cool_down.or(lower.cool_down),
            limit: self.limit.or(lower.limit),
            log: self.log.or(lower.log),
            allow: lower.allow,
        }
    }

    fn check_limits(&self) -> Result<(), String> {
        if self.allow.len() > MAX_RULES { Err(format!("allow: more than {MAX_RULES} rules")) } else { Ok(()) }
    }
}

const MAX_RULES: usize = 5;

/// A temporary directory. Only the owner of its files can write to them, with any umask.
struct Directory(TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        let parent = path.parent().unwrap();
        fs::create_dir_all(parent).unwrap();
        for directory in parent.ancestors().take_while(|directory| *directory != self.0.path()) {
            fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        path
    }
}

fn explicit(path: &Path) -> Result<Sample, String> {
    load(Some(path), Uid::effective()).map_err(|error| error.to_string())
}

/// The error for a file with this content, without the directory in the path.
fn error_for(content: impl AsRef<[u8]>) -> String {
    let directory = Directory::new();
    let path = directory.write("sample.toml", content);
    let prefix = format!("{}/", directory.0.path().display());
    explicit(&path).unwrap_err().replace(&prefix, "")
}

#[test]
fn loads_the_defaults_without_any_file() {
    let directory = Directory::new();
    let roots = [&*directory.path("usr"), &*directory.path("etc")];
    assert_eq!(load_from::<Sample>(&roots, Uid::effective()).unwrap(), Sample::default());
    assert_eq!(explicit(&directory.write("empty.toml", "")), Ok(Sample::default()));
}

#[test]
fn merges_layers_in_order() {
    let directory = Directory::new();
    let rule = |last: u8| format!("[[allow]]\nmac = \"52:54:00:00:00:0{last}\"\n");
    directory
        .write("usr/sample.toml", format!("limit = 1\ninterfaces = [\"a\"]\nlog = \"warn\"\n{}", rule(1)));
    directory.write("usr/sample.d/50-z.toml", format!("limit = 2\ncool-down = \"2s\"\n{}", rule(2)));
    directory.write("etc/sample.toml", format!("limit = 3\n{}", rule(3)));
    directory.write("etc/sample.d/20-b.toml", format!("limit = 5\n{}", rule(5)));
    directory.write("etc/sample.d/10-a.toml", format!("limit = 4\ninterfaces = [\"b\"]\n{}", rule(4)));
    for ignored in
        ["etc/sample.d/notes.txt", "etc/sample.d/.#20-b.toml", "etc/sample.d/toml", "etc/other.toml"]
    {
        directory.write(ignored, "not TOML");
    }
    let roots = [&*directory.path("usr"), &*directory.path("etc")];
    let merged: Sample = load_from(&roots, Uid::effective()).unwrap();
    assert_eq!(merged.limit, Some(5));
    assert_eq!(merged.interfaces, Some(vec!["b".to_owned()]));
    assert_eq!(merged.cool_down, Some(std::time::Duration::from_secs(2).into()));
    assert_eq!(merged.log, Some(Level::Warn));
    let macs: Vec<_> = merged.allow.iter().map(|rule| rule.mac.0.as_str()).collect();
    assert_eq!(macs, (1..=5).map(|last| format!("52:54:00:00:00:0{last}")).collect::<Vec<_>>());
}

#[test]
fn an_error_names_its_drop_in() {
    let directory = Directory::new();
    directory.write("etc/sample.toml", "limit = 1\n");
    let drop_in = directory.write("etc/sample.d/x.toml", "\nlimits = 2\n");
    let error = load_from::<Sample>(&[&directory.path("etc")], Uid::effective()).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "{}:2: unknown key \"limits\"; did you mean \"limit\"? Valid keys here: interfaces, cool-down, limit, log, allow",
            drop_in.display()
        )
    );
}

#[test]
fn an_unknown_key_error_suggests_a_similar_key() {
    let keys = "Valid keys here: interfaces, cool-down, limit, log, allow";
    for (unknown, suggestion) in [
        ("interface", "interfaces"),
        ("intefraces", "interfaces"),
        ("Interfaces", "interfaces"),
        ("cool_down", "cool-down"),
        ("cooldown", "cool-down"),
        ("alow", "allow"),
        ("lgo", "log"),
        ("inter", "interfaces"),
    ] {
        assert_eq!(
            error_for(format!("# first\n\n{unknown} = 1\n")),
            format!("sample.toml:3: unknown key \"{unknown}\"; did you mean \"{suggestion}\"? {keys}")
        );
    }
    for unknown in ["x", "password", "zebra"] {
        assert_eq!(
            error_for(format!("{unknown} = 1\n")),
            format!("sample.toml:1: unknown key \"{unknown}\". {keys}")
        );
    }
    assert_eq!(
        error_for("\"a`, expected `b\\u001b\" = 1\n"),
        format!("sample.toml:1: unknown key \"a`, expected `b\\u{{1b}}\". {keys}")
    );
}

#[test]
fn an_unknown_key_error_in_a_table_lists_its_keys() {
    let mac = "mac = \"52:54:00:00:00:01\"";
    assert_eq!(
        error_for(format!("[[allow]]\n{mac}\n\n[[allow]]\n{mac}\nsource = []\n")),
        "sample.toml:6: unknown key \"source\"; did you mean \"sources\"? Valid keys here: mac, sources"
    );
}

#[test]
fn an_unknown_value_error_lists_the_valid_values() {
    assert_eq!(
        error_for("log = \"inof\"\n"),
        "sample.toml:1: unknown value \"inof\"; did you mean \"info\"? Valid values here: error, warn, info, debug, trace"
    );
}

#[test]
fn an_invalid_value_error_names_the_line_and_the_problem() {
    for (content, error) in [
        (
            "limit = 1\ncool-down = \"5x\"  # pause\n",
            "sample.toml:2: cool-down = \"5x\"  # pause: \"5x\" is not a duration with a unit, such as \"2s\", \
             \"500ms\" or \"1m 30s\"",
        ),
        (
            "cool-down = 5\n",
            "sample.toml:1: cool-down = 5: invalid type: integer `5`, expected a duration with a unit, such as \
             \"2s\", \"500ms\" or \"1m 30s\"",
        ),
        (
            "[[allow]]\nmac = \"52:54\"\n",
            "sample.toml:2: mac = \"52:54\": a MAC address is six pairs of digits, at \"52:54\"",
        ),
        (
            "[[allow]]\nmac = \"52:54:00:00:00:01\"\nsources = [\"52:54:00:00:00:02\", \"02:zz\"]\n",
            "sample.toml:3: sources = [\"52:54:00:00:00:02\", \"02:zz\"]: a MAC address is six pairs of digits, at \"02:zz\"",
        ),
        ("[[allow]]\nsources = []\n", "sample.toml:1: [[allow]]: missing field `mac`"),
        (
            "[[allow]]\nmac = \"52:54:00:00:00:01\"\nsources = [\n  \"52:54:00:00:00:02\",\n  \"02:zz\",\n]\n",
            "sample.toml:5: \"02:zz\": a MAC address is six pairs of digits",
        ),
        (
            "[[allow]]\nmac = 525400\n",
            "sample.toml:2: mac = 525400: invalid type: integer `525400`, expected a MAC address",
        ),
        ("limit = -1\n", "sample.toml:1: limit = -1: invalid value: integer `-1`, expected u32"),
        ("limit = 1\nlimit = 2\n", "sample.toml:2: limit = 2: duplicate key, at limit"),
        ("limit = \n", "sample.toml:1: limit =: string values must be quoted, expected literal string"),
    ] {
        assert_eq!(error_for(content), error);
    }
}

#[test]
fn a_file_cannot_forge_a_log_line() {
    let error = error_for("limit = 1 \u{202e}\u{85}\u{1b}[2J\n");
    assert!(error.starts_with("sample.toml:1: limit = 1 \\u{202e}\\u{85}\\u{1b}[2J: "), "{error}");
    assert!(!error.contains(|c: char| c.is_control() || c == '\u{202e}'), "{error}");
    let error = error_for(format!("limit = \"{}\"\n", "x".repeat(100_000)));
    assert!(error.len() < 1_000, "{} bytes", error.len());
}

#[test]
fn rejects_deeply_nested_files() {
    for text in ["[", "{a=", "a.", "[[", "{a=["] {
        for text in [text.repeat(100_000), format!("limit = {}", text.repeat(100_000))] {
            assert!(error_for(&text).starts_with("sample.toml:1: "));
        }
    }
}

#[test]
fn rejects_binary_and_large_files() {
    assert_eq!(error_for(b"limit = 1\n\xff\n"), "sample.toml:2: not UTF-8; save the file as UTF-8");
    let max = usize::try_from(file::MAX_SIZE).unwrap();
    assert_eq!(
        error_for(" ".repeat(max + 1)),
        "sample.toml is larger than 1048576 bytes; it cannot be a configuration file"
    );
    let directory = Directory::new();
    assert_eq!(explicit(&directory.write("blank.toml", " ".repeat(max))), Ok(Sample::default()));
}

#[test]
fn reports_a_missing_file_named_by_an_option() {
    let directory = Directory::new();
    let path = directory.path("none.toml");
    let error = explicit(&path).unwrap_err();
    assert_eq!(error, format!("cannot read {}: No such file or directory (os error 2)", path.display()));
}

#[test]
fn reports_unreadable_files_in_the_standard_directories() {
    let directory = Directory::new();
    let load =
        |root: &str| load_from::<Sample>(&[&directory.path(root)], Uid::effective()).unwrap_err().to_string();
    directory.write("file", "");
    assert!(load("file").ends_with("file/sample.toml: Not a directory (os error 20)"), "{}", load("file"));
    directory.write("etc/sample.d", "");
    assert!(load("etc").ends_with("etc/sample.d: Not a directory (os error 20)"), "{}", load("etc"));
    fs::create_dir_all(directory.path("dangling/sample.d")).unwrap();
    symlink("nowhere", directory.path("dangling/sample.d/a.toml")).unwrap();
    assert!(
        load("dangling").ends_with("a.toml: No such file or directory (os error 2)"),
        "{}",
        load("dangling")
    );
}

#[test]
fn rejects_devices_and_fifos_without_blocking() {
    let directory = Directory::new();
    let fifo = directory.path("fifo.toml");
    nix::unistd::mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    for path in [&fifo, directory.0.path(), Path::new("/dev/null")] {
        let error = explicit(path).unwrap_err();
        assert_eq!(
            error,
            format!("{} is not a regular file; remove it or specify another file", path.display())
        );
    }
}

#[test]
fn rejects_a_file_to_which_others_can_write() {
    let directory = Directory::new();
    let path = directory.write("sample.toml", "limit = 1\n");
    let link = directory.path("link.toml");
    symlink(&path, &link).unwrap();
    for (mode, accepted) in
        [(0o644, true), (0o600, true), (0o755, true), (0o664, false), (0o646, false), (0o622, false)]
    {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        for path in [&path, &link] {
            let shown = path.display();
            let error = format!(
                "{shown} is writable by users other than its owner (mode {mode:04o}); remove the permission: chmod go-w {shown}"
            );
            assert_eq!(explicit(path).err(), (!accepted).then_some(error), "{mode:o}");
        }
    }
}

#[test]
fn rejects_a_file_of_another_user() {
    let directory = Directory::new();
    let path = directory.write("sample.toml", "limit = 1\n");
    let owner = if Uid::effective().is_root() {
        chown(&path, Some(12_345), None).unwrap();
        Uid::from_raw(12_345)
    } else {
        Uid::effective()
    };
    assert!(load::<Sample>(Some(&path), owner).is_ok());
    let error = load::<Sample>(Some(&path), Uid::from_raw(54_321)).unwrap_err().to_string();
    let path = path.display();
    assert_eq!(
        error,
        format!("{path} is owned by user {owner}, who could change it; change the owner: chown root {path}")
    );
}

/// A user who can write to a directory can create a file there, or a link to another user's file.
#[test]
fn rejects_a_directory_to_which_others_can_write() {
    for name in ["etc", "etc/sample.d"] {
        for (mode, accepted) in
            [(0o755, true), (0o700, true), (0o775, false), (0o757, false), (0o1777, false)]
        {
            let directory = Directory::new();
            let file = directory.write("trusted.toml", "limit = 7\n");
            directory.write("etc/sample.d/a.toml", "");
            symlink(&file, directory.path("etc/sample.d/b.toml")).unwrap();
            fs::set_permissions(directory.path(name), Permissions::from_mode(mode)).unwrap();
            let result = load_from::<Sample>(&[&directory.path("etc")], Uid::effective());
            let shown = directory.path(name).display().to_string();
            match result {
                Ok(sample) => assert!(accepted && sample.limit == Some(7), "{shown} {mode:o}"),
                Err(error) => assert!(
                    !accepted
                        && error.to_string().starts_with(&format!("{shown} is writable by users other")),
                    "{mode:o}: {error}"
                ),
            }
        }
    }
}

#[test]
fn rejects_a_directory_of_another_user() {
    if !guard::is_root() {
        return;
    }
    for name in ["etc", "etc/sample.d"] {
        let directory = Directory::new();
        directory.write("etc/sample.d/a.toml", "");
        chown(directory.path(name), Some(12_345), None).unwrap();
        let load = |owner| load_from::<Sample>(&[&directory.path("etc")], Uid::from_raw(owner));
        assert!(load(12_345).is_ok());
        assert!(load(54_321).unwrap_err().to_string().contains("is owned by user 12345"));
    }
}

#[test]
fn limits_the_number_of_drop_ins() {
    let directory = Directory::new();
    for number in 0..MAX_DROP_INS {
        directory.write(&format!("etc/sample.d/{number}.toml"), "");
    }
    let load = || load_from::<Sample>(&[&directory.path("etc")], Uid::effective());
    load().unwrap();
    directory.write("etc/sample.d/more.toml", "");
    assert!(load().unwrap_err().to_string().ends_with("more than 256 *.toml files; merge some of them"));
}

#[test]
fn limits_apply_to_all_files_together() {
    let directory = Directory::new();
    let rules = "[[allow]]\nmac = \"52:54:00:00:00:01\"\n".repeat(MAX_RULES);
    directory.write("etc/sample.toml", rules);
    let load = || load_from::<Sample>(&[&directory.path("etc")], Uid::effective());
    load().unwrap();
    let one_more = directory.write("etc/sample.d/more.toml", "[[allow]]\nmac = \"52:54:00:00:00:01\"\n");
    assert_eq!(load().unwrap_err().to_string(), format!("{}: allow: more than 5 rules", one_more.display()));
}

#[test]
fn a_path_cannot_forge_a_log_line() {
    let directory = Directory::new();
    let path = directory.write("a\nb.toml", "limit = \n");
    let error = explicit(&path).unwrap_err();
    assert!(error.starts_with('"') && error.contains("a\\nb.toml\":1: ") && !error.contains('\n'), "{error}");
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Limited {
    #[serde(deserialize_with = "up_to_ten")]
    number: Option<u32>,
    #[serde(deserialize_with = "a_second_to_a_minute")]
    time: Option<HumanDuration>,
    #[serde(deserialize_with = "up_to_two")]
    names: Option<Vec<String>>,
}

fn up_to_ten<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
    number(input, 1..=10).map(Some)
}

fn a_second_to_a_minute<'de, D: Deserializer<'de>>(input: D) -> Result<Option<HumanDuration>, D::Error> {
    let seconds = std::time::Duration::from_secs;
    duration(input, seconds(1)..=seconds(60)).map(Some)
}

fn up_to_two<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<String>>, D::Error> {
    list(input, 2, "names").map(Some)
}

#[test]
fn rejects_values_outside_their_range() {
    let parse = |text: &str| toml::from_str::<Limited>(text);
    for valid in [
        "number = 1",
        "number = 10",
        "time = \"1s\"",
        "time = \"60s\"",
        "names = []",
        "names = [\"a\", \"b\"]",
    ] {
        parse(valid).unwrap();
    }
    for (invalid, expected) in [
        ("number = 0", "invalid value: integer `0`, expected a whole number from 1 to 10"),
        ("number = 11", "expected a whole number from 1 to 10"),
        ("number = -1", "expected a whole number from 1 to 10"),
        ("number = 9223372036854775807", "expected a whole number from 1 to 10"),
        ("number = \"1\"", "expected a whole number from 1 to 10"),
        ("number = 1.0", "expected a whole number from 1 to 10"),
        ("time = \"0s\"", "the duration must be at least \"1s\""),
        ("time = \"999ms\"", "the duration must be at least \"1s\""),
        ("time = \"61s\"", "the duration must be at most \"1m\""),
        ("time = \"300000000000years\"", "the duration must be at most \"1m\""),
        ("time = \"-1s\"", "is not a duration"),
        ("names = [\"a\", \"b\", \"c\"]", "more than 2 names"),
        ("names = \"a\"", "expected a list of at most 2 names"),
    ] {
        let error = parse(invalid).unwrap_err().to_string();
        assert!(error.contains(expected), "{invalid}: {error}");
    }
}
