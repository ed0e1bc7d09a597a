//! The JSON of each verb has the keys and types in the man page.

use std::collections::BTreeMap;

use serde_json::Value;
use wakevirt_tests::host::{Host, User, project};
use wakevirt_tests::privileged;

use crate::site::Site;

/// Returns the documented keys of a verb, with their types.
pub fn documented(verb: &str) -> BTreeMap<String, String> {
    let page = std::fs::read_to_string(project().join("docs/man/wakevirtctl.1")).unwrap();
    let (_, section) = page.split_once(&format!("\n.Ss JSON of {verb}\n")).unwrap();
    let section = section.split("\n.S").next().unwrap();
    let entries = section.lines().filter_map(|line| line.strip_prefix(".It Cm ")?.split_once(" Vt "));
    entries.map(|(key, kind)| (key.to_owned(), kind.to_owned())).collect()
}

fn has_type(value: &Value, kind: &str) -> bool {
    match kind {
        "string" => value.is_string(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "string or null" => value.is_string() || value.is_null(),
        "object or null" => value.is_object() || value.is_null(),
        "array of strings" => value.as_array().is_some_and(|list| list.iter().all(Value::is_string)),
        "array of objects" => value.as_array().is_some_and(|list| list.iter().all(Value::is_object)),
        _ => false,
    }
}

/// Checks that an object has exactly these keys, except for those that can be absent.
pub fn assert_documented(value: &Value, keys: &BTreeMap<String, String>, optional: &[&str]) {
    let object = value.as_object().unwrap();
    for (key, value) in object {
        let kind = keys.get(key).map(String::as_str).unwrap_or_default();
        assert!(has_type(value, kind), "\"{key}\" is {value}; the man page says: \"{kind}\"");
    }
    let missing = keys.keys().find(|key| !object.contains_key(*key) && !optional.contains(&key.as_str()));
    assert_eq!(missing, None, "the man page has a key that is absent from {value}");
}

#[test]
fn man_page_describes_the_json() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host);
    host.call(User::Root, "org.wakevirt.Actor1", "WakeDomain", &["'vm1'"]).unwrap();
    assert_documented(&site.json(&["status"]), &documented("status"), &[]);
    let listed = documented("list");
    let list = site.json(&["list"]);
    let domain = |name: &str| list.as_array().unwrap().iter().find(|domain| domain["name"] == name).unwrap();
    assert_documented(domain("vm1"), &listed, &[]);
    assert_documented(domain("vm2"), &listed, &["rule", "last-wake"]);
    let shown = listed.into_iter().chain(documented("show")).collect();
    assert_documented(&site.json(&["show", "vm1"]), &shown, &[]);
    let keys_of_packets = ["mac", "rule", "epoch", "sequence", "interface", "vlan", "source", "source-mac"];
    assert_documented(&site.json(&["history"]), &documented("history"), &keys_of_packets);
    assert_documented(&site.json(&["wake", "vm1"]), &documented("wake"), &["reason", "guest", "address"]);
}
