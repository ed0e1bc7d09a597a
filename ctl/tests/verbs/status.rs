//! `wakevirtctl status`.

use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::host::{Host, User};
use wakevirt_tests::privileged;

use crate::site::{Site, run};

#[test]
fn shows_both_services_on_one_screen() {
    privileged!();
    let host = Host::new();
    let site = Site::new(&host);
    let text = site.ctl(&[]);
    assert_eq!(text, site.ctl(&["status"]));
    let row = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}\t")));
        line.unwrap_or_else(|| panic!("no row {name}:\n{text}")).to_owned()
    };
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(row("capture"), format!("capture\trunning, version {version}, mode raw"));
    assert_eq!(row("actor"), format!("actor\trunning, version {version}"));
    assert_eq!(row("interfaces"), "interfaces\tlo");
    // The test driver starts with a domain, `test`.
    assert_eq!(row("domains"), "domains\t3, 1 allowed");
    assert!(row("hypervisor").ends_with(" connected"), "{text}");
    assert!(!text.contains("warning"), "{text}");

    site.host.call(User::Root, "org.wakevirt.Actor1", "WakeDomain", &["'vm2'"]).unwrap();
    let text = site.ctl(&[]);
    assert!(text.contains("\tstarted\tvm2\t"), "{text}");
    let json = site.json(&[]);
    assert_eq!(json["decisions"][0]["domain"], "vm2");
    assert_eq!(json["actor"]["outcomes"]["started"], 1);
    assert_eq!(json["capture"]["interfaces"][0], "lo");
    assert_eq!(json["allowed"], 1);
}

#[test]
fn shows_what_each_user_is_allowed_to_see() {
    privileged!();
    let host = Host::new();
    let _site = Site::new(&host);
    let printed = run(&host, User::Unprivileged, &["status"]);
    assert_eq!(printed.status, 0, "{printed:?}");
    assert!(printed.out.contains("domains\t3\n"), "{printed:?}");
    let name = User::Unprivileged.name();
    let fix = format!("usermod --append --groups wakevirt {name}");
    assert!(printed.out.contains("warning: ") && printed.out.contains(&fix), "{printed:?}");
    for user in [User::LibvirtMember, User::WakevirtMember] {
        let printed = run(&host, user, &["status"]);
        assert!(printed.out.contains("3, 1 allowed") && !printed.out.contains("warning"), "{printed:?}");
    }
}

#[test]
fn names_a_missing_service_or_bus_and_the_fix() {
    privileged!();
    let host = Host::new();
    // The first process of this host is not an init system.
    let printed = run(&host, User::Unprivileged, &[]);
    assert!(printed.err.contains("cannot connect to the system bus"), "{printed:?}");
    assert!(printed.err.ends_with("; start it\n"), "{printed:?}");
    host.sh("mkdir -p /run/systemd/system");
    let printed = run(&host, User::Unprivileged, &[]);
    assert_eq!(printed.status, 3, "{printed:?}");
    assert!(printed.err.contains("systemctl start dbus"), "{printed:?}");

    let bus = Bus::start(&host, Kind::DbusDaemon);
    let printed = run(&host, User::Unprivileged, &[]);
    assert_eq!(printed.status, 3, "{printed:?}");
    for unit in ["wakevirt-capture", "wakevirt-actor"] {
        let fix = format!("{unit} is not running; start it, as root: systemctl enable --now {unit}");
        assert!(printed.out.contains(&fix), "{printed:?}");
    }
    drop(bus);

    let mut site = Site::new(&host);
    site.actor = None;
    let printed = run(&host, User::Unprivileged, &[]);
    assert_eq!(printed.status, 3, "{printed:?}");
    assert!(printed.out.contains("capture\trunning"), "{printed:?}");
    assert!(printed.out.contains("wakevirt-actor is not running"), "{printed:?}");
    site.capture = None;
    let printed = run(&host, User::Unprivileged, &["--json"]);
    assert!(printed.out.contains("\"capture\":null,\"actor\":null"), "{printed:?}");
}

#[test]
fn checks_what_a_probe_asks_for() {
    privileged!();
    let host = Host::new();
    let check = |checks: &str| {
        let option = format!("--check{checks}");
        let printed = run(&host, User::Unprivileged, &["status", &option]);
        assert_eq!(printed.out, "", "{printed:?}");
        assert_eq!(printed.err.is_empty(), printed.status == 0, "{printed:?}");
        printed
    };
    assert_eq!(check("=bus").status, 3);
    let bus = Bus::start(&host, Kind::DbusDaemon);
    assert_eq!(check("=bus").status, 0);
    let printed = check("");
    assert_eq!((printed.status, printed.err.matches(" is not running").count()), (3, 2), "{printed:?}");
    drop(bus);

    let mut site = Site::new(&host);
    assert_eq!(check("").status, 0);
    let uri = site.json(&[])["actor"]["connections"][0]["uri"].as_str().unwrap().to_owned();

    // An invalid configuration is not used, and does not stop the actor.
    host.write("/etc/wakevirt/actor.d/invalid.toml", "hold = 1\n");
    host.call(User::Root, "org.wakevirt.Actor1", "Reload", &[]).unwrap_err();
    assert_eq!(check("=bus,capture,interfaces,actor,sync").status, 0);
    let printed = check("");
    assert_eq!(printed.status, 1, "{printed:?}");
    assert!(printed.err.contains("uses an earlier configuration"), "{printed:?}");
    assert!(site.ctl(&["status"]).contains("uses an earlier configuration"));
    assert!(site.ctl(&["metrics"]).contains("\nwakevirt_configuration_valid 0\n"));
    host.write("/etc/wakevirt/actor.d/invalid.toml", "");
    host.call(User::Root, "org.wakevirt.Actor1", "Reload", &[]).unwrap();
    assert_eq!(check("").status, 0);

    let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let before = now();
    let metrics = site.ctl(&["metrics"]);
    let metric = format!("wakevirt_last_sync_seconds{{uri=\"{uri}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&metric));
    let time: f64 = line.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap();
    assert!(before <= time && time <= now(), "{before} {time}");

    site.actor = None;
    let printed = check("=actor");
    assert_eq!(printed.status, 3, "{printed:?}");
    assert_eq!(check("=capture,interfaces").status, 0);
}
