use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::str::FromStr;

use nix::sys::stat::Mode;
use serde::{Deserialize, Deserializer};
use tempfile::TempDir;

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

    fn over(self, mut below: Self) -> Self {
        below.allow.extend(self.allow);
        Self {
            interfaces: self.interfaces.or(below.interfaces),
            cool_down: self.cool_down.or(below.cool_down),
            limit: self.limit.or(below.limit),
            log: self.log.or(below.log),
            allow: below.allow,
        }
    }

    fn check_limits(&self) -> Result<(), String> {
        if self.allow.len() > MAX_RULES { Err(format!("allow: more than {MAX_RULES} rules")) } else { Ok(()) }
    }
}

const MAX_RULES: usize = 5;

/// A folder with a file in it, which only its owner can write whatever the umask is.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        let folder = path.parent().unwrap();
        fs::create_dir_all(folder).unwrap();
        for folder in folder.ancestors().take_while(|folder| *folder != self.0.path()) {
            fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        path
    }
}

fn explicit(path: &Path) -> Result<Sample, String> {
    load(Some(path), Uid::effective()).map_err(|error| error.to_string())
}

/// The error for a file with this content, without the folder in front of its name.
fn error_for(content: impl AsRef<[u8]>) -> String {
    let place = Place::new();
    let path = place.write("sample.toml", content);
    let folder = format!("{}/", place.0.path().display());
    explicit(&path).unwrap_err().replace(&folder, "")
}

#[test]
fn no_file_is_a_configuration() {
    let place = Place::new();
    let roots = [&*place.path("usr"), &*place.path("etc")];
    assert_eq!(load_from::<Sample>(&roots, Uid::effective()).unwrap(), Sample::default());
    assert_eq!(explicit(&place.write("empty.toml", "")), Ok(Sample::default()));
}

#[test]
fn layers_lie_over_each_other_in_order() {
    let place = Place::new();
    let rule = |last: u8| format!("[[allow]]\nmac = \"52:54:00:00:00:0{last}\"\n");
    place.write("usr/sample.toml", format!("limit = 1\ninterfaces = [\"a\"]\nlog = \"warn\"\n{}", rule(1)));
    place.write("usr/sample.d/50-z.toml", format!("limit = 2\ncool-down = \"2s\"\n{}", rule(2)));
    place.write("etc/sample.toml", format!("limit = 3\n{}", rule(3)));
    place.write("etc/sample.d/20-b.toml", format!("limit = 5\n{}", rule(5)));
    place.write("etc/sample.d/10-a.toml", format!("limit = 4\ninterfaces = [\"b\"]\n{}", rule(4)));
    for ignored in
        ["etc/sample.d/notes.txt", "etc/sample.d/.#20-b.toml", "etc/sample.d/toml", "etc/other.toml"]
    {
        place.write(ignored, "not TOML");
    }
    let roots = [&*place.path("usr"), &*place.path("etc")];
    let whole: Sample = load_from(&roots, Uid::effective()).unwrap();
    assert_eq!(whole.limit, Some(5));
    assert_eq!(whole.interfaces, Some(vec!["b".to_owned()]));
    assert_eq!(whole.cool_down, Some(std::time::Duration::from_secs(2).into()));
    assert_eq!(whole.log, Some(Level::Warn));
    let macs: Vec<_> = whole.allow.iter().map(|rule| rule.mac.0.as_str()).collect();
    assert_eq!(macs, (1..=5).map(|last| format!("52:54:00:00:00:0{last}")).collect::<Vec<_>>());
}

#[test]
fn an_error_in_a_drop_in_names_the_drop_in() {
    let place = Place::new();
    place.write("etc/sample.toml", "limit = 1\n");
    let drop_in = place.write("etc/sample.d/x.toml", "\nlimits = 2\n");
    let error = load_from::<Sample>(&[&place.path("etc")], Uid::effective()).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "{}:2: unknown key \"limits\"; did you mean \"limit\"? Valid keys here: interfaces, cool-down, limit, log, allow",
            drop_in.display()
        )
    );
}

#[test]
fn an_unknown_key_comes_with_the_nearest_valid_one() {
    let keys = "Valid keys here: interfaces, cool-down, limit, log, allow";
    for (written, meant) in [
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
            error_for(format!("# first\n\n{written} = 1\n")),
            format!("sample.toml:3: unknown key \"{written}\"; did you mean \"{meant}\"? {keys}")
        );
    }
    for far in ["x", "password", "zebra"] {
        assert_eq!(
            error_for(format!("{far} = 1\n")),
            format!("sample.toml:1: unknown key \"{far}\". {keys}")
        );
    }
    assert_eq!(
        error_for("\"a`, expected `b\\u001b\" = 1\n"),
        format!("sample.toml:1: unknown key \"a`, expected `b\\u{{1b}}\". {keys}")
    );
}

#[test]
fn an_unknown_key_in_a_table_names_that_tables_keys() {
    let mac = "mac = \"52:54:00:00:00:01\"";
    assert_eq!(
        error_for(format!("[[allow]]\n{mac}\n\n[[allow]]\n{mac}\nsource = []\n")),
        "sample.toml:6: unknown key \"source\"; did you mean \"sources\"? Valid keys here: mac, sources"
    );
}

#[test]
fn an_unknown_word_comes_with_the_choices() {
    assert_eq!(
        error_for("log = \"inof\"\n"),
        "sample.toml:1: unknown value \"inof\"; did you mean \"info\"? Valid values here: error, warn, info, debug, trace"
    );
}

#[test]
fn a_bad_value_names_the_line_and_what_is_wrong() {
    for (content, error) in [
        (
            "limit = 1\ncool-down = \"5x\"  # pause\n",
            "sample.toml:2: cool-down = \"5x\"  # pause: \"5x\" is not a duration with its unit, such as \"2s\", \
             \"500ms\" or \"1m 30s\"",
        ),
        (
            "cool-down = 5\n",
            "sample.toml:1: cool-down = 5: invalid type: integer `5`, expected a duration with its unit, such as \
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
fn no_file_is_nested_too_deeply_to_be_refused() {
    for text in ["[", "{a=", "a.", "[[", "{a=["] {
        for text in [text.repeat(100_000), format!("limit = {}", text.repeat(100_000))] {
            assert!(error_for(&text).starts_with("sample.toml:1: "));
        }
    }
}

#[test]
fn a_file_that_is_no_text_is_refused() {
    assert_eq!(error_for(b"limit = 1\n\xff\n"), "sample.toml:2: not UTF-8; save the file in that encoding");
    let most = usize::try_from(file::MAX_SIZE).unwrap();
    assert_eq!(
        error_for(" ".repeat(most + 1)),
        "sample.toml is larger than 1048576 bytes; it cannot be a configuration file"
    );
    let place = Place::new();
    assert_eq!(explicit(&place.write("blank.toml", " ".repeat(most))), Ok(Sample::default()));
}

#[test]
fn a_missing_explicit_file_is_an_error() {
    let place = Place::new();
    let path = place.path("none.toml");
    let error = explicit(&path).unwrap_err();
    assert_eq!(error, format!("cannot read {}: No such file or directory (os error 2)", path.display()));
}

#[test]
fn what_cannot_be_read_is_an_error_in_the_standard_places_too() {
    let place = Place::new();
    let load =
        |root: &str| load_from::<Sample>(&[&place.path(root)], Uid::effective()).unwrap_err().to_string();
    place.write("file", "");
    assert!(load("file").ends_with("file/sample.toml: Not a directory (os error 20)"), "{}", load("file"));
    place.write("etc/sample.d", "");
    assert!(load("etc").ends_with("etc/sample.d: Not a directory (os error 20)"), "{}", load("etc"));
    fs::create_dir_all(place.path("dangling/sample.d")).unwrap();
    symlink("nowhere", place.path("dangling/sample.d/a.toml")).unwrap();
    assert!(
        load("dangling").ends_with("a.toml: No such file or directory (os error 2)"),
        "{}",
        load("dangling")
    );
}

#[test]
fn what_is_not_a_file_is_refused_without_waiting() {
    let place = Place::new();
    let fifo = place.path("fifo.toml");
    nix::unistd::mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    for path in [&fifo, place.0.path(), Path::new("/dev/null")] {
        let error = explicit(path).unwrap_err();
        assert_eq!(
            error,
            format!("{} is not a regular file; remove it, or name another file", path.display())
        );
    }
}

#[test]
fn a_file_that_others_can_write_is_refused() {
    let place = Place::new();
    let path = place.write("sample.toml", "limit = 1\n");
    let link = place.path("link.toml");
    symlink(&path, &link).unwrap();
    for (mode, good) in
        [(0o644, true), (0o600, true), (0o755, true), (0o664, false), (0o646, false), (0o622, false)]
    {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        for path in [&path, &link] {
            let shown = path.display();
            let error = format!(
                "{shown} can be written by others than its owner (mode {mode:04o}); take that away: chmod go-w {shown}"
            );
            assert_eq!(explicit(path).err(), (!good).then_some(error), "{mode:o}");
        }
    }
}

#[test]
fn a_file_of_another_user_is_refused() {
    let place = Place::new();
    let path = place.write("sample.toml", "limit = 1\n");
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
        format!("{path} belongs to user {owner}, who could change it; make it root's: chown root {path}")
    );
}

/// Whoever can write to a folder can put a file, or a link to somebody else's file, there.
#[test]
fn a_folder_that_others_can_write_is_refused() {
    for folder in ["etc", "etc/sample.d"] {
        for (mode, good) in [(0o755, true), (0o700, true), (0o775, false), (0o757, false), (0o1777, false)] {
            let place = Place::new();
            let file = place.write("trusted.toml", "limit = 7\n");
            place.write("etc/sample.d/a.toml", "");
            symlink(&file, place.path("etc/sample.d/b.toml")).unwrap();
            fs::set_permissions(place.path(folder), Permissions::from_mode(mode)).unwrap();
            let result = load_from::<Sample>(&[&place.path("etc")], Uid::effective());
            let shown = place.path(folder).display().to_string();
            match result {
                Ok(sample) => assert!(good && sample.limit == Some(7), "{shown} {mode:o}"),
                Err(error) => assert!(
                    !good && error.to_string().starts_with(&format!("{shown} can be written by others")),
                    "{mode:o}: {error}"
                ),
            }
        }
    }
}

#[test]
fn a_folder_of_another_user_is_refused() {
    if !Uid::effective().is_root() {
        return;
    }
    for folder in ["etc", "etc/sample.d"] {
        let place = Place::new();
        place.write("etc/sample.d/a.toml", "");
        chown(place.path(folder), Some(12_345), None).unwrap();
        let load = |owner| load_from::<Sample>(&[&place.path("etc")], Uid::from_raw(owner));
        assert!(load(12_345).is_ok());
        assert!(load(54_321).unwrap_err().to_string().contains("belongs to user 12345"));
    }
}

#[test]
fn drop_ins_are_few() {
    let place = Place::new();
    for number in 0..MAX_DROP_INS {
        place.write(&format!("etc/sample.d/{number}.toml"), "");
    }
    let load = || load_from::<Sample>(&[&place.path("etc")], Uid::effective());
    load().unwrap();
    place.write("etc/sample.d/more.toml", "");
    assert!(
        load()
            .unwrap_err()
            .to_string()
            .ends_with("more than 256 files *.toml; put what they say into fewer files")
    );
}

#[test]
fn what_all_files_say_together_is_bounded() {
    let place = Place::new();
    let rules = "[[allow]]\nmac = \"52:54:00:00:00:01\"\n".repeat(MAX_RULES);
    place.write("etc/sample.toml", rules);
    let load = || load_from::<Sample>(&[&place.path("etc")], Uid::effective());
    load().unwrap();
    let one_more = place.write("etc/sample.d/more.toml", "[[allow]]\nmac = \"52:54:00:00:00:01\"\n");
    assert_eq!(load().unwrap_err().to_string(), format!("{}: allow: more than 5 rules", one_more.display()));
}

#[test]
fn a_path_cannot_forge_a_log_line() {
    let place = Place::new();
    let path = place.write("a\nb.toml", "limit = \n");
    let error = explicit(&path).unwrap_err();
    assert!(error.starts_with('"') && error.contains("a\\nb.toml\":1: ") && !error.contains('\n'), "{error}");
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Bounded {
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
fn values_are_within_their_range() {
    let read = |text: &str| toml::from_str::<Bounded>(text);
    for good in [
        "number = 1",
        "number = 10",
        "time = \"1s\"",
        "time = \"60s\"",
        "names = []",
        "names = [\"a\", \"b\"]",
    ] {
        read(good).unwrap();
    }
    for (bad, says) in [
        ("number = 0", "invalid value: integer `0`, expected a whole number from 1 to 10"),
        ("number = 11", "expected a whole number from 1 to 10"),
        ("number = -1", "expected a whole number from 1 to 10"),
        ("number = 9223372036854775807", "expected a whole number from 1 to 10"),
        ("number = \"1\"", "expected a whole number from 1 to 10"),
        ("number = 1.0", "expected a whole number from 1 to 10"),
        ("time = \"0s\"", "a duration here is at least \"1s\""),
        ("time = \"999ms\"", "a duration here is at least \"1s\""),
        ("time = \"61s\"", "a duration here is at most \"1m\""),
        ("time = \"300000000000years\"", "a duration here is at most \"1m\""),
        ("time = \"-1s\"", "is not a duration"),
        ("names = [\"a\", \"b\", \"c\"]", "more than 2 names, which are the most"),
        ("names = \"a\"", "expected a list of at most 2 names"),
    ] {
        let error = read(bad).unwrap_err().to_string();
        assert!(error.contains(says), "{bad}: {error}");
    }
}
