//! The files for Prometheus and Grafana in docs/examples/metrics. `boot_metrics.rs` uses them with real metrics.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use wakevirt_tests::host::project;
use wakevirt_tests::prometheus::{dashboard, dashboard_queries, promtool};

const RULES: &str = "docs/examples/metrics/wakevirt.rules.yml";
const TESTS: &str = "tests/prometheus/wakevirt.rules.test.yml";

/// What follows this prefix in the lines of a file that start with it.
fn after_prefix(file: &str, prefix: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(project().join(file)).expect("the file can be read");
    text.lines().filter_map(|line| Some(line.trim().strip_prefix(prefix)?.trim().to_owned())).collect()
}

/// The metrics that a text names: words that begin with `wakevirt_`, without the suffix of a sample.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| c != '_' && !c.is_ascii_alphanumeric());
    let metrics = words.filter(|word| word.starts_with("wakevirt_"));
    metrics.map(|word| word.trim_end_matches("_bucket").to_owned()).collect()
}

#[test]
fn promtool_accepts_the_rules() {
    let output = promtool(&["check", "rules", RULES], "");
    assert!(output.contains("SUCCESS"), "{output}");
}

#[test]
fn each_alert_has_a_passing_test() {
    promtool(&["test", "rules", TESTS], "");
    let (alerts, tested) = (after_prefix(RULES, "- alert:"), after_prefix(TESTS, "- alertname:"));
    assert!(alerts.len() >= 10, "{alerts:?}");
    assert_eq!(alerts, tested);
}

#[test]
fn rules_and_dashboard_use_documented_metrics() {
    let page = std::fs::read_to_string(project().join("docs/METRICS.md")).unwrap();
    let rules = std::fs::read_to_string(project().join(RULES)).unwrap();
    let documented = metrics(&page);
    let shown: String = dashboard_queries().into_iter().map(|(_, query)| query + "\n").collect();
    for (name, text) in [("rules", &rules), ("dashboard", &shown)] {
        let used = metrics(text);
        assert!(used.is_subset(&documented), "{name}: {:?}", used.difference(&documented));
    }
    // The dashboard shows the states of the connections by URI instead, and the log has the reasons for the others.
    let missing: Vec<_> = documented.into_iter().filter(|name| !metrics(&shown).contains(name)).collect();
    assert_eq!(
        missing,
        ["wakevirt_configuration_valid", "wakevirt_connections", "wakevirt_last_sync_seconds"]
    );
}

#[test]
fn panels_are_consistent_and_do_not_overlap() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let source = json!({ "type": "prometheus", "uid": "${datasource}" });
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        let title = &panel["title"];
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        let targets = panel["targets"].as_array().unwrap();
        for part in targets.iter().chain([panel]) {
            assert_eq!(part["datasource"], source, "{title}");
        }
        let names: BTreeSet<_> = targets.iter().map(|target| target["refId"].as_str().unwrap()).collect();
        assert_eq!(names.len(), targets.len(), "{title}");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(x + w <= 24, "{title}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(cells.insert(cell), "{title} overlaps another panel");
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<_> = variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["datasource", "instance"]);
    assert_eq!(dashboard["uid"], Value::from("wakevirt"));
}
