//! What each user can do on the bus: the shipped policies and the services' checks, on both buses.
#![expect(clippy::panic, reason = "a test may panic")]

use wakevirt_protocol::bus::{ACTOR_INTERFACE, ACTOR_NAME, CAPTURE_INTERFACE, CAPTURE_NAME};
use wakevirt_tests::bus::introspection;
use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::daemon::Daemon;
use wakevirt_tests::host::{Host, User, succeed};
use wakevirt_tests::libvirt::{Libvirtd, TEST, test_domain};
use wakevirt_tests::privileged;

const BUSES: [Kind; 2] = [Kind::DbusDaemon, Kind::DbusBroker];
const EVERYONE: [User; 6] =
    [User::Root, User::Capture, User::Actor, User::Unprivileged, User::LibvirtMember, User::WakevirtMember];
const DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";
const NOT_AUTHORIZED: &str = "org.wakevirt.Error.NotAuthorized";
const MAC: &str = "52:54:00:01:02:03";
const OTHER_MAC: &str = "52:54:00:01:02:04";

/// Starts capture, and waits until it accepts calls.
fn capture(host: &Host) -> Daemon {
    Daemon::capture(host).start_on_bus()
}

/// Starts the actor with a connection to the test driver and a rule that allows these domains, and waits until it is
/// connected.
fn actor(host: &Host, domains: &str) -> Daemon {
    let config = format!("connections = [\"{TEST}\"]\n[[allow]]\ndomain = \"{domains}\"\n");
    Daemon::actor(host).config(&config).start_connected()
}

#[test]
fn only_the_service_users_can_own_the_names() {
    privileged!();
    for bus in BUSES {
        let host = Host::new();
        let _bus = Bus::start(&host, bus);
        for (name, owner) in [(CAPTURE_NAME, User::Capture), (ACTOR_NAME, User::Actor)] {
            for user in EVERYONE {
                let arguments = [&format!("'{name}'"), "uint32 4"];
                let reply = host.call(user, "org.freedesktop.DBus", "RequestName", &arguments);
                if user == owner {
                    assert_eq!(reply.as_deref(), Ok("(uint32 1,)"), "{bus:?}: {user:?} owns {name}");
                } else {
                    let error = reply.expect_err(&format!("{bus:?}: {user:?} must not own {name}"));
                    assert_eq!(error.name, DENIED, "{bus:?}: {user:?} requests {name}");
                }
            }
        }
    }
}

#[test]
fn capture_denies_calls_by_unauthorized_users() {
    privileged!();
    const MEMBERS: &[User] = &[User::Root, User::Actor, User::LibvirtMember, User::WakevirtMember];
    const TRUSTED: &[User] = &[User::Root, User::Actor, User::WakevirtMember];
    for bus in BUSES {
        let host = Host::new();
        let _bus = Bus::start(&host, bus);
        let _capture = capture(&host);
        let calls: [(&str, &[&str], &[User]); 3] = [
            ("Replay", &["''", "uint64 0"], MEMBERS),
            ("GetSecureOn", &["''", "uint64 1"], TRUSTED),
            ("SetInterest", &["@aay []"], TRUSTED),
        ];
        for (method, arguments, allowed) in calls {
            for user in EVERYONE {
                let reply = host.call(user, CAPTURE_INTERFACE, method, arguments);
                let denied = reply.as_ref().is_err_and(|error| error.name == DENIED);
                assert_eq!(denied, !allowed.contains(&user), "{bus:?}: {user:?} calls {method}: {reply:?}");
            }
        }
        let reply =
            host.call(User::WakevirtMember, CAPTURE_INTERFACE, "Replay", &["''", "uint64 0"]).unwrap();
        assert!(reply.ends_with("', false, false, @a(tsa{sv}) [])"), "{reply}");
        let error =
            host.call(User::Actor, CAPTURE_INTERFACE, "GetSecureOn", &["''", "uint64 1"]).unwrap_err();
        assert_eq!(error.name, "org.wakevirt.Error.Forgotten");
    }
}

#[test]
fn unprivileged_users_receive_signals_and_read_properties() {
    privileged!();
    for bus in BUSES {
        let host = Host::new();
        let _bus = Bus::start(&host, bus);
        let lan = host.veth("lan0");
        let _capture = capture(&host);
        let monitor = host.monitor(User::Unprivileged, CAPTURE_NAME);
        // The signal contains the sender's address. A random one could look like part of the password.
        lan.sh("ip link set eth0 address 02:00:00:00:00:07");
        lan.etherwake(MAC, &["-p", "73:65:63:72:65:74"]);
        let signal = monitor.log().wait_for("MagicPacket");
        assert!(signal.contains(&format!("'{MAC}'")), "{bus:?}: {signal}");
        assert!(signal.contains("'interface': <'lan0'>"), "{bus:?}: {signal}");
        assert!(signal.contains("'secureon': <true>"), "{bus:?}: {signal}");
        for part_of_password in ["secret", "0x73", "73:65", "'password'"] {
            assert!(!signal.contains(part_of_password), "{bus:?}: {signal}");
        }
        assert_eq!(host.property(User::Unprivileged, CAPTURE_NAME, "Sequence").unwrap(), "(<uint64 1>,)");
        host.call_object(User::Unprivileged, CAPTURE_NAME, "org.freedesktop.DBus.Peer.Ping", &[]).unwrap();
        // Authorised users can request the password.
        let epoch = host.property(User::Unprivileged, CAPTURE_NAME, "Epoch").unwrap();
        let epoch = epoch.trim_start_matches("(<").trim_end_matches(">,)");
        let password =
            host.call(User::WakevirtMember, CAPTURE_NAME, "GetSecureOn", &[epoch, "uint64 1"]).unwrap();
        assert_eq!(password, "([byte 0x73, 0x65, 0x63, 0x72, 0x65, 0x74],)");
    }
}

#[test]
fn a_forged_signal_does_not_wake_a_domain() {
    privileged!();
    for bus in BUSES {
        let host = Host::new();
        let _bus = Bus::start(&host, bus);
        let lan = host.veth("lan0");
        let libvirtd = Libvirtd::start(&host);
        libvirtd.define(TEST, &test_domain("victim", MAC));
        libvirtd.define(TEST, &test_domain("other", OTHER_MAC));
        let _capture = capture(&host);
        let mut actor = actor(&host, "*");
        let owner =
            host.call(User::Root, "org.freedesktop.DBus", "GetNameOwner", &[&format!("'{ACTOR_NAME}'")]);
        let owner = owner.unwrap();
        let owner = owner.trim_start_matches("('").trim_end_matches("',)");
        let signal = format!("{CAPTURE_INTERFACE}.MagicPacket");
        let body = ["uint64 1", &format!("'{MAC}'"), "{'interface': <'lan0'>}"];
        for user in [User::Unprivileged, User::LibvirtMember, User::WakevirtMember, User::Root] {
            // A broadcast, and a signal to the actor, which does not require a subscription.
            for destination in [&[][..], &["--dest", owner]] {
                let mut forge = host.command_as(user, "gdbus");
                forge.args(["emit", "--system", "--object-path", "/org/wakevirt/Capture1"]);
                succeed(forge.args(destination).args(["--signal", &signal]).args(body));
            }
        }
        // The actor receives signals in the order in which they are sent: after this one, it has received all forged
        // ones.
        lan.etherwake(OTHER_MAC, &[]);
        libvirtd.wait_for_state(TEST, "other", "running");
        assert_eq!(libvirtd.state(TEST, "victim"), "shut off", "{bus:?}");
        // The bus did not deliver them. If it had, the actor would have dropped them because of their sender.
        assert_eq!(actor.log().count("dropped a magic packet"), 0, "{bus:?}");
        lan.etherwake(MAC, &[]);
        libvirtd.wait_for_state(TEST, "victim", "running");
        actor.stop();
    }
}

#[test]
fn actor_denies_calls_by_unauthorized_users() {
    privileged!();
    for bus in BUSES {
        let host = Host::new();
        let _bus = Bus::start(&host, bus);
        let libvirtd = Libvirtd::start(&host);
        libvirtd.define(TEST, &test_domain("vm1", MAC));
        let _capture = capture(&host);
        let _actor = actor(&host, "nothing");
        for user in EVERYONE {
            assert_read_permissions(&host, bus, user);
            assert_wake_permissions(&libvirtd, bus, user);
            match (user, host.call(user, ACTOR_INTERFACE, "Reload", &[])) {
                (User::Root, reply) => assert_eq!(reply.as_deref(), Ok("()"), "{bus:?}"),
                (_, reply) => {
                    assert_eq!(reply.unwrap_err().name, NOT_AUTHORIZED, "{bus:?}: {user:?} calls Reload");
                }
            }
        }
    }
}

/// Checks which users can call the actor's read-only methods.
fn assert_read_permissions(host: &Host, bus: Kind, user: User) {
    let (mac, nothing) = (format!("'{MAC}'"), "@a{sv} {}");
    let methods: [(&str, &[&str]); 6] = [
        ("ListDomains", &[]),
        ("ListDomainsAfter", &["''", "''"]),
        ("History", &["uint32 10"]),
        ("HistoryBefore", &["uint64 10", "uint32 10"]),
        ("Explain", &[&mac, nothing]),
        ("ExplainRules", &[&mac, nothing]),
    ];
    for (method, arguments) in methods {
        match (user, host.call(user, ACTOR_INTERFACE, method, arguments)) {
            (User::Root | User::Actor | User::LibvirtMember | User::WakevirtMember, Ok(reply)) => {
                assert!(method.starts_with("History") || reply.contains("vm1"), "{bus:?}: {user:?}: {reply}");
            }
            (User::Capture | User::Unprivileged, Err(error)) => {
                assert_eq!(error.name, DENIED, "{bus:?}: {user:?} calls {method}");
            }
            (_, reply) => panic!("{bus:?}: {user:?} calls {method}: {reply:?}"),
        }
    }
}

/// Checks which users can wake a domain that no rule allows. Authorised callers need no rule.
fn assert_wake_permissions(libvirtd: &Libvirtd<'_>, bus: Kind, user: User) {
    for (method, argument) in [("Wake", format!("'{MAC}'")), ("WakeDomain", "'vm1'".to_owned())] {
        match (user, libvirtd.host().call(user, ACTOR_INTERFACE, method, &[&argument])) {
            (User::Root | User::LibvirtMember, Ok(outcome)) => {
                let outcomes = ["('started',)", "('already-running',)"];
                assert!(outcomes.contains(&outcome.as_str()), "{bus:?}: {user:?}: {outcome}");
                assert_eq!(libvirtd.state(TEST, "vm1"), "running");
            }
            (User::Capture | User::Actor | User::Unprivileged | User::WakevirtMember, Err(error)) => {
                assert_eq!(error.name, NOT_AUTHORIZED, "{bus:?}: {user:?} calls {method}");
                assert!(error.message.len() > 20, "the message gives no advice: {error:?}");
            }
            (_, reply) => panic!("{bus:?}: {user:?} calls {method}: {reply:?}"),
        }
    }
}

/// Compares the XML in dbus/ with the introspection data of the running service.
fn assert_matches_xml(host: &Host, name: &str) {
    assert_eq!(
        introspection::members(&introspection::reference(name), name),
        introspection::members(&introspection::of_service(host, name), name),
        "left: dbus/{name}.xml, right: the running service"
    );
}

#[test]
fn capture_matches_its_xml() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let _capture = capture(&host);
    assert_matches_xml(&host, CAPTURE_NAME);
}

#[test]
fn actor_matches_its_xml() {
    privileged!();
    let host = Host::new();
    let _bus = Bus::start(&host, Kind::DbusDaemon);
    let _libvirtd = Libvirtd::start(&host);
    let _actor = actor(&host, "nothing");
    assert_matches_xml(&host, ACTOR_NAME);
}

#[test]
fn both_buses_accept_the_policies() {
    privileged!();
    // Both buses log what they do not understand, and ignore it.
    for bus in BUSES {
        let host = Host::new();
        let bus = Bus::start(&host, bus);
        let _ = succeed(host.command("busctl").args(["--system", "list"]));
        let complaints: Vec<_> = bus
            .log()
            .into_iter()
            .filter(|line| line.contains("wakevirt") || line.contains("nvalid"))
            .collect();
        assert!(complaints.is_empty(), "{complaints:?}");
    }
}
