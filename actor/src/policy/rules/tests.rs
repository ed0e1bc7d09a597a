use proptest::collection::btree_set;
use proptest::prelude::*;
use proptest::sample::Index;
use uuid::Uuid;

use super::pattern::octets;
use super::*;
use crate::model::{Id, MacSet, State, Stop};
use wakevirt_protocol::bus::PacketDetails;

impl Rule {
    fn accepts(&self, details: &PacketDetails) -> bool {
        self.unmet_condition(details).is_none()
    }
}

fn domain(name: &str) -> Domain {
    Domain {
        id: Id { connection: "test:///".into(), uuid: Uuid::from_u128(7) },
        name: name.to_owned(),
        macs: MacSet::default(),
        opt_in: false,
        labels: crate::model::Labels::default(),
        state: State::ShutOff,
        stop: Stop::Unknown,
    }
}

fn mac() -> MacAddr {
    MacAddr::new([0x52, 0x54, 0, 0x12, 0x34, 0x56])
}

#[test]
fn allows_domains_by_name_glob_and_uuid() {
    for (pattern, name, allowed) in [
        ("win11", "win11", true),
        ("win11", "win110", false),
        ("win11", "Win11", false),
        ("win*", "win11", true),
        ("*", "any name", true),
        ("web-[0-9]", "web-3", true),
        ("web-[0-9]", "web-10", false),
        ("vm[1]", "vm[1]", true),
        ("{a,b}", "b", true),
        ("00000000-0000-0000-0000-000000000007", "any", true),
        ("00000000-0000-0000-0000-000000000008", "any", false),
    ] {
        let rules = Rules::parse(&format!("[[allow]]\ndomain = {pattern:?}"));
        assert_eq!(rules.allowed_by(&domain(name), mac()).is_some(), allowed, "{pattern} {name}");
        assert_eq!(rules.select(&[&domain(name)]).is_some(), allowed);
    }
}

#[test]
fn allows_by_mac_address() {
    for (pattern, allowed) in [
        ("52:54:00:12:34:56", true),
        ("52-54-00-12-34-56", true),
        ("52:54:00:12:34:57", false),
        ("52:54:00:*", true),
        ("52:54:01:*", false),
        ("*", true),
        ("52:54:*:12:34:*", true),
        ("52:54:*:13:34:*", false),
        ("*:*:*:*:*:56", true),
    ] {
        let rules = Rules::parse(&format!("[[allow]]\nmac = {pattern:?}"));
        assert_eq!(rules.allowed_by(&domain("any"), mac()).is_some(), allowed, "{pattern}");
        assert!(
            rules.select(&[&domain("any")]).is_none(),
            "a rule with a MAC address does not name a domain"
        );
    }
}

#[test]
fn shows_the_first_matching_rule() {
    let rules =
        Rules::parse("[[allow]]\nmac = \"aa:*\"\n[[allow]]\ndomain = \"w*\"\n[[allow]]\ndomain = \"win11\"");
    assert_eq!(rules.allowed_by(&domain("win11"), mac()).unwrap(), "domain = \"w*\"");
    let aa = MacAddr::new([0xaa; 6]);
    assert_eq!(rules.allowed_by(&domain("win11"), aa).unwrap(), "mac = \"aa:*\"");
}

#[test]
fn allows_nothing_by_default() {
    assert!(Rules::default().allowed_by(&domain("win11"), mac()).is_none());
}

#[test]
fn rejects_invalid_patterns() {
    for text in ["", "52:54", "52:54:*:00", "52:54:00:12:34:5*", "52:54:00:12:34:56:*", "**", "5*:*", "x:*"] {
        assert!(octets(text).is_none(), "{text}");
    }
}

/// The domains that the pattern matches once all of them are known.
fn matched<'a>(pattern: &str, names: &[&'a str]) -> Vec<&'a str> {
    let mut rules = Rules::parse(&format!("[[allow]]\ndomain = {pattern:?}"));
    for name in names {
        let _ = rules.note_name(&domain(name));
    }
    names.iter().filter(|name| rules.select(&[&domain(name)]).is_some()).copied().collect()
}

#[test]
fn a_name_with_glob_characters_matches_only_that_domain() {
    for (pattern, names, expected) in [
        ("win[1]", &["win1", "win[1]"] as &[_], &["win[1]"] as &[_]),
        ("win[1]", &["win1", "win2"], &["win1"]),
        (r"win\[1\]", &["win1", "win[1]"], &["win[1]"]),
        (r"win\[1\]", &["win1"], &[]),
        ("win[[]1]", &["win1", "win[1]"], &["win[1]"]),
        ("[GPU] win11", &["G win11", "[GPU] win11"], &["[GPU] win11"]),
        ("[win11", &["win11", "[win11"], &["[win11"]),
        ("{win", &["win", "{win"], &["{win"]),
        (r"a\", &["a", r"a\"], &[r"a\"]),
        ("web-*", &["web-1", "web-*", "web-2"], &["web-*"]),
        ("{a,b}", &["a", "b", "c"], &["a", "b"]),
    ] {
        assert_eq!(matched(pattern, names), expected, "{pattern}");
    }
}

#[test]
fn the_removal_of_a_domain_does_not_allow_another_domain() {
    let mut rules = Rules::parse("[[allow]]\ndomain = \"win[1]\"\nconnection = \"test:///\"");
    let mut other = domain("win[1]");
    other.id.connection = "lxc:///".into();
    assert!(rules.note_name(&other).is_empty(), "the rule is for another connection");
    assert!(rules.select(&[&domain("win1")]).is_some());
    assert_eq!(rules.note_name(&domain("win[1]")), ["domain = \"win[1]\", connection = \"test:///\""]);
    assert!(rules.note_name(&domain("win[1]")).is_empty(), "returned only once");
    assert!(rules.select(&[&domain("win1")]).is_none());
    assert!(rules.select(&[&domain("win[1]")]).is_some());
}

proptest! {
    /// For any set of domains: the name of a domain matches that domain and no other.
    #[test]
    fn an_exact_name_matches_only_that_domain(names in btree_set(r"[ab\[\]{},*?!\\-]{1,6}", 1..20), which: Index) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let pattern = *which.get(&names);
        prop_assert_eq!(matched(pattern, &names), [pattern]);
    }
}

#[test]
fn limits_and_shortens_lists() {
    let rule = |key: &str, count: usize| {
        let value = |number: usize| format!("\"10.0.{}.{}\"", number / 256, number % 256);
        let values: Vec<String> = (0..count).map(value).collect();
        toml::from_str::<Rule>(&format!("domain = \"a\"\n{key} = [{}]", values.join(", ")))
    };
    for (key, limit, last) in [("interfaces", 32, "10.0.0.31"), ("sources", 256, "10.0.0.255")] {
        let good = rule(key, limit).unwrap();
        let first = "\"10.0.0.0\", \"10.0.0.1\", \"10.0.0.2\"";
        assert_eq!(good.to_string(), format!("domain = \"a\", {key} = [{first} and {} more]", limit - 3));
        assert!(good.keys().last().unwrap().ends_with(&format!("\"{last}\"]")));
        let error = rule(key, limit + 1).unwrap_err().to_string();
        assert!(error.contains(&format!("more than {limit} {key}")), "{error}");
        let three = rule(key, 3).unwrap();
        assert_eq!(three.to_string(), three.keys().collect::<Vec<_>>().join(", "));
    }
}

fn details(interface: &str, source: Option<&str>, source_mac: Option<&str>) -> PacketDetails {
    PacketDetails {
        interface: Some(interface.to_owned()),
        source: source.map(|it| it.parse().unwrap()),
        source_mac: source_mac.map(|it| it.parse().unwrap()),
        ..PacketDetails::default()
    }
}

#[test]
fn matches_an_interface_by_each_of_its_names() {
    let mut packet = details("eth0", None, None);
    packet.alternatives = vec!["enp1s0".to_owned(), "uplink-of-the-site".to_owned()];
    for (pattern, accepted) in
        [("eth0", true), ("enp1s0", true), ("uplink-*", true), ("enp2s0", false), ("wlan*", false)]
    {
        let rules = Rules::parse(&format!("[[allow]]\ndomain = \"*\"\ninterfaces = [{pattern:?}]"));
        assert_eq!(rules.iter().next().unwrap().accepts(&packet), accepted, "{pattern}");
    }
    // Without a known interface, its alternative names do not match either.
    packet.interface = None;
    assert!(
        !Rules::parse("[[allow]]\ndomain = \"*\"\ninterfaces = [\"*\"]")
            .iter()
            .next()
            .unwrap()
            .accepts(&packet)
    );
}

#[test]
fn restricts_interfaces_and_sources() {
    let lan = details("br0", Some("192.168.1.7"), Some("02:00:00:00:00:07"));
    let mapped = details("br0", Some("::ffff:192.168.1.7"), None);
    let frame = details("eth1", None, Some("02:00:00:00:00:08"));
    for (keys, expected) in [
        ("", [true, true, true]),
        ("interfaces = [\"br0\"]", [true, true, false]),
        ("interfaces = [\"eth*\", \"x\"]", [false, false, true]),
        ("sources = [\"192.168.1.0/24\"]", [true, true, false]),
        ("sources = [\"192.168.1.8\"]", [false, false, false]),
        ("sources = [\"02:00:00:00:00:07\"]", [true, false, false]),
        ("sources = [\"fd00::/8\", \"02:00:*\"]", [true, false, true]),
        ("interfaces = [\"br0\"]\nsources = [\"02:00:00:00:00:08\"]", [false, false, false]),
    ] {
        let rules = Rules::parse(&format!("[[allow]]\ndomain = \"*\"\n{keys}"));
        let rule = rules.iter().next().unwrap();
        assert_eq!([&lan, &mapped, &frame].map(|it| rule.accepts(it)), expected, "{keys}");
        let shown = rule.keys().collect::<Vec<_>>().join("\n");
        assert_eq!(shown, format!("domain = \"*\"\n{keys}").trim());
    }
    assert!(
        !Rules::parse("[[allow]]\ndomain = \"*\"\ninterfaces = [\"*\"]")
            .iter()
            .next()
            .unwrap()
            .accepts(&PacketDetails::default())
    );
}

#[test]
fn restricts_vlans() {
    let tagged = |vlan| PacketDetails { vlan, ..details("trunk0", None, None) };
    for (keys, accepted) in [
        ("", &[None, Some(0_u16), Some(10), Some(20), Some(30)] as &[_]),
        ("vlans = [10, 20]", &[Some(10), Some(20)]),
        ("vlans = [0]", &[Some(0)]),
        ("vlans = [0, 4094]", &[Some(0)]),
        ("interfaces = [\"lan0\"]\nvlans = [10]", &[]),
    ] {
        let rules = Rules::parse(&format!("[[allow]]\ndomain = \"*\"\n{keys}"));
        let rule = rules.iter().next().unwrap();
        let all = [None, Some(0), Some(10), Some(20), Some(30)];
        let accepts: Vec<Option<u16>> = all.into_iter().filter(|vlan| rule.accepts(&tagged(*vlan))).collect();
        assert_eq!(accepts, accepted, "{keys}");
        let shown = rule.keys().collect::<Vec<_>>().join("\n");
        assert_eq!(shown, format!("domain = \"*\"\n{keys}").trim());
    }
}

#[test]
fn a_rule_can_be_limited_to_one_connection() {
    let rules = Rules::parse("[[allow]]\ndomain = \"*\"\nconnection = \"lxc:///\"");
    assert!(rules.select(&[&domain("a")]).is_none());
    let mut other = domain("a");
    other.id.connection = "lxc:///".into();
    assert!(rules.select(&[&other]).is_some());
    assert!(rules.allowed_by(&other, mac()).is_some());
}

#[test]
fn metadata_can_allow_a_domain() {
    let opted_in = Domain { opt_in: true, ..domain("a") };
    assert_eq!(
        Rules::new(Vec::new(), Metadata::Counts).allowed_by(&opted_in, mac()).as_deref(),
        Some(METADATA)
    );
    assert_eq!(Rules::new(Vec::new(), Metadata::Ignored).allowed_by(&opted_in, mac()), None);
    assert_eq!(Rules::new(Vec::new(), Metadata::Counts).allowed_by(&domain("a"), mac()), None);
}

/// A domain of a cluster with these labels.
fn machine(name: &str, labels: &[(&str, &str)]) -> Domain {
    Domain { labels: crate::model::Labels::new(labels.iter().copied()), ..domain(name) }
}

#[test]
fn a_label_must_have_one_of_the_values() {
    let rules = Rules::parse(
        "[[allow]]\ndomain = \"web/*\"\nlabels = { app = \"nginx\", \"example.org/tier\" = [\"a\", \"b\"] }",
    );
    let tier = |value| [("app", "nginx"), ("example.org/tier", value)];
    assert!(rules.allowed_by(&machine("web/vm", &tier("b")), mac()).is_some());
    for (name, labels) in [
        ("web/vm", tier("c").as_slice()),
        ("lab/vm", &tier("b")),
        ("web/vm", &tier("b")[..1]),
        ("web/vm", &tier("b")[1..]),
    ] {
        assert_eq!(rules.allowed_by(&machine(name, labels), mac()), None, "{name} {labels:?}");
    }
    let text = rules.iter().next().unwrap().to_string();
    assert_eq!(
        text,
        "domain = \"web/*\", labels = { \"app\" = \"nginx\", \"example.org/tier\" = [\"a\", \"b\"] }"
    );
    let shown = Rules::parse(&format!("[[allow]]\n{}", text.replace(", labels", "\nlabels")));
    assert_eq!(shown.iter().next(), rules.iter().next());
    let alone = Rules::parse("[[allow]]\nlabels = { app = \"nginx\" }\nhalted = \"leave\"");
    assert!(alone.select(&[&machine("a/b", &tier("x"))]).is_some());
    assert_eq!(alone.allowed_by(&machine("a/b", &[]), mac()), None);
    assert_eq!(alone.iter().next().unwrap().handling().halted, Halted::Leave);
}

#[test]
fn a_star_does_not_match_a_slash() {
    for (pattern, allowed) in [
        ("*", false),
        ("web*", false),
        ("web/*", true),
        ("*/vm1", true),
        ("web/vm?", true),
        ("web?vm1", false),
        ("**", true),
        ("{web,lab}/*", true),
    ] {
        let rules = Rules::parse(&format!("[[allow]]\ndomain = {pattern:?}"));
        assert_eq!(rules.allowed_by(&domain("web/vm1"), mac()).is_some(), allowed, "{pattern}");
    }
}

/// A tenant who copies the address of another tenant's domain neither receives nor blocks its wakes.
#[test]
fn in_a_cluster_only_a_rule_without_a_glob_selects_a_domain() {
    let parse = |text: &str| {
        let rules = Rules::parse(text);
        Rules::of_cluster(rules.iter().cloned().collect(), Metadata::Ignored)
    };
    let (victim, copy) = (domain("web/vm1"), domain("dev/copy"));
    let receiver = Domain { state: State::MigratedAway, ..domain("dev/receiver") };
    let both = [&victim, &copy];
    for (rules, domains, selected) in [
        ("[[allow]]\ndomain = \"web/vm1\"", &both, Some(&victim)),
        ("[[allow]]\ndomain = \"web/vm1\"\n[[allow]]\ndomain = \"dev/*\"", &both, Some(&victim)),
        ("[[allow]]\ndomain = \"dev/*\"", &both, None),
        ("[[allow]]\ndomain = \"web/vm1\"\n[[allow]]\ndomain = \"dev/copy\"", &both, None),
        ("[[allow]]\nmac = \"*\"", &[&victim, &receiver], Some(&victim)),
        ("", &[&receiver, &receiver], None),
    ] {
        assert_eq!(parse(rules).select(domains), selected, "{rules}");
    }
}

#[test]
fn metadata_counts_only_in_the_listed_namespaces() {
    let rules = |namespaces: &[&str]| {
        let namespaces = namespaces.iter().map(|name| (*name).to_owned()).collect();
        Rules::of_cluster(Vec::new(), Metadata::CountsIn(namespaces))
    };
    let opted_in = Domain { opt_in: true, ..domain("web/vm1") };
    assert!(rules(&["lab", "web"]).allowed_by_metadata(&opted_in));
    assert!(!rules(&["web"]).allowed_by_metadata(&domain("web/vm1")));
    assert!(!rules(&["lab"]).allowed_by_metadata(&opted_in));
    assert!(!rules(&[]).allowed_by_metadata(&opted_in));
}

#[test]
fn rejects_invalid_labels() {
    for (labels, problem) in [
        ("{}", "an empty table matches everything"),
        ("{ app = [] }", "has 0 values"),
        ("{ app = 1 }", "a string, or a list of strings"),
        ("\"app=web\"", "invalid type"),
    ] {
        let error = toml::from_str::<Rule>(&format!("labels = {labels}")).unwrap_err().to_string();
        assert!(error.contains(problem), "{labels}: {error}");
    }
}
