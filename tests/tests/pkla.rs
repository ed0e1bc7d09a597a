//! The example for a polkit without JavaScript rules, as pkla-check-authorization(8) evaluates it.

use wakevirt_tests::host::guard::has;
use wakevirt_tests::host::{Host, User, project, succeed};
use wakevirt_tests::privileged;

/// The program that evaluates `.pkla` files for a polkit with JavaScript rules. It is in the `polkitd-pkla` package of
/// Debian 12, but not in Debian 13.
const CHECK: &str = "pkla-check-authorization";

/// The directory for the administrator's files: pklocalauthority(8).
const DIRECTORY: &str = "/etc/polkit-1/localauthority/50-local.d";

#[test]
fn example_allows_the_same_users_as_the_rules() {
    privileged!();
    let release = std::fs::read_to_string("/etc/os-release").expect("a distribution");
    if !release.contains("VERSION_CODENAME=bookworm") || !has(CHECK) {
        return;
    }
    let host = Host::new();
    host.sh("rm -rf /etc/polkit-1 /var/lib/polkit-1");
    let example = project().join("docs/examples/polkit/wakevirt.pkla");
    host.write(
        &format!("{DIRECTORY}/wakevirt.pkla"),
        &std::fs::read_to_string(example).expect("the example"),
    );
    // Check a user with an active local session, and one without a session.
    for (local, active) in [("true", "true"), ("false", "false")] {
        let answer = |user: User, action: &str| {
            let mut check = host.command(CHECK);
            succeed(check.args([user.name(), local, active, action])).trim().to_owned()
        };
        let (wake, reload, manage) = ("org.wakevirt.wake", "org.wakevirt.reload", "org.libvirt.unix.manage");
        assert_eq!(answer(User::LibvirtMember, wake), "yes");
        assert_eq!(answer(User::Actor, manage), "yes");
        // Other users and actions get no answer, so polkit applies its defaults.
        for (user, action) in [
            (User::LibvirtMember, reload),
            (User::LibvirtMember, manage),
            (User::Actor, wake),
            (User::Unprivileged, wake),
            (User::Unprivileged, manage),
            (User::Capture, manage),
        ] {
            assert_eq!(answer(user, action), "", "{user:?}: {action}");
        }
    }
}
