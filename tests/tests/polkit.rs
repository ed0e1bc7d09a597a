//! polkit decides who may have domains woken, where there is one: a real polkitd, real users.

use wakevirt_tests::bus::{Bus, Kind};
use wakevirt_tests::host::{Host, User, succeed};
use wakevirt_tests::polkitd::{NAME, Polkitd};
use wakevirt_tests::privileged;

/// Whether polkit lets this user do this, by its own command.
fn polkit_allows(host: &Host, user: User, action: &str) -> bool {
    // The shell is the subject: pkcheck(1) has to be told of a process that lives.
    let check = format!("pkcheck --action-id {action} --process $$");
    host.command_as(user, "sh").args(["-c", &check]).output().is_ok_and(|output| output.status.success())
}

#[test]
fn polkit_runs_and_is_activated_as_where_it_is_installed() {
    privileged!();
    for bus in [Kind::DbusDaemon, Kind::DbusBroker] {
        let host = Host::new();
        let mut polkitd = Polkitd::install(&host);
        let _bus = Bus::start(&host, bus);
        polkitd.start();
        let action = "org.freedesktop.policykit.exec";
        assert!(polkit_allows(&host, User::Root, action), "{bus:?}");
        assert!(!polkit_allows(&host, User::Member, action), "{bus:?}");
        let status = host.read(&format!("/proc/{}/status", polkitd.pid()));
        assert!(!status.contains("Uid:\t0"), "{bus:?}: {status}");
        polkitd.stop();
        if bus == Kind::DbusDaemon {
            let listed = succeed(host.command("pkaction").args(["--action-id", action]));
            assert_eq!(listed.trim(), action);
            assert!(host.name_is_owned(NAME));
            polkitd.stop();
        }
    }
}
