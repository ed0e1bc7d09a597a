//! `wakevirtctl explain`.

use wakevirt_tests::host::{Host, User};
use wakevirt_tests::privileged;
use wakevirt_tests::project::json::{assert_documented, documented};

use crate::site::{ALLOWED_MAC, OTHER_MAC, Site, run};

#[test]
fn explains_a_packet_rule_by_rule() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host);
    let packet = ["--interface", "lo", "--vlan", "0", "--source", "127.0.0.1"];
    let text = site.ctl(&[&["explain", ALLOWED_MAC], &packet[..]].concat());
    assert!(text.starts_with(&format!("mac\t{ALLOWED_MAC}\nwould wake\tyes\nreason\t")), "{text}");
    assert!(text.contains("\naction\tstart\ndomain\tvm1 (shut off) on "), "{text}");
    let rule = text.lines().find(|line| line.starts_with("1\t")).unwrap_or_default();
    assert!(rule.starts_with("1\tallows\tyes\t") && rule.contains("domain = \"vm1\""), "{text}");
    assert_eq!(site.ctl(&[&["explain", "vm1"], &packet[..]].concat()), text);

    host.write(
        "/etc/wakevirt/actor.d/alias.toml",
        &format!("[[alias]]\nmac = \"{OTHER_MAC}\"\ndomain = \"vm3\"\n"),
    );
    host.call(User::Root, "org.wakevirt.Actor1", "Reload", &[]).unwrap();
    let optional = ["domains.wake", "domains.cool-down", "domains.last-wake", "rules.file", "rules.line"];
    let keys = documented("explain");
    assert_documented(&site.json(&["explain", "vm1"]), &keys, &[&["outcome"], &optional[..]].concat());
    site.ctl(&["wake", "vm2"]);
    let printed = run(&host, User::Root, &["--json", "explain", "vm2"]);
    assert_documented(
        &serde_json::from_str(&printed.out).unwrap(),
        &keys,
        &[&["action"], &optional[..]].concat(),
    );

    for target in ["vm2", OTHER_MAC] {
        let printed = run(&host, User::WakevirtMember, &["explain", target]);
        assert_eq!(printed.status, 1, "{printed:?}");
        assert!(
            printed.out.contains("would wake\tno\n") && printed.out.contains("\n1\tdomain\t"),
            "{printed:?}"
        );
    }
    assert_eq!(run(&host, User::Unprivileged, &["explain", ALLOWED_MAC]).status, 4);
    assert_eq!(run(&host, User::Root, &["explain", ALLOWED_MAC, "--vlan", "4095"]).status, 2);
}
