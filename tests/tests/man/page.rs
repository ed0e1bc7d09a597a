//! Parses a man page in mdoc(7): its tagged paragraphs, by section.

use std::collections::BTreeSet;
use std::path::PathBuf;

use wakevirt_tests::host::project;

/// The directory of the man pages.
pub fn directory() -> PathBuf {
    project().join("docs/man")
}

pub struct Page {
    /// Name and section: `wakevirt-capture(8)`.
    pub name: String,
    /// The source.
    pub text: String,
    entries: Vec<(String, Entry)>,
}

/// A tagged paragraph.
#[derive(Default)]
pub struct Entry {
    /// The words of the tag, including macros.
    pub tag: Vec<String>,
    /// The lines of the text, without macros.
    pub body: Vec<String>,
    /// The literal words in the text: keys and values.
    pub literals: BTreeSet<String>,
}

impl Page {
    /// Reads the page with this file name, such as `wakevirt-capture.8`.
    pub fn read(file: &str) -> Self {
        let path = directory().join(file);
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (name, section) = file.rsplit_once('.').unwrap();
        let mut page = Self { name: format!("{name}({section})"), text, entries: Vec::new() };
        let (mut title, mut depth) = (String::new(), 0);
        for line in page.text.lines() {
            let words = words(line);
            match words.first().map(String::as_str) {
                Some(".Sh" | ".Ss") => title = words[1..].join(" "),
                Some(".Bl") => depth += 1,
                Some(".El") => depth -= 1,
                Some(".It") if depth == 1 => {
                    let entry = Entry { tag: words[1..].to_vec(), ..Entry::default() };
                    page.entries.push((title.clone(), entry));
                }
                _ if depth > 0 => {
                    if let Some((_, entry)) = page.entries.last_mut() {
                        let macros = usize::from(line.starts_with('.'));
                        entry.body.push(words[macros.min(words.len())..].join(" "));
                        if let [".Cm", word, ..] = words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                            entry.literals.insert(word.to_owned());
                        }
                    }
                }
                _ => {}
            }
        }
        page
    }

    /// The entries of a section or subsection, in the order of the page.
    pub fn entries(&self, section: &str) -> Vec<&Entry> {
        let found: Vec<_> =
            self.entries.iter().filter(|(title, _)| title == section).map(|(_, entry)| entry).collect();
        assert!(!found.is_empty(), "{} has no section {section} with entries", self.name);
        found
    }

    /// The literal blocks, such as examples.
    pub fn literals(&self) -> Vec<String> {
        let blocks = self.text.split(".Bd -literal").skip(1).map(|block| block.split(".Ed").next().unwrap());
        blocks.map(|block| block.lines().skip(1).map(|line| unescape(line) + "\n").collect()).collect()
    }

    /// The pages that this page refers to, as `name.section`.
    pub fn references(&self) -> BTreeSet<String> {
        let reference = |line: &str| {
            let words = words(line);
            let position = words.iter().position(|word| word.trim_start_matches('.') == "Xr")?;
            Some(format!("{}.{}", words.get(position + 1)?, words.get(position + 2)?))
        };
        self.text.lines().filter_map(reference).collect()
    }

    /// Checks that a section has an entry for each item in `expected`, and no other entries.
    ///
    /// `kind` is the kind of the items, and `source` where they are defined.
    pub fn assert_entries(&self, section: &str, kind: &str, source: &str, expected: &BTreeSet<String>) {
        self.compare(section, kind, source, expected, Entry::plain_tag);
    }

    /// Like [`Self::assert_entries`], but compares only the names of the entries.
    pub fn assert_names(&self, section: &str, kind: &str, source: &str, expected: &BTreeSet<String>) {
        self.compare(section, kind, source, expected, |entry| entry.name().to_owned());
    }

    /// Checks that an entry lists all `values`, and no other literal word except those in `others`.
    pub fn assert_values(&self, entry: &Entry, values: &BTreeSet<String>, others: &BTreeSet<String>) {
        let (name, tag) = (&self.name, entry.plain_tag());
        let missing: Vec<&String> = values.difference(&entry.literals).collect();
        assert!(missing.is_empty(), "{name} lacks the values {missing:?} of \"{tag}\"");
        let unknown = entry.literals.difference(values).filter(|word| !others.contains(*word));
        let unknown: Vec<&String> = unknown.collect();
        assert!(unknown.is_empty(), "{name} has the values {unknown:?} of \"{tag}\", which do not exist");
    }

    fn compare(
        &self,
        section: &str,
        kind: &str,
        source: &str,
        expected: &BTreeSet<String>,
        tag: impl Fn(&Entry) -> String,
    ) {
        assert!(!expected.is_empty(), "{source} has no {kind}");
        let tags: Vec<String> = self.entries(section).into_iter().map(tag).collect();
        let documented: BTreeSet<String> = tags.iter().cloned().collect();
        let mut wrong: Vec<String> = Vec::new();
        let name = &self.name;
        for missing in expected.difference(&documented) {
            wrong.push(format!("{name} lacks the {kind} \"{missing}\" in {section}: {source} has it"));
        }
        for unknown in documented.difference(expected) {
            wrong
                .push(format!("{name} has the {kind} \"{unknown}\" in {section}: {source} does not have it"));
        }
        if documented.len() < tags.len() {
            wrong.push(format!("{name} has a duplicate entry in {section}"));
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

impl Entry {
    /// The tag as the page shows it: an option with its value, a key with its type, a member with its arguments.
    pub fn plain_tag(&self) -> String {
        match &self.tag.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["Fn", name, arguments @ ..] => format!("{name}({})", arguments.join(", ")),
            ["Fl", short, ",", "Fl", long] => format!("-{short}, -{long}"),
            ["Fl", long] => format!("-{long}"),
            ["Fl", long, "Ar", value] => format!("-{long} {value}"),
            ["Va", name, "Vt", signature, "Pq", changes @ ..] => {
                format!("{name} {signature} {}", changes.join(" "))
            }
            ["Cm", name, "Vt", kind @ ..] => format!("{name} {}", kind.join(" ")),
            ["Cm" | "Er", name] => (*name).to_owned(),
            words => words.join(" "),
        }
    }

    /// The first word after the macro: a key, or the name of a member.
    pub fn name(&self) -> &str {
        self.tag.get(1).map(String::as_str).unwrap_or_default()
    }

    /// The type in the tag, if it has one.
    pub fn kind(&self) -> String {
        let kind = self.tag.iter().skip_while(|word| *word != "Vt").skip(1);
        kind.map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    /// The rest of the line that begins with these words, without the full stop.
    pub fn line(&self, beginning: &str) -> Option<&str> {
        let rest = self.body.iter().find_map(|line| line.strip_prefix(beginning))?;
        Some(rest.strip_suffix('.').unwrap_or(rest))
    }
}

/// The words of a line. In a macro line, quotes join words.
fn words(line: &str) -> Vec<String> {
    if !line.starts_with('.') {
        return vec![unescape(line)];
    }
    let (mut words, mut rest) = (Vec::new(), line.trim());
    while !rest.is_empty() {
        let end = match rest.strip_prefix('"') {
            Some(quoted) => quoted.find('"').map(|end| end + 2).expect(line),
            None => rest.find(' ').unwrap_or(rest.len()),
        };
        let (word, more) = rest.split_at(end);
        words.push(unescape(word.trim_matches('"')));
        rest = more.trim_start();
    }
    words
}

/// Replaces the escapes that the pages use: mandoc_char(7).
fn unescape(text: &str) -> String {
    let escapes = [("\\-", "-"), ("\\(aq", "'"), ("\\(dq", "\""), ("\\(ti", "~"), ("\\&", ""), ("\\e", "\\")];
    escapes.iter().fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}
