//! The JSON OUTPUT section of wakevirtctl(1): reads the documented keys, and compares JSON with them.

use std::collections::BTreeMap;
use std::iter::Peekable;

use serde_json::Value;

use crate::host::project;

/// The documented keys of an object.
pub type Keys = BTreeMap<String, Entry>;

/// What the man page says about a key.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// The type, such as "array of objects".
    kind: String,
    /// The keys of the object, or of each object in the array. Empty if the page does not name any.
    keys: Keys,
}

/// Returns the documented keys of a verb.
pub fn documented(verb: &str) -> Keys {
    let page = std::fs::read_to_string(project().join("docs/man/wakevirtctl.1")).expect("the man page");
    let (_, section) = page.split_once(&format!("\n.Ss JSON of {verb}\n")).expect("a section about the verb");
    let section = section.split("\n.S").next().unwrap_or_default();
    let mut lines = section.lines().skip_while(|line| !line.starts_with(".Bl ")).skip(1).peekable();
    entries(&mut lines)
}

/// Reads a list up to its end. An entry can contain a list of nested keys, or refer to those of another verb.
fn entries<'a>(lines: &mut Peekable<impl Iterator<Item = &'a str>>) -> Keys {
    let mut entries = Keys::new();
    let (mut last, mut refers) = (String::new(), false);
    while let Some(line) = lines.next().filter(|line| *line != ".El") {
        if let Some((key, kind)) = line.strip_prefix(".It Cm ").and_then(|item| item.split_once(" Vt ")) {
            key.clone_into(&mut last);
            let entry = Entry { kind: kind.to_owned(), keys: Keys::new() };
            assert!(entries.insert(last.clone(), entry).is_none(), "the man page has \"{key}\" twice");
        } else if line.starts_with(".Bl ") {
            let nested = self::entries(lines);
            entries.entry(last.clone()).or_default().keys = nested;
        } else if let (true, Some(verb)) = (refers, line.strip_prefix(".Cm ")) {
            entries.entry(last.clone()).or_default().keys = documented(verb.trim_end_matches(" ."));
        }
        refers = line.ends_with("with the keys of");
    }
    entries
}

fn has_type(value: &Value, kind: &str) -> bool {
    if let Some(kind) = kind.strip_suffix(" or null") {
        return value.is_null() || has_type(value, kind);
    }
    match (kind.split_once(" of "), value) {
        (Some(("array", items)), Value::Array(list)) => list.iter().all(|it| has_type(it, &singular(items))),
        (Some(("object", items)), Value::Object(map)) => {
            map.values().all(|it| has_type(it, &singular(items)))
        }
        (None, Value::String(_)) => kind == "string",
        (None, Value::Number(_)) => kind == "number",
        (None, Value::Bool(_)) => kind == "boolean",
        (None, Value::Object(_)) => kind == "object",
        _ => false,
    }
}

/// The type of an item: "array of strings" for "arrays of strings".
fn singular(items: &str) -> String {
    let (first, rest) = items.split_once(' ').unwrap_or((items, ""));
    format!("{} {rest}", first.trim_end_matches('s')).trim_end().to_owned()
}

/// Checks that an object has exactly these keys, except for those that can be absent. `optional` contains the names of
/// keys, and the paths of nested keys: "rules.file" for the key "file" of objects in the array "rules". An array in
/// `optional` can be empty.
pub fn assert_documented(value: &Value, keys: &Keys, optional: &[&str]) {
    assert_eq!(problem(value, keys, optional, ""), None, "in {value}");
}

/// What differs between an object and the man page. `path` is the prefix of the paths in `optional`.
fn problem(value: &Value, keys: &Keys, optional: &[&str], path: &str) -> Option<String> {
    let Some(object) = value.as_object() else { return Some(format!("{path}{value} is not an object")) };
    for (key, value) in object {
        let path = format!("{path}{key}");
        let Some(entry) = keys.get(key) else { return Some(format!("the man page lacks \"{path}\"")) };
        if !has_type(value, &entry.kind) {
            return Some(format!("\"{path}\" is {value}; the man page says: \"{}\"", entry.kind));
        }
        let objects = match value {
            Value::Array(list) => list.as_slice(),
            value => std::slice::from_ref(value),
        };
        let is_optional = optional.contains(&path.as_str());
        if entry.keys.is_empty() {
            if entry.kind == "object" || entry.kind == "array of objects" {
                return Some(format!("the man page does not describe the objects in \"{path}\""));
            }
        } else if objects.is_empty() && !is_optional {
            return Some(format!("\"{path}\" is empty, so its keys are not checked"));
        } else {
            let path = format!("{path}.");
            let objects = objects.iter().filter(|value| !value.is_null());
            if let Some(found) = objects.filter_map(|it| problem(it, &entry.keys, optional, &path)).next() {
                return Some(found);
            }
        }
    }
    let paths = keys.keys().filter(|key| !object.contains_key(*key)).map(|key| format!("{path}{key}"));
    let missing = paths.into_iter().find(|path| !optional.contains(&path.as_str()));
    missing.map(|path| format!("the man page has \"{path}\", which is absent"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_differences_between_json_and_the_man_page() {
        let page = [
            ".It Cm name Vt string",
            "The name.",
            ".It Cm list Vt array of objects",
            ".Bl -tag -width Ds -compact",
            ".It Cm count Vt number or null",
            ".It Cm inner Vt object",
            ".Bl -tag -width Ds -compact",
            ".It Cm bounds Vt array of arrays of numbers",
            ".El",
            ".El",
            ".It Cm counts Vt object of objects of numbers",
            ".El",
            ".It Cm after Vt string",
        ];
        let keys = entries(&mut page.into_iter().peekable());
        let value = json!({
            "name": "a",
            "list": [{ "count": null, "inner": { "bounds": [[1, 2], []] } }],
            "counts": { "one": { "two": 3 } },
        });
        let check =
            |value: &Value, optional: &[&str]| problem(value, &keys, optional, "").unwrap_or_default();
        assert_eq!(check(&value, &[]), "");
        let changed = |pointer: &str, new: Value| {
            let mut value = value.clone();
            *value.pointer_mut(pointer).unwrap() = new;
            value
        };
        for (pointer, new, expected) in [
            ("/list/0/count", json!("1"), "\"list.count\" is"),
            ("/list/0/inner/bounds/0/0", json!("1"), "\"list.inner.bounds\" is"),
            ("/list/0/inner", json!({}), "\"list.inner.bounds\", which is absent"),
            ("/list/0/inner", json!({ "bounds": [], "new": 1 }), "lacks \"list.inner.new\""),
            ("/counts/one/two", json!(true), "\"counts\" is"),
            ("/list", json!([]), "\"list\" is empty"),
        ] {
            let found = check(&changed(pointer, new), &["inner.bounds"]);
            assert!(found.contains(expected), "{found}");
        }
        assert_eq!(check(&changed("/list", json!([])), &["list"]), "");
        assert_eq!(check(&changed("/list/0/inner", json!({})), &["list.inner.bounds"]), "");
    }
}
