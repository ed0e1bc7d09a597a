use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::*;

/// A WolConfig with this specification.
fn config(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "wol.pillon.org/v1beta1", "kind": "WolConfig", "metadata": {"name": name}, "spec": spec})
}

fn import_all(configs: &[Value]) -> Result<(Value, String), String> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": configs});
    let (text, notes) =
        import(list.to_string().as_bytes(), "../../base").map_err(|error| error.to_string())?;
    for note in &notes {
        assert!(text.contains(&format!("# - {note}\n")), "{text}");
    }
    Ok((serde_saphyr::from_str(&text).unwrap(), notes.join("\n")))
}

fn import_one(spec: &Value) -> Result<(Value, String), String> {
    import_all(&[config("default", spec)])
}

/// The file of the ConfigMap with this name, or an empty text.
fn file(kustomization: &Value, name: &str) -> String {
    let literals = kustomization["configMapGenerator"][0]["literals"].as_array().unwrap();
    let texts = literals.iter().map(|literal| literal.as_str().unwrap());
    texts
        .filter_map(|text| text.strip_prefix(name)?.strip_prefix('='))
        .map(str::to_owned)
        .next()
        .unwrap_or_default()
}

fn actor(spec: &Value) -> String {
    let text = file(&import_one(spec).unwrap().0, "actor.toml");
    text.strip_prefix("connections = [\"kubevirt://\"]\n").unwrap().to_owned()
}

/// The patch of the DaemonSet.
fn patch(kustomization: &Value) -> Value {
    serde_saphyr::from_str(kustomization["patches"][0]["patch"].as_str().unwrap()).unwrap()
}

#[test]
fn translates_each_mode() {
    let all = "\n[[allow]]\ndomain = \"*/*\"\n";
    assert_eq!(actor(&json!({})), all);
    assert_eq!(actor(&json!({"discoveryMode": "All", "vmSelector": {"matchLabels": {"a": "b"}}})), all);
    assert_eq!(
        actor(&json!({"namespaceSelectors": ["web", "db", "web"]})),
        "\n[[allow]]\ndomain = \"db/*\"\n\n[[allow]]\ndomain = \"web/*\"\n"
    );
    let selector = json!({
        "matchLabels": {"wol.pillon.org/enabled": "true"},
        "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}],
    });
    let spec =
        json!({"discoveryMode": "LabelSelector", "vmSelector": selector, "namespaceSelectors": ["web"]});
    assert_eq!(
        actor(&spec),
        "\n[[allow]]\ndomain = \"web/*\"\n\
         labels = { \"wol.pillon.org/enabled\" = \"true\", \"tier\" = [\"a\", \"b\"] }\n"
    );
    let mapping = json!({"macAddress": "52:54:00:AB:cd:ef", "vmName": "vm-2", "namespace": "web"});
    assert_eq!(
        actor(
            &json!({"discoveryMode": "Explicit", "explicitMappings": [mapping], "namespaceSelectors": ["db"]})
        ),
        "\n[[allow]]\ndomain = \"web/vm-2\"\n\n[[alias]]\nmac = \"52:54:00:ab:cd:ef\"\ndomain = \"web/vm-2\"\n"
    );
}

/// A rule cannot express all selectors. The key that can applies to all rules.
#[test]
fn uses_one_selector_for_all_rules_only_if_all_have_it() {
    let spec = |selector: &Value, namespace: &str| json!({"discoveryMode": "LabelSelector", "vmSelector": selector, "namespaceSelectors": [namespace]});
    let expressions = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
        {"key": "tier", "operator": "In", "values": ["a", "b"]},
        {"key": "zone", "operator": "NotIn", "values": ["c", "d"]},
        {"key": "backup", "operator": "Exists"},
        {"key": "internal", "operator": "DoesNotExist"},
    ]});
    let both = [config("x", &spec(&expressions, "web")), config("y", &spec(&expressions, "db"))];
    let actor = |configs: &[Value]| file(&import_all(configs).unwrap().0, "actor.toml");
    assert_eq!(
        actor(&both),
        "connections = [\"kubevirt://\"]\nvm-selector = \"a=b,tier in (a,b),zone notin (c,d),backup,!internal\"\n\
         \n[[allow]]\ndomain = \"db/*\"\n\n[[allow]]\ndomain = \"web/*\"\n"
    );
    let twice = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]});
    for (selector, text) in [(expressions, "backup"), (twice, "a=b,a in (b)")] {
        let configs =
            [config("x", &spec(&selector, "web")), config("y", &json!({"namespaceSelectors": ["db"]}))];
        assert_eq!(actor(&configs), "connections = [\"kubevirt://\"]\n\n[[allow]]\ndomain = \"db/*\"\n");
        let (_, notes) = import_all(&configs).unwrap();
        assert!(notes.contains("WolConfig x: not carried over") && notes.contains(text), "{notes}");
    }
}

/// An empty selector selects everything, and none selects nothing.
#[test]
fn distinguishes_an_empty_selector_from_none() {
    assert_eq!(
        actor(&json!({"discoveryMode": "LabelSelector", "vmSelector": {}})),
        "\n[[allow]]\ndomain = \"*/*\"\n"
    );
    let (kustomization, notes) = import_one(&json!({"discoveryMode": "LabelSelector"})).unwrap();
    assert_eq!(file(&kustomization, "actor.toml"), "connections = [\"kubevirt://\"]\n");
    assert!(
        notes.contains("WolConfig default: it has no vmSelector, so it does not allow any VM."),
        "{notes}"
    );
    let (_, notes) = import_one(&json!({"discoveryMode": "Explicit"})).unwrap();
    assert!(notes.contains("it has no explicitMappings, so it does not allow any VM."), "{notes}");
}

#[test]
fn combines_several_configurations() {
    let mapping = |name: &str| json!({"macAddress": "52:54:00:00:00:01", "vmName": name, "namespace": "web"});
    let (kustomization, notes) = import_all(&[
        config("a", &json!({"namespaceSelectors": ["db"], "wolPorts": [9, 4000], "cacheTTL": 300})),
        config("b", &json!({"discoveryMode": "Explicit", "explicitMappings": [mapping("x"), mapping("y")]})),
    ])
    .unwrap();
    let actor = file(&kustomization, "actor.toml");
    for domain in ["db/*", "web/x", "web/y"] {
        assert!(actor.contains(&format!("[[allow]]\ndomain = \"{domain}\"\n")), "{actor}");
    }
    assert_eq!(
        file(&kustomization, "capture.toml"),
        "ports = [0, 7, 9, 4000]\nlisten = [\"0.0.0.0:9\", \"0.0.0.0:4000\", \"[::]:9\", \"[::]:4000\"]\n"
    );
    assert!(notes.contains("uses only the explicitMappings of all WolConfigs"), "{notes}");
    assert!(notes.contains("52:54:00:00:00:01 is the address of both web/x and web/y."), "{notes}");
    assert!(notes.contains("cacheTTL: not needed."), "{notes}");
}

#[test]
fn keeps_the_default_ports() {
    for spec in [json!({}), json!({"wolPorts": []}), json!({"wolPorts": [9]})] {
        assert_eq!(file(&import_one(&spec).unwrap().0, "capture.toml"), "", "{spec}");
    }
    let ports = |count| json!({"wolPorts": Vec::from_iter(1000..1000 + count)});
    let (kustomization, notes) = import_one(&ports(9)).unwrap();
    assert!(!file(&kustomization, "capture.toml").contains("[::]"));
    assert!(notes.contains("only those of IPv4"), "{notes}");
    assert!(import_one(&ports(17)).unwrap_err().contains("more than 16 UDP ports"));
    assert!(import_one(&json!({"wolPorts": [70_000]})).unwrap_err().contains("70000"));
}

#[test]
fn translates_the_agent() {
    let resources = json!({"limits": {"memory": "128Mi"}});
    let agent = json!({
        "nodeSelector": {"zone": "a"}, "tolerations": [{"key": "k", "operator": "Exists"}], "resources": resources,
        "image": "x", "imagePullPolicy": "Always", "updateStrategy": {"type": "OnDelete"}, "priorityClassName": "high",
    });
    let (kustomization, notes) = import_one(&json!({"agent": agent})).unwrap();
    assert_eq!(kustomization["patches"][0]["target"], json!({"kind": "DaemonSet", "name": "wakevirt"}));
    let container = |name: &str| json!({"name": name, "imagePullPolicy": "Always"});
    let actor = json!({"name": "actor", "imagePullPolicy": "Always", "resources": resources});
    let pod = json!({
        "nodeSelector": {"zone": "a"}, "tolerations": [{"key": "k", "operator": "Exists"}], "priorityClassName": "high",
        "containers": [container("bus"), container("capture"), actor, container("metrics")],
    });
    let spec = json!({"updateStrategy": {"type": "OnDelete"}, "template": {"spec": pod}});
    assert_eq!(patch(&kustomization)["spec"], spec);
    assert!(notes.contains("agent.image: not carried over"), "{notes}");
    assert!(notes.contains("agent.resources: the pod has four containers"), "{notes}");
}

/// An agent without tolerations tolerates all taints. Of different values, none is carried over.
#[test]
fn combines_the_agents() {
    let all = json!([{"effect": "NoSchedule", "operator": "Exists"}, {"effect": "NoExecute", "operator": "Exists"}]);
    let tolerations = |configs: &[Value]| {
        let agents: Vec<Value> =
            configs.iter().map(|it| config("a", &json!({"agent": {"tolerations": it}}))).collect();
        patch(&import_all(&agents).unwrap().0)["spec"]["template"]["spec"]["tolerations"].clone()
    };
    let one = |key: &str| json!({"key": key});
    assert_eq!(tolerations(&[json!([])]), all);
    assert_eq!(tolerations(&[json!([one("a")]), json!([])]), all);
    assert_eq!(tolerations(&[json!([one("a")]), json!([one("b"), one("a")])]), json!([one("a"), one("b")]));
    let selectors = [json!({"zone": "a"}), json!({})];
    let configs = selectors.map(|it| config("a", &json!({"agent": {"nodeSelector": it}})));
    let (kustomization, notes) = import_all(&configs).unwrap();
    assert_eq!(patch(&kustomization)["spec"]["template"]["spec"].get("nodeSelector"), None);
    assert!(notes.contains("agent.nodeSelector: not carried over"), "{notes}");
}

#[test]
fn says_where_kubevirt_wol_differs() {
    let notes = |modes: &[&str]| {
        let spec = |mode: &&str| config("a", &json!({"discoveryMode": mode, "vmSelector": {}}));
        import_all(&modes.iter().map(spec).collect::<Vec<_>>()).unwrap().1
    };
    for modes in [&["All"] as &[_], &["All", "All"], &["Explicit"]] {
        assert!(!notes(modes).contains("7325b48"), "{modes:?}");
    }
    for modes in [&["LabelSelector"] as &[_], &["LabelSelector", "All"]] {
        assert!(notes(modes).contains("ignores vmSelector"), "{modes:?}");
    }
    for modes in [["All", "Explicit"], ["Explicit", "LabelSelector"]] {
        assert!(notes(&modes).contains("uses only the explicitMappings"), "{modes:?}");
    }
}

#[test]
fn names_unknown_fields() {
    let spec = json!({
        "color": 1, "agent": {"shape": 2}, "vmSelector": {"x": {}}, "explicitMappings":
        [{"macAddress": "52:54:00:00:00:01", "vmName": "a", "namespace": "b", "weight": 3}],
    });
    let (_, notes) = import_one(&spec).unwrap();
    let names = "spec.agent.shape, spec.color, spec.explicitMappings[].weight, spec.vmSelector.x. Check";
    assert!(notes.contains(names), "{notes}");
    let many: serde_json::Map<String, Value> = (0..40).map(|it| (format!("k{it}\n"), json!(1))).collect();
    let (_, notes) = import_one(&Value::Object(many)).unwrap();
    assert!(notes.contains(" and 8 more"), "{notes}");
}

#[test]
fn rejects_invalid_input() {
    let mapping = |mac: &str, name: &str| {
        config(
            "a",
            &json!({"discoveryMode": "Explicit", "explicitMappings": [{"macAddress": mac, "vmName": name, "namespace": "n"}]}),
        )
    };
    let selector = |it: Value| config("a", &json!({"discoveryMode": "LabelSelector", "vmSelector": it}));
    let expression = |it: Value| selector(json!({"matchExpressions": [it]}));
    let names = |count: usize| (0..count).map(|it| format!("n{it}")).collect::<Vec<_>>();
    for (input, part) in [
        (json!({"kind": "Pod", "apiVersion": "v1"}), "the kind \"Pod\" in \"v1\""),
        (json!([]), "the kind \"\""),
        (json!({"kind": "List", "items": []}), "does not contain a WolConfig"),
        (json!({"kind": "List", "items": vec![config("a", &json!({})); 65]}), "more than 64 WolConfigs"),
        (config("A\n# ", &json!({})), "is not the name of an object"),
        (config("a", &json!({"discoveryMode": "Some"})), "WolConfig \"a\": unknown variant `Some`"),
        (config("a", &json!({"namespaceSelectors": ["a*"]})), "\"a*\" is not the name of a namespace"),
        (config("a", &json!({"namespaceSelectors": names(1025)})), "more than 1024 rules"),
        (config("a", &json!({"agent": {"priorityClassName": "a\nb"}})), "agent.priorityClassName"),
        (config("a", &json!({"agent": {"imagePullPolicy": "Often"}})), "unknown value \"Often\""),
        (mapping("52:54", "a"), "macAddress of \"a\""),
        (mapping("52:54:00:00:00:01", "a\"\n"), "is not the name of an object"),
        (selector(json!({"matchLabels": {"a": "b\""}})), "is not the value of a label"),
        (selector(json!({"matchLabels": {"a b": ""}})), "is not the key of a label"),
        (expression(json!({"key": "a", "operator": "In"})), "needs values"),
        (expression(json!({"key": "a", "operator": "Exists", "values": ["b"]})), "must not have values"),
        (expression(json!({"key": "a", "operator": "In", "values": names(65)})), "more than 64 values"),
    ] {
        let error = import(input.to_string().as_bytes(), "b").unwrap_err().to_string();
        assert!(error.contains(part), "{input}: {error}");
    }
    assert!(matches!(import(b"kind: List", "b"), Err(ImportError::NotJson(_))));
    let arguments = Arguments { base: "b".to_owned() };
    let endless = std::io::repeat(b' ');
    assert!(matches!(run(&arguments, endless, Vec::new(), Vec::new()), Err(ImportError::TooLarge { .. })));
}

#[test]
fn writes_the_result_and_the_notes() {
    let (mut output, mut messages) = (Vec::new(), Vec::new());
    let input = config("default", &json!({"cacheTTL": 300})).to_string();
    let arguments = Arguments { base: "/b \"\u{2028}".to_owned() };
    run(&arguments, input.as_bytes(), &mut output, &mut messages).unwrap();
    let kustomization: Value = serde_saphyr::from_str(str::from_utf8(&output).unwrap()).unwrap();
    assert_eq!(kustomization["resources"], json!(["/b \"\u{2028}"]));
    assert_eq!(messages, b"cacheTTL: not needed. wakevirt is informed of each change to a VM.\n");
}

/// Texts that could end a string, a comment or a block in YAML or TOML.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9-]{1,8}",
        select(vec![
            "a",
            "52:54:00:00:00:01",
            "\n",
            "\"",
            "a\nb: c",
            "\u{85}x",
            "\u{2028}x",
            "\u{feff}",
            "\u{7f}",
            "# "
        ])
        .prop_map(str::to_owned),
        any::<String>(),
    ]
}

fn spec() -> impl Strategy<Value = Value> {
    let mode = select(vec!["All", "LabelSelector", "Explicit"]);
    let agent = (text(), text()).prop_map(
        |(a, b)| json!({"nodeSelector": {&a: &b}, "tolerations": [{"key": b}], "resources": {&a: {"cpu": a}}}),
    );
    (mode, vec(text(), 0..3), vec((text(), text(), text()), 0..3), agent, text()).prop_map(
        |(mode, names, tuples, agent, unknown)| {
            let labels: serde_json::Map<String, Value> =
                tuples.iter().map(|(a, b, _)| (a.clone(), json!(b))).collect();
            let mappings: Vec<Value> = tuples
                .iter()
                .map(|(a, b, c)| json!({"macAddress": a, "vmName": b, "namespace": c}))
                .collect();
            let mut spec = json!({
                "discoveryMode": mode, "namespaceSelectors": names, "vmSelector": {"matchLabels": labels},
                "explicitMappings": mappings, "agent": agent,
            });
            if !unknown.is_empty() {
                spec[format!("x{unknown}")] = json!(unknown);
            }
            spec
        },
    )
}

proptest! {
    /// No text from the input adds a key to one of the files.
    #[test]
    fn no_text_leaves_its_place(specs in vec(spec(), 1..3)) {
        let configs: Vec<Value> = specs.iter().map(|spec| config("a", spec)).collect();
        if let Ok((kustomization, _)) = import_all(&configs) {
            let keys: Vec<&String> = kustomization.as_object().unwrap().keys().collect();
            prop_assert_eq!(keys, ["apiVersion", "configMapGenerator", "kind", "patches", "resources"]);
            for line in file(&kustomization, "actor.toml").lines() {
                let starts = ["", "[[allow]]", "[[alias]]", "connections = ", "domain = ", "labels = { \"", "mac = "];
                let known = starts.iter().any(|it| line == *it || !it.is_empty() && line.starts_with(it));
                prop_assert!(known, "{}", line);
            }
            let selector = patch(&kustomization)["spec"]["template"]["spec"]["nodeSelector"].clone();
            if let [spec] = &specs[..] {
                prop_assert_eq!(&selector, &spec["agent"]["nodeSelector"]);
            }
        }
    }

    #[test]
    fn survives_any_input(input: Vec<u8>) {
        let _ = import(&input, "base");
    }
}
