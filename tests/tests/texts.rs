//! The text that users read: log messages, errors and pages.

use std::path::Path;

use wakevirt_tests::host::project;
use wakevirt_tests::project::files;

/// The source files of the services.
const SERVICES: [&str; 12] = [
    "protocol/src/*.rs",
    "service/src/*.rs",
    "capture/src/*.rs",
    "capture/sniffer/src/*.rs",
    "actor/src/*.rs",
    "actor/libvirt/src/*.rs",
    "kubevirt/src/*.rs",
    "libvirt/src/*.rs",
    "host/src/*.rs",
    "host/hook/src/*.rs",
    "host/monitor/src/*.rs",
    "host/sleep/src/*.rs",
];

/// The code of the services. A string that continues on the next line is joined.
fn code() -> String {
    let joined = |(_, text): &(_, String)| text.split("\\\n").map(str::trim_start).collect::<String>();
    files::of_project(&SERVICES).iter().map(joined).collect()
}

/// The lines of these files, each with its file and number.
fn lines(patterns: &[&str]) -> Vec<(String, String)> {
    let files = files::of_project(patterns);
    assert!(!files.is_empty(), "no file matches {patterns:?}");
    let numbered = |(path, text): &(String, String)| {
        let lines = text.lines().zip(1..).map(|(line, number)| (format!("{path}:{number}"), line.to_owned()));
        lines.collect::<Vec<_>>()
    };
    files.iter().flat_map(numbered).collect()
}

/// rustfmt(1) removes double spaces except in strings. There, they come from a line that was joined with the
/// indentation of the next one.
#[test]
fn messages_have_no_double_spaces() {
    let has_spaces = |(location, line): &(String, String)| {
        let code = line.trim();
        !location.contains("tests.rs:") && !code.starts_with("//") && code.contains("  ")
    };
    let wrong: Vec<_> = lines(&SERVICES).into_iter().filter(has_spaces).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Without a URI, virsh connects an unprivileged user to the user's own libvirt, which does not have the domains.
#[test]
fn virsh_commands_name_the_connection() {
    const COMMANDS: [&str; 12] = [
        "define",
        "destroy",
        "domiflist",
        "domstate",
        "domuuid",
        "dumpxml",
        "edit",
        "list",
        "metadata",
        "pool-list",
        "shutdown",
        "start",
    ];
    // A subcommand without an argument is part of a sentence, as in "virsh start does".
    let lacks_uri = |text: &str| {
        let mut words = text.split(' ').map(|word| word.trim_start_matches(['\\', '-']));
        let command = words.next().unwrap_or_default();
        let argument = words.next().unwrap_or_default();
        COMMANDS.contains(&command) && argument.starts_with(|first: char| first.is_ascii_alphanumeric())
    };
    let (mut wrong, mut right) = (Vec::new(), 0);
    for (location, line) in lines(&[
        "*.md",
        "docs/examples",
        "docs/man",
        "dbus",
        "actor/src/*.rs",
        "actor/libvirt/src/*.rs",
        "capture/src/*.rs",
        "capture/sniffer/src/*.rs",
    ]) {
        for text in line.split("virsh ").skip(1) {
            right += usize::from(text.trim_start_matches(['\\', '-']).starts_with("connect "));
            if lacks_uri(text) && !line.starts_with("//") {
                wrong.push((location.clone(), line.clone()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(right >= 5, "only {right} virsh commands were found");
}

/// The anchor of a heading, as GitHub and GitLab create it.
fn anchor(heading: &str) -> String {
    let letters = heading.trim().to_lowercase();
    let anchor = letters.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    anchor.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The targets of the links in a page, without web addresses.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
    targets.filter(|target| !target.contains("://")).collect()
}

#[test]
fn links_between_pages_lead_to_existing_headings() {
    let (mut broken, mut good) = (Vec::new(), 0);
    for (page, text) in files::of_project(&["*.md"]) {
        let directory = project().join(&page).parent().map(Path::to_path_buf).unwrap_or_default();
        for link in links(&text) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { project().join(&page) } else { directory.join(file) };
            let exists = target.exists()
                && (heading.is_empty() || {
                    let text = std::fs::read_to_string(&target).unwrap_or_default();
                    text.lines()
                        .filter(|line| line.starts_with('#'))
                        .any(|line| anchor(line.trim_start_matches('#')) == heading)
                });
            good += usize::from(exists);
            if !exists {
                broken.push(format!("{page}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(good >= 30, "only {good} links were found");
}

/// The messages that docs/TROUBLESHOOTING.md explains are in the code, except for the variable parts (`…`).
#[test]
fn troubleshooting_explains_only_existing_messages() {
    // libvirt's errors, which the actor quotes.
    const OF_LIBVIRT: [&str; 3] = ["network '", "storage pool '", "access denied: "];
    let page = std::fs::read_to_string(project().join("docs/TROUBLESHOOTING.md")).expect("the page exists");
    let (_, table) = page.split_once("| message | meaning |\n").expect("the page has a table of messages");
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let messages: Vec<_> = rows
        .flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2))
        .filter(|message| !OF_LIBVIRT.iter().any(|start| message.starts_with(start)))
        .collect();
    assert!(messages.len() >= 12, "{messages:?}");
    let code = code();
    for message in messages {
        // The outcome and the reason of a decision are separate strings.
        let mut parts = message.split(['…', ':']).map(str::trim);
        assert!(parts.all(|part| code.contains(part)), "no code logs \"{message}\"");
    }
}

/// The messages in the DIAGNOSTICS sections of the manual pages are in the code, except for the values in the examples.
#[test]
fn manual_pages_explain_only_existing_messages() {
    const VALUES: [&str; 6] = [
        "qemu:///system",
        "/run/wakevirt-actor/state",
        "/run/wakevirt-actor",
        "org.wakevirt.Actor1",
        "org.wakevirt.Capture1",
        "the system bus",
    ];
    let code = code();
    for (page, minimum) in [("wakevirt-actor.8", 30), ("wakevirt-capture.8", 20)] {
        let text = std::fs::read_to_string(project().join("docs/man").join(page)).expect("the page exists");
        let (_, section) = text.split_once("\n.Sh DIAGNOSTICS\n").expect("the page has the section");
        let section = section.split("\n.Sh ").next().unwrap_or(section);
        let messages: Vec<_> = section.lines().filter_map(|line| line.strip_prefix(".It Ql ")).collect();
        assert!(messages.len() >= minimum, "{page} has only {} messages", messages.len());
        for message in messages {
            let fixed = VALUES.iter().fold(message.to_owned(), |text, value| text.replace(value, "…"));
            let mut parts = fixed.split(['…', ':']).map(str::trim);
            assert!(parts.all(|part| code.contains(part)), "{page}: no code logs \"{message}\"");
        }
    }
}

/// A test that expects that a message is not logged checks nothing if no code contains the message.
#[test]
fn tests_expect_the_absence_only_of_existing_messages() {
    let (code, mut found) = (code(), 0);
    for (location, line) in lines(&["tests/tests/*.rs"]) {
        let counts = line.split(".log().count(\"").skip(1).filter(|rest| rest.contains("\"), 0"));
        let in_journal = line.trim_start().starts_with("assert!(!debian.journal(");
        let journals = line.split(".contains(\"").skip(1).filter(|_| in_journal);
        for rest in counts.chain(journals) {
            // The fixed part of the message ends at a placeholder or a quoted value.
            let text = rest.split(['\\', '{', '"']).next().unwrap_or_default();
            // Addresses and signals of the tests, and log levels, are not messages.
            if !text.starts_with(|first: char| first.is_ascii_uppercase() || first.is_ascii_digit()) {
                assert!(code.contains(text), "{location}: no code logs \"{text}\"");
                found += 1;
            }
        }
    }
    assert!(found >= 8, "only {found} such checks were found");
}

/// The mail addresses in this text.
fn mail_addresses(text: &str) -> Vec<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "._+-@".contains(c);
    let words = text.split(|c: char| !is_part(c)).map(|word| word.trim_matches(['.', '-', '@']));
    let is_address = |word: &&str| {
        word.split_once('@').is_some_and(|(_, host)| !host.starts_with('.') && host.contains('.'))
    };
    words.filter(is_address).collect()
}

/// The project has neither a homepage nor a maintainer's address yet. Only the package's changelog must name an
/// address.
#[test]
fn no_file_names_an_invented_contact() {
    const CHANGELOG: &str = "packaging/debian/changelog";
    // https://wakevirt.org/metadata/1.0 is an XML namespace, not the address of a page.
    let homepage = concat!("://wakevirt", ".org");
    let mut wrong = Vec::new();
    for (location, line) in lines(&["."]) {
        let is_page = line.split(homepage).skip(1).any(|rest| !rest.starts_with("/metadata/"));
        // Names below .example and .invalid cannot exist: RFC 2606.
        let is_reserved = |address: &&str| {
            address.ends_with(".example")
                || (address.ends_with(".invalid") && location.starts_with(CHANGELOG))
        };
        let is_unit = |address: &&str| {
            let suffixes = [".service", ".target", ".scope", ".socket"];
            let unit = address.to_ascii_lowercase();
            // A unit, its directory of drop-ins, or a file in that directory.
            suffixes.iter().any(|suffix| unit.ends_with(suffix) || unit.contains(&format!("{suffix}.d")))
        };
        if is_page || !mail_addresses(&line).iter().all(|it| is_reserved(it) || is_unit(it)) {
            wrong.push(format!("{location}: {line}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
