//! The configuration of a service as its code defines it: keys, values, defaults and options.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use clap::{CommandFactory as _, Parser as _};
use wakevirt_actor::config::Config;
use wakevirt_actor::hypervisor::Driver as _;
use wakevirt_actor_libvirt::Libvirt;
use wakevirt_capture::config::Settings;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Capture,
    Actor,
    Host,
}

use Service::{Actor, Capture, Host};

/// The keys that `wakevirt-actor` knows, but that only `wakevirt-kubevirt` accepts, with the header of their table.
pub const CLUSTER_KEYS: [(&str, &str); 6] = [
    ("", "start-wait"),
    ("", "namespace-selector"),
    ("", "vm-selector"),
    ("", "metadata-namespaces"),
    ("[[allow]]\n", "labels"),
    ("[[allow]]\n", "halted"),
];

impl Service {
    pub const ALL: [Self; 3] = [Capture, Actor, Host];

    /// The name of the service's program.
    pub const fn program(self) -> &'static str {
        match self {
            Capture => "wakevirt-capture",
            Actor => "wakevirt-actor",
            Host => "wakevirt-host",
        }
    }

    /// Loads a file with this text. Returns the configuration as `--check` prints it, or the error.
    pub fn load(self, text: &str) -> Result<String, String> {
        let file = file(text);
        let line = [self.program(), "--config", file.path().to_str().unwrap()];
        match self {
            Capture => Settings::load(&wakevirt_capture::Options::parse_from(line))
                .map(|settings| settings.to_string())
                .map_err(|error| error.to_string()),
            Actor => Config::load(&wakevirt_actor::Options::parse_from(line), &Libvirt::PROGRAM)
                .map(|config| config.to_string())
                .map_err(|error| error.to_string()),
            Host => wakevirt_host::config::Config::load(Some(file.path()), self.program())
                .map(|config| config.to_string())
                .map_err(|error| error.to_string()),
        }
    }

    /// The keys of the file, or of a table in it, from the error about an unknown key.
    pub fn keys(self, table: Option<&str>) -> BTreeSet<String> {
        let error = self.load(&format!("{}no-such-key = 0", header(table))).unwrap_err();
        let mut keys = valid(&error, "key").unwrap_or_else(|| panic!("{error}"));
        if self == Actor {
            keys.retain(|key| !CLUSTER_KEYS.iter().any(|(_, other)| key == other));
        }
        keys
    }

    /// The keys of the file and of every table in it.
    pub fn all_keys(self) -> BTreeSet<String> {
        let of_tables = self.tables().into_iter().flat_map(|table| self.keys(Some(&table)));
        of_tables.chain(self.keys(None)).collect()
    }

    /// The names of the tables in the file.
    pub fn tables(self) -> Vec<String> {
        let is_table = |key: &String| {
            let result = self.load(&format!("{}no-such-key = 0", header(Some(key))));
            result.is_err_and(|error| valid(&error, "key").is_some())
        };
        self.keys(None).into_iter().filter(is_table).collect()
    }

    /// The values of a key that has a fixed set of values; otherwise an empty set.
    pub fn values(self, table: Option<&str>, key: &str) -> BTreeSet<String> {
        let values = ["\"no such value\"", "[\"no such value\"]"];
        let errors = values.map(|value| self.load(&format!("{}{key} = {value}", header(table))).err());
        errors.into_iter().flatten().find_map(|error| valid(&error, "value")).unwrap_or_default()
    }

    /// The options, each with its value name, and the values if the option has a fixed set of them.
    pub fn options(self) -> BTreeMap<String, BTreeSet<String>> {
        let mut command = match self {
            Capture => wakevirt_capture::Options::command(),
            Actor => wakevirt_actor::Options::command(),
            Host => wakevirt_host::daemon::Options::command(),
        };
        command.build();
        let option = |argument: &clap::Arg| {
            let short = argument.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
            let long = argument.get_long().unwrap();
            let takes_value = argument.get_action().takes_values();
            let names = argument.get_value_names().filter(|_| takes_value).unwrap_or_default();
            let value: String = names.iter().map(|name| format!(" {name}")).collect();
            let values = argument.get_possible_values();
            let values = values.iter().filter(|_| takes_value).map(|value| value.get_name().to_owned());
            (format!("{short}--{long}{value}"), values.collect())
        };
        command.get_arguments().map(option).collect()
    }
}

/// Whether capture requires a restart when the key changes.
pub fn capture_needs_restart(key: &str) -> bool {
    let settings = |text: &str| {
        let file = file(text);
        let line = ["wakevirt-capture", "--config", file.path().to_str().unwrap()];
        Settings::load(&wakevirt_capture::Options::parse_from(line)).ok()
    };
    let default = settings("").unwrap();
    let values = ["\"udp\"", "[\"br0\"]", "[1]", "[\"127.0.0.1:1\"]", "\"9s\"", "9", "false", "\"debug\""];
    let mut changes = values.iter().filter_map(|value| settings(&format!("{key} = {value}")));
    let changed = changes.find(|settings| settings.to_string() != default.to_string());
    let changed = changed.unwrap_or_else(|| panic!("no value in the list is valid for {key}: add one"));
    !changed.keys_that_need_restart(&default).is_empty()
}

/// The text of a file in which this key has a list of `count` values. The key is at the top level of the file, or in a
/// table.
pub fn items(table: Option<&str>, key: &str, count: usize) -> String {
    let tables = match key {
        "allow" => "[[allow]]\ndomain = \"a\"\n",
        "alias" => "[[alias]]\nmac = \"52:54:00:00:00:01\"\ndomain = \"a\"\n",
        "domain" => "[[domain]]\nmatch = \"a\"\n",
        _ => {
            let item = |number: usize| match key {
                "connections" => format!("\"test:///{number}\""),
                "autostart" => format!("\"vm{number}\""),
                "ports" | "vlans" => number.to_string(),
                "listen" => format!("\"127.0.0.1:{}\"", number + 1),
                "interfaces" | "outgoing" => format!("\"eth{number}\""),
                "sources" => format!("\"10.0.{}.{}\"", number / 256, number % 256),
                "prepare" => "\"compact\"".to_owned(),
                other => panic!("there are no values for {other}: add them"),
            };
            let list = (0..count).map(item).collect::<Vec<_>>().join(", ");
            return format!("{}{key} = [{list}]\n", start(table));
        }
    };
    tables.repeat(count)
}

/// A file with this text that other users can neither read nor write.
pub fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600)).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// The header of a table, and the key that the table requires.
pub fn start(table: Option<&str>) -> String {
    let selector = match table {
        Some("domain") => "match = \"a\"\n",
        Some(_) => "domain = \"a\"\n",
        None => "",
    };
    format!("{}{selector}", header(table))
}

fn header(table: Option<&str>) -> String {
    table.map(|table| format!("[[{table}]]\n")).unwrap_or_default()
}

/// The list of valid keys or values in an error.
fn valid(error: &str, what: &str) -> Option<BTreeSet<String>> {
    let (_, list) = error.split_once(&format!("Valid {what}s here: "))?;
    Some(list.split(", ").map(str::to_owned).collect())
}
