//! What users read: log lines, errors, pages.

use wakevirt_tests::files;

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
fn no_message_has_a_gap_in_it() {
    let lines = lines(&["protocol/src/*.rs", "service/src/*.rs", "capture/src/*.rs", "actor/src/*.rs"]);
    let has_gap = |(place, line): &&(String, String)| {
        let code = line.trim();
        !place.contains("tests.rs:") && !code.starts_with("//") && code.contains("  ")
    };
    let gaps: Vec<_> = lines.iter().filter(has_gap).collect();
    assert!(gaps.is_empty(), "{gaps:#?}");
}

/// Without it, virsh of a user who is not root asks that user's own libvirt, which has none of the domains.
#[test]
fn each_command_of_virsh_names_the_connection() {
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
    for (place, line) in
        lines(&["*.md", "docs/examples", "docs/man", "dbus", "actor/src/*.rs", "capture/src/*.rs"])
    {
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
