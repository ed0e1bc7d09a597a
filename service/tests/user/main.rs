//! The change of user, each time in a process of its own with one thread, which the usual test harness
//! never has. Its parts that need root are skipped without it, but not where `CI=true` or
//! `WAKEVIRT_NO_SKIP=1` is in the environment.

#[cfg(test)]
mod second;

fn main() {
    #[cfg(test)]
    {
        if second::is_second() {
            return second::change();
        }
        if !checks::may_run() {
            return println!("SKIPPED: these tests need root");
        }
        for (name, check) in [
            ("root_becomes_the_user_for_good", checks::root_becomes_the_user_for_good as fn()),
            ("root_takes_the_groups_that_there_are", checks::root_takes_the_groups_that_there_are),
            ("what_root_does_not_have_is_not_kept", checks::what_root_does_not_have_is_not_kept),
            ("a_step_that_is_refused_is_named", checks::a_step_that_is_refused_is_named),
            (
                "what_does_not_fit_is_refused_and_nothing_is_changed",
                checks::what_does_not_fit_is_refused_and_nothing_is_changed,
            ),
            ("who_is_not_root_stays_who_he_is", checks::who_is_not_root_stays_who_he_is),
        ] {
            check();
            println!("test {name} ... ok");
        }
    }
}

#[cfg(test)]
mod checks {
    use nix::unistd::{Group, Uid, User};

    use super::second::{Became, GROUPS};

    const NAME: &str = "nobody";

    fn nobody() -> User {
        User::from_name(NAME).unwrap().unwrap()
    }

    pub(crate) fn root_becomes_the_user_for_good() {
        // Groups of root's own must not come along.
        let before = ["setpriv", "--groups", "0,4,27"];
        let (uid, gid) = (nobody().uid, nobody().gid);
        for (keep, mask) in
            [("", 0), ("CAP_NET_RAW", 1 << 13), ("CAP_NET_RAW,CAP_NET_ADMIN", 1 << 13 | 1 << 12)]
        {
            let became = Became::run(&before, NAME, keep, "1");
            assert_eq!(became.line("CHANGED"), "true");
            assert_eq!(became.line("Uid:"), format!("{uid} {uid} {uid} {uid}"));
            assert_eq!(became.line("Gid:"), format!("{gid} {gid} {gid} {gid}"));
            assert_eq!(became.line("Groups:"), gid.to_string());
            assert_eq!(became.capabilities(), [mask; 5], "{keep}");
            assert_eq!(became.line("BACK"), "false");
            assert_eq!(became.line("KEEPCAPS"), "false");
        }
    }

    pub(crate) fn root_takes_the_groups_that_there_are() {
        let daemon = Group::from_name("daemon").unwrap().unwrap().gid;
        // One that is not there, and one twice.
        let groups = format!("{GROUPS}=daemon,wakevirt-none,daemon");
        let became = Became::run(&["setpriv", "--groups", "0,4", "env", &groups], NAME, "", "1");
        assert_eq!(became.line("CHANGED"), "true");
        assert_eq!(became.line("Groups:"), format!("{daemon} {}", nobody().gid));
    }

    pub(crate) fn what_root_does_not_have_is_not_kept() {
        let became = Became::run(&["setpriv", "--bounding-set", "-net_raw"], NAME, "CAP_NET_RAW", "1");
        assert_eq!(became.line("CHANGED"), "true");
        assert_eq!(became.capabilities(), [0; 5]);
    }

    pub(crate) fn a_step_that_is_refused_is_named() {
        for (capability, step) in [
            ("-setpcap", "narrow the bounding set"),
            ("-setgid", "take over its groups"),
            ("-setuid", "become the user"),
        ] {
            let error = Became::run(&["setpriv", "--bounding-set", capability], NAME, "", "1").line("ERROR");
            assert!(error.starts_with(&format!("cannot change to user nobody: {step}: ")), "{error}");
            assert!(
                error.ends_with("start the service as root with all its capabilities, or as nobody"),
                "{error}"
            );
        }
    }

    pub(crate) fn what_does_not_fit_is_refused_and_nothing_is_changed() {
        for (user, threads, error) in [
            (
                "wakevirt-none",
                "1",
                "there is no user wakevirt-none; create it with systemd-sysusers, or with: useradd --system \
                 --user-group --no-create-home --shell /usr/sbin/nologin wakevirt-none",
            ),
            ("root", "1", "user root has the user ID 0; the service needs a user of its own without rights"),
            (
                NAME,
                "2",
                "cannot change the user in a process of 2 threads; it must be done before the second one starts",
            ),
        ] {
            let became = Became::run(&[], user, "", threads);
            assert_eq!(became.line("ERROR"), error);
            assert_eq!(became.line("Uid:"), "0 0 0 0");
            assert_ne!(became.capabilities(), [0; 5]);
        }
    }

    pub(crate) fn who_is_not_root_stays_who_he_is() {
        let uid = nobody().uid.to_string();
        let raw = ["--inh-caps", "+net_raw", "--ambient-caps", "+net_raw"];
        let became =
            Became::run(&[&["setpriv", "--reuid", &uid], &raw[..]].concat(), "wakevirt-none", "", "1");
        assert_eq!(became.line("CHANGED"), "false");
        assert_eq!(became.line("Uid:"), format!("{uid} {uid} {uid} {uid}"));
        assert_eq!(became.capabilities()[1], 1 << 13, "what the service manager gave is kept");
    }

    pub(crate) fn may_run() -> bool {
        let root = Uid::effective().is_root();
        let set = |name, value| std::env::var_os(name).is_some_and(|found| found == value);
        assert!(
            root || !(set("CI", "true") || set("WAKEVIRT_NO_SKIP", "1")),
            "these tests need root, and no test may be skipped here"
        );
        root
    }
}
