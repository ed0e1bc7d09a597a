//! Changes the user, each time in a process with one thread, which the usual test harness does not provide. All tests
//! need root.

#[cfg(test)]
mod second;

fn main() {
    #[cfg(test)]
    {
        if second::is_second() {
            return second::change();
        }
        if !wakevirt_tests::host::guard::is_root() {
            return;
        }
        for (name, check) in [
            ("changes_from_root_irrevocably", checks::changes_from_root_irrevocably as fn()),
            ("sets_only_groups_that_exist", checks::sets_only_groups_that_exist),
            ("retains_no_capability_that_root_lacks", checks::retains_no_capability_that_root_lacks),
            ("names_the_failed_step", checks::names_the_failed_step),
            ("rejects_invalid_users_and_changes_nothing", checks::rejects_invalid_users_and_changes_nothing),
            ("does_nothing_without_root", checks::does_nothing_without_root),
        ] {
            check();
            println!("test {name} ... ok");
        }
    }
}

#[cfg(test)]
mod checks {
    use nix::unistd::{Group, User};

    use super::second::{GROUPS, ProcessState};

    const NAME: &str = "nobody";

    fn nobody() -> User {
        User::from_name(NAME).unwrap().unwrap()
    }

    pub(crate) fn changes_from_root_irrevocably() {
        // The groups of root must be removed.
        let before = ["setpriv", "--groups", "0,4,27"];
        let (uid, gid) = (nobody().uid, nobody().gid);
        for (retain, mask) in
            [("", 0), ("CAP_NET_RAW", 1 << 13), ("CAP_NET_RAW,CAP_NET_ADMIN", 1 << 13 | 1 << 12)]
        {
            let state = ProcessState::run(&before, NAME, retain, "1");
            assert_eq!(state.line("CHANGED"), "true");
            assert_eq!(state.line("Uid:"), format!("{uid} {uid} {uid} {uid}"));
            assert_eq!(state.line("Gid:"), format!("{gid} {gid} {gid} {gid}"));
            assert_eq!(state.line("Groups:"), gid.to_string());
            assert_eq!(state.capabilities(), [mask; 5], "{retain}");
            assert_eq!(state.line("REGAINS_ROOT"), "false");
            assert_eq!(state.line("KEEPCAPS"), "false");
        }
    }

    pub(crate) fn sets_only_groups_that_exist() {
        let daemon = Group::from_name("daemon").unwrap().unwrap().gid;
        // One group does not exist, and one is listed twice.
        let groups = format!("{GROUPS}=daemon,wakevirt-none,daemon");
        let state = ProcessState::run(&["setpriv", "--groups", "0,4", "env", &groups], NAME, "", "1");
        assert_eq!(state.line("CHANGED"), "true");
        assert_eq!(state.line("Groups:"), format!("{daemon} {}", nobody().gid));
    }

    pub(crate) fn retains_no_capability_that_root_lacks() {
        let state = ProcessState::run(&["setpriv", "--bounding-set", "-net_raw"], NAME, "CAP_NET_RAW", "1");
        assert_eq!(state.line("CHANGED"), "true");
        assert_eq!(state.capabilities(), [0; 5]);
    }

    pub(crate) fn names_the_failed_step() {
        for (capability, step) in [
            ("-setpcap", "narrow the bounding set"),
            ("-setgid", "set the groups"),
            ("-setuid", "set the user"),
        ] {
            let error =
                ProcessState::run(&["setpriv", "--bounding-set", capability], NAME, "", "1").line("ERROR");
            assert!(error.starts_with(&format!("cannot change to user nobody: cannot {step}: ")), "{error}");
            assert!(
                error.ends_with("start the service as root with all its capabilities, or as nobody"),
                "{error}"
            );
        }
    }

    pub(crate) fn rejects_invalid_users_and_changes_nothing() {
        for (user, threads, error) in [
            (
                "wakevirt-none",
                "1",
                "user wakevirt-none does not exist; create it with systemd-sysusers, or with: useradd --system \
                 --user-group --no-create-home --shell /usr/sbin/nologin wakevirt-none",
            ),
            ("root", "1", "user root has the user ID 0; the service needs an unprivileged user"),
            (
                NAME,
                "2",
                "cannot change the user in a process with 2 threads; change it before a second thread starts",
            ),
        ] {
            let state = ProcessState::run(&[], user, "", threads);
            assert_eq!(state.line("ERROR"), error);
            assert_eq!(state.line("Uid:"), "0 0 0 0");
            assert_ne!(state.capabilities(), [0; 5]);
        }
    }

    pub(crate) fn does_nothing_without_root() {
        let uid = nobody().uid.to_string();
        let raw = ["--inh-caps", "+net_raw", "--ambient-caps", "+net_raw"];
        let state =
            ProcessState::run(&[&["setpriv", "--reuid", &uid], &raw[..]].concat(), "wakevirt-none", "", "1");
        assert_eq!(state.line("CHANGED"), "false");
        assert_eq!(state.line("Uid:"), format!("{uid} {uid} {uid} {uid}"));
        assert_eq!(state.capabilities()[1], 1 << 13, "capabilities from the service manager remain");
    }
}
