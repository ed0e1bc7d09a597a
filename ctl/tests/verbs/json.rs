//! The JSON of each verb has the keys and types in the man page, including those of nested objects.

use serde_json::{Value, json};
use wakevirt_tests::host::{Host, User};
use wakevirt_tests::privileged;
use wakevirt_tests::project::json::{assert_documented, documented};

use crate::site::{Printed, Site, run};

/// The keys of decisions that are absent after a call.
const PACKET_KEYS: [&str; 8] =
    ["mac", "rule", "epoch", "sequence", "interface", "vlan", "source", "source-mac"];

/// These keys, with and without the path of an array of decisions.
fn packet_keys() -> Vec<String> {
    PACKET_KEYS.iter().flat_map(|key| [(*key).to_owned(), format!("decisions.{key}")]).collect()
}

#[test]
fn man_page_describes_the_json() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host);
    host.call(User::Root, "org.wakevirt.Actor1", "WakeDomain", &["'vm1'"]).unwrap();
    let optional = packet_keys();
    let optional: Vec<&str> = optional.iter().map(String::as_str).collect();
    let with_error: Vec<&str> = [&*optional, &["actor.connections.error"]].concat();
    assert_documented(&site.json(&["status"]), &documented("status"), &with_error);
    let listed = documented("list");
    let list = site.json(&["list"]);
    let domain = |name: &str| list.as_array().unwrap().iter().find(|domain| domain["name"] == name).unwrap();
    assert_documented(domain("vm1"), &listed, &[]);
    assert_documented(domain("vm2"), &listed, &["rule", "last-wake"]);
    let shown = listed.into_iter().chain(documented("show")).collect();
    assert_documented(&site.json(&["show", "vm1"]), &shown, &optional);
    assert_documented(&site.json(&["history"]), &documented("history"), &optional);
    assert_documented(&site.json(&["wake", "vm1"]), &documented("wake"), &["reason", "guest", "address"]);
}

#[test]
fn man_page_describes_the_json_of_doctor_and_send() {
    privileged!();
    let host = Host::new();
    let _lan = host.veth("lan0");
    let _site = Site::new(&host);
    let json = |printed: Printed| -> Value {
        serde_json::from_str(&printed.out).unwrap_or_else(|error| panic!("{error}: {printed:?}"))
    };
    let doctor = documented("doctor");
    // Only root sees what is wrong, and only for the other user is something hidden.
    for (user, is_found, is_hidden) in [(User::Root, true, false), (User::Unprivileged, false, true)] {
        let diagnosis = json(run(&host, user, &["--json", "doctor", "vm2"]));
        let optional = ["findings", "findings.cure", "findings.advice", "not-checked"];
        assert_documented(&diagnosis, &doctor, &optional);
        assert!(diagnosis["findings"] != json!([]) || !is_found, "{diagnosis}");
        assert!(diagnosis["not-checked"] != json!([]) || !is_hidden, "{diagnosis}");
    }
    let send = documented("send");
    for (options, optional) in [
        (&["--to", "127.0.0.1"][..], &["sent.interface", "sent.error"][..]),
        (&["--raw", "--interface", "lan0"], &["sent.port", "sent.error"]),
        // Only root can send frames.
        (&["--raw", "--interface", "lan0"], &["sent.port"]),
    ] {
        let user = if optional == ["sent.port"] { User::Unprivileged } else { User::Root };
        let sent = json(run(&host, user, &[&["--json", "send", "52:54:00:01:02:03"], options].concat()));
        sent.as_array().unwrap().iter().for_each(|it| assert_documented(it, &send, optional));
    }
}
