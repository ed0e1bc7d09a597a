//! Checks that the man pages and docs/CONFIGURATION.md match the code, in both directions.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may panic"
)]

mod bus;
mod page;
mod service;

use std::collections::BTreeSet;
use std::fs::File;
use std::process::{Command, Stdio};

use page::{Page, directory};
use service::{CLUSTER_KEYS, Service, capture_needs_restart, file};
use wakevirt_tests::host::guard::{has, privileged};
use wakevirt_tests::host::{built_programs, project};

const CONFIGURATION_PAGE: &str = "docs/CONFIGURATION.md";
const CAPTURE: &str = "org.wakevirt.Capture1";
const ACTOR: &str = "org.wakevirt.Actor1";

/// The file names of all pages.
fn pages() -> Vec<String> {
    let names =
        directory().read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<String> = names.collect();
    assert!(names.len() >= 6, "{names:?}");
    names
}

fn keys_page(service: Service) -> Page {
    Page::read(&format!("{}.toml.5", service.program()))
}

#[test]
fn every_key_is_documented() {
    for service in Service::ALL {
        let page = keys_page(service);
        let tables = service.tables();
        let sections = tables.iter().map(|table| (Some(table.as_str()), format!("[[{table}]]")));
        for (table, section) in [(None, "KEYS".to_owned())].into_iter().chain(sections) {
            let typed = page.entries(&section);
            assert!(
                typed.iter().all(|entry| !entry.kind().is_empty()),
                "{}: a key without a type",
                page.name
            );
            let keys = service.keys(table);
            page.assert_names(&section, "key", &format!("{} --check", service.program()), &keys);
            for entry in typed {
                page.assert_values(entry, &service.values(table, entry.name()), &service.all_keys());
            }
        }
    }
}

#[test]
fn keys_of_a_cluster_are_documented_in_their_own_section() {
    let page = keys_page(Service::Actor);
    let names: Vec<&str> = page.entries("KubeVirt").iter().map(|entry| entry.name()).collect();
    assert_eq!(names, CLUSTER_KEYS.map(|(_, key)| key));
    for (table, key) in CLUSTER_KEYS {
        let value = match key {
            "start-wait" => "\"1min\"",
            "metadata-namespaces" => "[]",
            "labels" => "{ app = \"web\" }",
            "halted" => "\"leave\"",
            _ => "\"wake=true\"",
        };
        let domain = if key == "halted" { "domain = \"a\"\n" } else { "" };
        let error = Service::Actor.load(&format!("{table}{domain}{key} = {value}\n")).unwrap_err();
        assert!(
            error.contains(&format!("the key {key} ")) && error.contains("is for wakevirt-kubevirt"),
            "{error}"
        );
    }
}

#[test]
fn documented_defaults_match_the_code() {
    for service in Service::ALL {
        let page = keys_page(service);
        let defaults = service.load("").unwrap();
        for entry in page.entries("KEYS") {
            let (page, key) = (&page.name, entry.name());
            let default = entry
                .line("Default: ")
                .unwrap_or_else(|| panic!("{page} does not state the default of \"{key}\""));
            let loaded = service.load(&format!("{key} = {default}"));
            assert_eq!(
                loaded.as_ref(),
                Ok(&defaults),
                "{page} states a different default for \"{key}\" than {}",
                service.program()
            );
            let value: toml::Value =
                toml::from_str::<toml::Table>(&format!("x = {default}")).unwrap()["x"].clone();
            let fits = match entry.kind().as_str() {
                "string" | "duration" => value.is_str(),
                "integer" => value.is_integer(),
                "boolean" => value.is_bool(),
                list => list.starts_with("list of ") && value.is_array(),
            };
            assert!(fits, "{page}: \"{key}\" has the type {}, but its default is {value:?}", entry.kind());
        }
    }
}

/// A documented range: the smallest and the largest value, or the maximum length of a list.
enum Range<'a> {
    Values(&'a str, &'a str),
    Items(usize),
}

fn range(entry: &page::Entry) -> Option<Range<'_>> {
    let line = entry.line("Range: ")?;
    let Some(most) = line.strip_prefix("at most ") else {
        let (least, most) = line.split_once(" to ").unwrap();
        return Some(Range::Values(least, most));
    };
    Some(Range::Items(most.split([',', ' ']).next().unwrap().parse().unwrap()))
}

#[test]
fn documented_ranges_match_the_code() {
    for service in Service::ALL {
        let page = keys_page(service);
        for table in [None].into_iter().chain(service.tables().into_iter().map(Some)) {
            let section = table.as_ref().map_or_else(|| "KEYS".to_owned(), |table| format!("[[{table}]]"));
            for entry in page.entries(&section) {
                let key = entry.name();
                let assert_rejected = |text: &str, range: &str| {
                    let error = service.load(text).unwrap_err();
                    let is_named = error.contains(key) && error.contains(range);
                    assert!(is_named, "{}: the error lacks {key} or {range}: {error}", page.name);
                };
                match (entry.kind().as_str(), range(entry)) {
                    ("integer", Some(Range::Values(least, most))) => {
                        let (low, high): (i64, i64) = (least.parse().unwrap(), most.parse().unwrap());
                        let start = service::start(table.as_deref());
                        let text = |value: i64| format!("{start}{key} = {value}");
                        service.load(&text(low)).unwrap();
                        service.load(&text(high)).unwrap();
                        for beyond in [low - 1, high + 1, i64::MIN, i64::MAX] {
                            assert_rejected(&text(beyond), &format!("from {low} to {high}"));
                        }
                    }
                    ("duration", Some(Range::Values(least, most))) => {
                        service.load(&format!("{key} = {least}")).unwrap();
                        service.load(&format!("{key} = {most}")).unwrap();
                        if least != "\"0s\"" {
                            assert_rejected(&format!("{key} = \"0s\""), &format!("at least {least}"));
                        }
                        let longer = most.trim_end_matches('"').to_owned() + " 1ns\"";
                        for longer in [longer.as_str(), "\"300000000000years\""] {
                            assert_rejected(&format!("{key} = {longer}"), &format!("at most {most}"));
                        }
                    }
                    (kind, Some(Range::Items(most))) if kind.starts_with("list of ") => {
                        service.load(&service::items(table.as_deref(), key, most)).unwrap();
                        assert_rejected(&service::items(table.as_deref(), key, most + 1), &most.to_string());
                    }
                    ("string" | "boolean" | "boolean or string" | "table", None) => {}
                    (kind, _) => panic!("{}: {section}: \"{key}\" of type {kind} has no range", page.name),
                }
            }
        }
    }
}

/// Compares when a change to each key takes effect: in the man pages, in capture's code, and in docs/CONFIGURATION.md.
#[test]
fn documented_reload_behaviour_matches_the_code() {
    let text = configuration_page().split_whitespace().collect::<Vec<_>>().join(" ");
    let (before, _) = text.split_once(" takes effect at the next start").expect("the page lists the keys");
    let sentence = before.rsplit("A change to ").next().unwrap();
    let by_page: BTreeSet<&str> = sentence.split('`').skip(1).step_by(2).collect();
    let mut later = BTreeSet::new();
    for service in Service::ALL {
        let page = keys_page(service);
        for entry in page.entries("KEYS") {
            let key = entry.name();
            let at_start = match entry.line("Takes effect: ") {
                Some("at the next start") => true,
                Some("on a reload") => false,
                other => {
                    panic!("{} does not state when a change to \"{key}\" takes effect: {other:?}", page.name)
                }
            };
            if service == Service::Capture {
                let needed = capture_needs_restart(key);
                assert_eq!(at_start, needed, "{} is wrong about when \"{key}\" takes effect", page.name);
            }
            if at_start {
                later.insert(key.to_owned());
            }
        }
    }
    assert_eq!(
        later.iter().map(String::as_str).collect::<BTreeSet<_>>(),
        by_page,
        "left: the man pages, right: {CONFIGURATION_PAGE}"
    );
}

#[test]
fn every_option_is_documented() {
    for service in Service::ALL {
        let page = Page::read(&format!("{}.8", service.program()));
        let options = service.options();
        let names = options.keys().cloned().collect();
        page.assert_entries("OPTIONS", "option", &format!("{} --help", service.program()), &names);
        for entry in page.entries("OPTIONS") {
            page.assert_values(entry, &options[&entry.plain_tag()], &service.all_keys());
        }
    }
}

#[test]
fn every_bus_member_is_documented() {
    for interface in [CAPTURE, ACTOR] {
        let page = Page::read(&format!("{interface}.5"));
        let xml = format!("dbus/{interface}.xml");
        for (section, kind) in [("METHODS", "method"), ("SIGNALS", "signal"), ("PROPERTIES", "property")] {
            page.assert_entries(section, kind, &xml, &bus::members_of(interface, kind));
        }
    }
}

#[test]
fn every_dictionary_key_is_documented() {
    let page = Page::read(&format!("{CAPTURE}.5"));
    page.assert_entries("DETAILS", "key", "the announcer's code", &bus::packet_details());
    let page = Page::read(&format!("{ACTOR}.5"));
    let (signal, history) = bus::decision();
    page.assert_entries("DETAILS", "key", "the actor's code", &signal);
    page.assert_entries("DECISIONS", "key", "the actor's code", &history);
    page.assert_entries("DOMAINS", "key", "the actor's code", &bus::listed());
}

#[test]
fn every_outcome_is_documented() {
    let page = Page::read(&format!("{ACTOR}.5"));
    page.assert_entries("OUTCOMES", "outcome", "the actor's code", &bus::outcomes());
}

#[test]
fn every_error_is_documented() {
    let mut named = BTreeSet::new();
    for interface in [CAPTURE, ACTOR] {
        let page = Page::read(&format!("{interface}.5"));
        let errors = bus::errors(interface);
        page.assert_entries("ERROR NAMES", "error", &format!("dbus/{interface}.xml"), &errors);
        named.extend(errors);
        for (method, errors) in bus::errors_of_methods(interface) {
            let entries = page.entries("METHODS");
            let entry = entries.iter().find(|entry| entry.name() == method);
            let entry = entry.unwrap_or_else(|| panic!("{} lacks the method \"{method}\"", page.name));
            let documented = bus::errors_in(&entry.body.join(" "));
            // The comment of a method that is a variant of another does not repeat the errors.
            if !errors.is_empty() {
                assert_eq!(
                    documented, errors,
                    "left: errors of {method} in {}, right: in the XML",
                    page.name
                );
            }
        }
    }
    assert_eq!(named, bus::all_errors(), "left: errors in the XML, right: errors in the code");
}

#[test]
fn every_exit_status_is_documented() {
    // If the test runs as root, the services run as nobody, in a user namespace. Otherwise, they would switch to their
    // own users.
    let root = nix::unistd::geteuid().is_root();
    if root && !privileged() {
        return;
    }
    for service in Service::ALL {
        let run = |arguments: &[&str], output: Stdio| {
            let program = built_programs().join(service.program());
            let mut command = Command::new(if root { "unshare".as_ref() } else { program.as_os_str() });
            if root {
                command.arg("--user").arg(&program);
            }
            let status = command.args(arguments).stdout(output).stderr(Stdio::null()).status().unwrap();
            status.code().unwrap_or_else(|| panic!("{} {arguments:?}: {status}", service.program()))
        };
        let empty = file("");
        let empty = empty.path().to_str().unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let statuses = [
            run(&["--check", "--config", empty], Stdio::null()),
            run(&["--check", "--config", empty], full.into()),
            run(&["--check", "--config", "/no/such/file"], Stdio::null()),
            run(&["--no-such-option"], Stdio::null()),
        ];
        let page = Page::read(&format!("{}.8", service.program()));
        let statuses = statuses.map(|status| status.to_string());
        page.assert_entries("EXIT STATUS", "exit status", service.program(), &statuses.into());
    }
}

#[test]
fn pages_render_without_warnings() {
    if !has("mandoc") {
        return;
    }
    let mandoc = Command::new("mandoc")
        .args(["-T", "lint", "-W", "warning"])
        .args(pages())
        .current_dir(directory())
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&mandoc.stdout);
    assert!(mandoc.status.success() && stdout.is_empty(), "{stdout}");
}

#[test]
fn pages_refer_to_existing_pages() {
    let pages = pages();
    for file in &pages {
        let page = Page::read(file);
        let (name, section) = file.rsplit_once('.').unwrap();
        let title = format!("\n.Dt {} {section}\n", name.to_uppercase());
        assert!(page.text.contains(&title), "{file} has a different title");
        assert!(page.text.contains(&format!("\n.Nm {name}\n")), "{file} has a different name");
        let is_own =
            |reference: &&String| reference.starts_with("wakevirt") || reference.starts_with("org.wakevirt");
        let references = page.references();
        assert!(references.iter().any(|reference| is_own(&reference)), "{file} refers to no other page");
        for reference in references.iter().filter(is_own) {
            assert!(pages.contains(reference), "{} refers to {reference}, which does not exist", page.name);
        }
    }
}

#[test]
fn examples_are_valid_configurations() {
    for service in Service::ALL {
        let page = keys_page(service);
        let is_toml = |text: &String| text.contains(" = ");
        let examples: Vec<String> = page.literals().into_iter().filter(is_toml).collect();
        assert!(examples.len() >= 3, "{}", page.name);
        for example in examples {
            let loaded = service.load(&with_password(&example));
            assert!(loaded.is_ok(), "an example in {} is invalid: {loaded:?}\n{example}", page.name);
        }
    }
}

#[test]
fn configuration_page_lists_every_key() {
    let page = configuration_page();
    for service in Service::ALL {
        let block =
            format!("This `{}.toml` contains every key", service.program().trim_start_matches("wakevirt-"));
        let (_, rest) = page.split_once(&block).expect("the page has a section about the service");
        let text = rest.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let loaded = service.load(&with_password(text));
        assert!(loaded.is_ok(), "{block}: {loaded:?}");
        let whole: toml::Table = toml::from_str(text).unwrap();
        let written: BTreeSet<String> = whole.keys().cloned().collect();
        assert_eq!(written, service.keys(None), "left: {block:?}, right: {} --check", service.program());
        for table in service.tables() {
            let keys =
                whole[&table].as_array().unwrap().iter().flat_map(|table| table.as_table().unwrap().keys());
            let written: BTreeSet<String> = keys.cloned().collect();
            assert_eq!(written, service.keys(Some(&table)), "[[{table}]] in {CONFIGURATION_PAGE}");
        }
        let plain = text.split("\n[[").next().unwrap();
        assert_eq!(service.load(plain), service.load(""), "left: {block:?}, right: the defaults");
    }
}

fn configuration_page() -> String {
    std::fs::read_to_string(project().join(CONFIGURATION_PAGE)).unwrap()
}

/// The configuration with an existing password file instead of the one in the example.
fn with_password(text: &str) -> String {
    const EXAMPLE: &str = "/etc/wakevirt/win11.secureon";
    static PASSWORD: std::sync::OnceLock<tempfile::NamedTempFile> = std::sync::OnceLock::new();
    let password = PASSWORD.get_or_init(|| file("01:02:03:04:05:06"));
    text.replace(EXAMPLE, password.path().to_str().unwrap())
}
