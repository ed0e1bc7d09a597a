//! What users read: log lines, errors, pages.

use std::path::Path;

use wakevirt_tests::host::project;
use wakevirt_tests::project::files;

/// The lines of these files, each behind the name of its file and its number.
fn lines(patterns: &[&str]) -> Vec<(String, String)> {
    let files = files::of_project(patterns);
    assert!(!files.is_empty(), "{patterns:?} names no file");
    let numbered = |(path, text): &(String, String)| {
        let lines = text.lines().zip(1..).map(|(line, number)| (format!("{path}:{number}"), line.to_owned()));
        lines.collect::<Vec<_>>()
    };
    files.iter().flat_map(numbered).collect()
}

/// rustfmt(1) leaves no two blanks in a line of code, but in strings. There they come from a line that was
/// joined with the next one and its indentation.
#[test]
fn messages_have_no_double_spaces() {
    let lines = lines(&[
        "protocol/src/*.rs",
        "service/src/*.rs",
        "capture/src/*.rs",
        "capture/sniffer/src/*.rs",
        "actor/src/*.rs",
    ]);
    let has_gap = |(place, line): &&(String, String)| {
        let code = line.trim();
        !place.contains("tests.rs:") && !code.starts_with("//") && code.contains("  ")
    };
    let gaps: Vec<_> = lines.iter().filter(has_gap).collect();
    assert!(gaps.is_empty(), "{gaps:#?}");
}

/// Without it, virsh of a user who is not root asks that user's own libvirt, which has none of the domains.
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
    // A command alone is a reference to it, as in "virsh start does".
    let lacks_it = |text: &str| {
        let mut words = text.split(' ').map(|word| word.trim_start_matches(['\\', '-']));
        let command = words.next().unwrap_or_default();
        let argument = words.next().unwrap_or_default();
        COMMANDS.contains(&command) && argument.starts_with(|first: char| first.is_ascii_alphanumeric())
    };
    let (mut bad, mut good) = (Vec::new(), 0);
    for (place, line) in lines(&[
        "*.md",
        "docs/examples",
        "docs/man",
        "dbus",
        "actor/src/*.rs",
        "capture/src/*.rs",
        "capture/sniffer/src/*.rs",
    ]) {
        for text in line.split("virsh ").skip(1) {
            good += usize::from(text.trim_start_matches(['\\', '-']).starts_with("connect "));
            if lacks_it(text) && !line.starts_with("//") {
                bad.push((place.clone(), line.clone()));
            }
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(good >= 5, "only {good} commands of virsh were found");
}

/// The name that a heading has in links, as GitHub and GitLab make it.
fn anchor(heading: &str) -> String {
    let letters = heading.trim().to_lowercase();
    let kept = letters.chars().filter(|it| it.is_alphanumeric() || matches!(it, ' ' | '-' | '_'));
    kept.map(|it| if it == ' ' { '-' } else { it }).collect()
}

/// The targets of a page's links, without those to the web.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
    targets.filter(|target| !target.contains("://")).collect()
}

#[test]
fn links_between_pages_lead_to_existing_headings() {
    let (mut broken, mut good) = (Vec::new(), 0);
    for (page, text) in files::of_project(&["*.md"]) {
        let folder = project().join(&page).parent().map(Path::to_path_buf).unwrap_or_default();
        for link in links(&text) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { project().join(&page) } else { folder.join(file) };
            let is_there = target.exists()
                && (heading.is_empty() || {
                    let text = std::fs::read_to_string(&target).unwrap_or_default();
                    text.lines()
                        .filter(|line| line.starts_with('#'))
                        .any(|line| anchor(line.trim_start_matches('#')) == heading)
                });
            good += usize::from(is_there);
            if !is_there {
                broken.push(format!("{page}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(good >= 30, "only {good} links were found");
}

/// The messages that docs/TROUBLESHOOTING.md explains are in the code, except for what varies (`…`).
#[test]
fn troubleshooting_explains_only_existing_messages() {
    // The actor passes these on in an error.
    const OF_LIBVIRT: [&str; 3] = ["network '", "storage pool '", "access denied: "];
    let page = std::fs::read_to_string(project().join("docs/TROUBLESHOOTING.md")).expect("the page is there");
    let (_, table) = page.split_once("| message | meaning |\n").expect("a table of messages");
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let messages: Vec<_> = rows
        .flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2))
        .filter(|message| !OF_LIBVIRT.iter().any(|start| message.starts_with(start)))
        .collect();
    assert!(messages.len() >= 12, "{messages:?}");
    let sources = files::of_project(&[
        "actor/src/*.rs",
        "capture/src/*.rs",
        "capture/sniffer/src/*.rs",
        "service/src/*.rs",
    ]);
    // A string that continues in the next line is one string.
    let joined = |(_, text): &(_, String)| text.split("\\\n").map(str::trim_start).collect::<String>();
    let code: String = sources.iter().map(joined).collect();
    for message in messages {
        // The outcome in front of a decision is another string than the rest.
        let mut parts = message.split(['…', ':']).map(str::trim);
        assert!(parts.all(|part| code.contains(part)), "no code logs \"{message}\"");
    }
}

/// Addresses in this text that look like those of a person or a list.
fn mail_addresses(text: &str) -> Vec<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "._+-@".contains(c);
    let words = text.split(|c: char| !is_part(c)).map(|word| word.trim_matches(['.', '-', '@']));
    let is_address = |word: &&str| {
        word.split_once('@').is_some_and(|(_, host)| !host.starts_with('.') && host.contains('.'))
    };
    words.filter(is_address).collect()
}

/// There is no homepage and no maintainer's address yet. The changelog of the package alone must name one.
#[test]
fn no_file_names_an_invented_contact() {
    const CHANGELOG: &str = "packaging/debian/changelog";
    // https://wakevirt.org/metadata/1.0 is an XML namespace, and no address of a page.
    let homepage = concat!("://wakevirt", ".org");
    let mut wrong = Vec::new();
    for (place, line) in lines(&["."]) {
        let is_page = line.split(homepage).skip(1).any(|rest| !rest.starts_with("/metadata/"));
        // Names below .example and .invalid cannot exist: RFC 2606.
        let is_reserved = |address: &&str| {
            address.ends_with(".example") || (address.ends_with(".invalid") && place.starts_with(CHANGELOG))
        };
        if is_page || !mail_addresses(&line).iter().all(is_reserved) {
            wrong.push(format!("{place}: {line}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
