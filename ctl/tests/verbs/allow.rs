//! `wakevirtctl allow` and `forbid`.

use std::os::unix::fs::PermissionsExt as _;

use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::{Host, PROGRAMS, User, succeed};
use wakevirt_tests::libvirt::{TEST, test_domain};
use wakevirt_tests::project::json::{assert_documented, documented};
use wakevirt_tests::{privileged, wait};

use crate::site::{OTHER_MAC, Printed, Site, run};

const FOLDER: &str = "/etc/wakevirt/actor.d";
const FILE: &str = "/etc/wakevirt/actor.d/50-allow-vm2.toml";

/// Returns the names of the actor's drop-ins.
fn files(host: &Host) -> Vec<String> {
    let entries = std::fs::read_dir(host.path(FOLDER)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Runs the program as root, and requires exit status 1.
fn fails(host: &Host, arguments: &[&str]) -> Printed {
    let printed = run(host, User::Root, arguments);
    assert_eq!(printed.status, 1, "{arguments:?}: {printed:?}");
    printed
}

fn wakes(host: &Host, domain: &str) -> bool {
    run(host, User::Root, &["explain", domain]).out.contains("would wake\tyes\n")
}

#[test]
fn allows_and_forbids_a_domain() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host);
    let printed = host.sh(&format!("umask 077; {PROGRAMS}/wakevirtctl allow vm2"));
    let expected = format!("wrote {FILE}:\n  [[allow]]\n  domain = \"vm2\"\nit allows vm2\n");
    assert_eq!(printed, expected);
    let mode = |path: &str| std::fs::metadata(host.path(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(FILE), mode(FOLDER)), (0o644, 0o755));
    assert_eq!(host.read(FILE), run(&host, User::Unprivileged, &["allow", "--print", "vm2"]).out);
    assert!(wakes(&host, "vm2"));
    host.sh(&format!("wakeonlan -i 127.0.0.1 {OTHER_MAC}"));
    site.libvirtd.wait_for_state(TEST, "vm2", "running");

    assert!(site.ctl(&["allow", "vm2"]).starts_with(&format!("already allowed by {FILE}:\n")));
    assert_eq!(files(&host), ["50-allow-vm2.toml"]);
    assert_eq!(site.ctl(&["forbid", "vm2"]), format!("removed {FILE}\n"));
    assert!(files(&host).is_empty() && !wakes(&host, "vm2"));
    assert_eq!(site.ctl(&["forbid", "vm2"]), format!("{FILE} does not exist\n"));
}

#[test]
fn prints_documented_json_of_both() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host);
    let (allow, forbid) = (documented("allow"), documented("forbid"));
    for outcome in ["written", "unchanged"] {
        let allowed = site.json(&["allow", "vm2"]);
        assert_documented(&allowed, &allow, &[]);
        assert_eq!((&allowed["outcome"], &allowed["applied"]), (&outcome.into(), &true.into()));
    }
    let printed = site.json(&["allow", "--print", "vm2"]);
    assert_documented(&printed, &allow, &["applied"]);
    assert_eq!(printed["content"], host.read(FILE));
    for outcome in ["removed", "absent"] {
        let forbidden = site.json(&["forbid", "vm2"]);
        assert_documented(&forbidden, &forbid, &["still-allowed"]);
        assert_eq!(forbidden["outcome"], outcome);
    }
}

#[test]
fn leaves_files_of_the_administrator_as_they_are() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host);
    let check = || {
        let printed = fails(&host, &["allow", "vm2"]);
        assert!(printed.err.contains(FILE) && printed.err.contains("was left unchanged"), "{printed:?}");
        let printed = fails(&host, &["forbid", "vm2"]);
        assert!(printed.out.contains("was edited"), "{printed:?}");
    };
    site.ctl(&["allow", "vm2"]);
    let edited = format!("{}vlans = [10]\n", host.read(FILE));
    host.write(FILE, &edited);
    check();
    assert_eq!(host.read(FILE), edited);
    let printed = fails(&host, &["forbid", "vm2"]);
    assert!(printed.out.contains(&format!("{FILE}:2\n")), "{printed:?}");

    host.sh(&format!("cd {FOLDER}; mv 50-allow-vm2.toml mine; ln -s mine 50-allow-vm2.toml"));
    check();
    assert_eq!(files(&host), ["50-allow-vm2.toml", "mine"]);
    assert_eq!(host.read(FILE), edited);
}

#[test]
fn rejects_a_name_that_no_domain_has() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host);
    for verb in ["allow", "forbid"] {
        let printed = fails(&host, &[verb, "vm3"]);
        assert!(printed.err.contains("did you mean \"vm") && printed.err.contains("--force"), "{printed:?}");
    }
    fails(&host, &["allow", "win*"]);
    assert!(files(&host).is_empty());
    assert!(site.ctl(&["allow", "--force", "vm3"]).contains("no known domain matches it yet"));
    assert_eq!(files(&host), ["50-allow-vm3.toml"]);
    assert!(site.ctl(&["forbid", "vm3"]).starts_with("removed "));
    assert!(site.ctl(&["forbid", "--force", "vm3"]).contains("does not exist"));
}

#[test]
fn names_what_still_allows_a_domain() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host);
    assert!(site.ctl(&["allow", "vm*"]).contains("it allows vm1, vm2\n"));
    assert!(wakes(&host, "vm2"));
    let still = "vm2 is still allowed: domain = \"vm*\", /etc/wakevirt/actor.d/50-allow-vm\\x2a.toml:2";
    let printed = fails(&host, &["forbid", "vm2"]);
    // The backslash of the file name is not escaped again.
    assert!(printed.out.contains(still), "{printed:?}");
    let printed = fails(&host, &["--json", "forbid", "vm*"]);
    let json: serde_json::Value = serde_json::from_str(&printed.out).unwrap();
    assert_eq!((&json["outcome"], &json["applied"]), (&"removed".into(), &true.into()));
    assert_documented(&json, &documented("forbid"), &[]);
    let still = serde_json::json!([{
        "domain": "vm1", "rule": "domain = \"vm1\"", "file": "/etc/wakevirt/actor.toml", "line": 2
    }]);
    assert_eq!(json["still-allowed"], still);
    assert!(!wakes(&host, "vm2"));
}

#[test]
fn names_can_contain_any_characters() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host);
    for (number, name) in [".my [web] *", "-Küche \\ \"1\"", "'--print'"].into_iter().enumerate() {
        site.libvirtd.define(TEST, &test_domain(name, &format!("52:54:00:01:02:1{number}")));
        wait::until_true("the actor to know the domain", || {
            site.json(&["list"]).as_array().unwrap().iter().any(|domain| domain["name"] == name)
        });
        let allowed = site.json(&["allow", "--", name]);
        let escaped = succeed(host.command("systemd-escape").args(["--", name]));
        let file = format!("{FOLDER}/50-allow-{}.toml", escaped.trim_end());
        assert_eq!((&allowed["file"], &allowed["domains"]), (&file.into(), &serde_json::json!([name])));
        assert!(wakes(&host, &format!("52:54:00:01:02:1{number}")), "{name}");
        assert_eq!(site.json(&["forbid", "--", name])["outcome"], "removed");
    }
    let uuid = site.json(&["show", "vm2"])["uuid"].as_str().unwrap().to_owned();
    assert!(site.ctl(&["allow", &uuid]).contains("it allows vm2\n"));
    assert!(wakes(&host, "vm2"));
    assert_eq!(run(&host, User::Root, &["allow", ""]).status, 2);
}

#[test]
fn undoes_a_change_that_the_actor_rejects() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host);
    site.ctl(&["allow", "vm2"]);
    let content = host.read(FILE);
    host.write(&format!("{FOLDER}/99-bad.toml"), "nonsense = true\n");
    let printed = fails(&host, &["forbid", "vm2"]);
    assert!(
        printed.err.contains("nothing was changed") && printed.err.contains("99-bad.toml"),
        "{printed:?}"
    );
    assert_eq!(host.read(FILE), content);
    let printed = fails(&host, &["allow", "*"]);
    assert!(
        printed.err.contains("nothing was changed") && printed.err.contains("99-bad.toml"),
        "{printed:?}"
    );
    assert_eq!(files(&host), ["50-allow-vm2.toml", "99-bad.toml"]);
}

#[test]
fn names_the_missing_permission() {
    privileged!();
    let host = Host::new();
    let _site = Site::new(&host);
    for verb in ["allow", "forbid"] {
        let printed = run(&host, User::WakevirtMember, &[verb, "vm 2"]);
        assert_eq!(printed.status, 4, "{printed:?}");
        assert!(printed.err.contains(&format!("sudo wakevirtctl {verb} 'vm 2'")), "{printed:?}");
    }
    assert!(files(&host).is_empty());
}

#[test]
fn works_without_the_actor_and_fails_with_a_different_configuration() {
    privileged!();
    let host = Host::new();
    let mut site = Site::new(&host);
    site.actor = None;
    wait::until_true("the actor to leave the bus", || !host.name_is_owned("org.wakevirt.Actor1"));
    let printed = run(&host, User::Root, &["allow", "vm2"]);
    assert!(printed.status == 3 && printed.err.contains("--force skips this check"), "{printed:?}");
    assert!(files(&host).is_empty());
    let printed = site.ctl(&["allow", "--force", "vm2"]);
    assert!(printed.contains("the rule takes effect when it starts"), "{printed}");
    assert_eq!(files(&host), ["50-allow-vm2.toml"]);
    assert!(site.ctl(&["forbid", "vm2"]).contains("other rules were not checked"));

    let config = format!("connections = [\"{TEST}\"]\n");
    site.actor = Some(Daemon::actor(&host).config(&config).start_connected());
    let printed = fails(&host, &["allow", "vm2"]);
    assert!(printed.err.contains("if the actor was started with --config"), "{printed:?}");
    assert!(files(&host).is_empty());
}

#[test]
fn changes_the_metadata_of_a_domain() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host);
    let set = site.ctl(&["allow", "--in-domain", "vm2"]);
    assert!(set.starts_with("vm2: allowed by its metadata in test+unix:"), "{set}");
    let metadata = "\tmetadata of the domain";
    wait::until_true("the actor to read the metadata", || site.ctl(&["list"]).contains(metadata));
    assert_documented(
        &site.json(&["allow", "--in-domain", "vm2"]),
        &documented("allow"),
        &["file", "content", "applied"],
    );
    let printed = fails(&host, &["forbid", "vm2"]);
    assert!(printed.out.contains("\"wakevirtctl forbid --in-domain\" removes it"), "{printed:?}");
    let removed = site.ctl(&["forbid", "--in-domain", "vm2"]);
    assert_eq!(removed, "removed wakevirt's metadata from the domain\n");
    wait::until_true("the actor to read the metadata", || !site.ctl(&["list"]).contains(metadata));
    assert!(site.ctl(&["forbid", "--in-domain", "vm2"]).contains("has no wakevirt metadata"));
    // A rule allows this domain.
    let printed = fails(&host, &["forbid", "--in-domain", "vm1"]);
    assert!(printed.out.contains("/etc/wakevirt/actor.toml:2"), "{printed:?}");
    let printed = run(&host, User::WakevirtMember, &["allow", "--in-domain", "vm2"]);
    assert!(printed.status == 1 && printed.err.contains("virsh --connect"), "{printed:?}");
}

#[test]
fn doctor_prints_the_command() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host);
    let printed = run(&host, User::Root, &["--json", "doctor", "vm2"]);
    let json: serde_json::Value = serde_json::from_str(&printed.out).unwrap();
    let findings = json["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["check"] == "not-allowed").unwrap();
    assert_eq!(finding["cure"], "wakevirtctl allow vm2");
    host.sh(&format!("PATH={PROGRAMS}:$PATH; {}", finding["cure"].as_str().unwrap()));
    assert_eq!(site.ctl(&["list", "--allowed"]).lines().count(), 2);
}
