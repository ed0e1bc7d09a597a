//! The example for a polkit without JavaScript rules, as the reader of such files takes it.

use wakevirt_tests::host::guard::has;
use wakevirt_tests::host::{Host, User, project, succeed};
use wakevirt_tests::privileged;

/// polkit's old code, for a polkit that has JavaScript rules: the package polkitd-pkla of Debian 12. Debian 13 has
/// none.
const READER: &str = "pkla-check-authorization";

/// Where the administrator of an old polkit writes: pklocalauthority(8).
const FOLDER: &str = "/etc/polkit-1/localauthority/50-local.d";

#[test]
fn example_allows_the_same_users_as_the_rules() {
    privileged!();
    let release = std::fs::read_to_string("/etc/os-release").expect("a distribution");
    if !release.contains("VERSION_CODENAME=bookworm") || !has(READER) {
        return;
    }
    let host = Host::new();
    host.sh("rm -rf /etc/polkit-1 /var/lib/polkit-1");
    let example = project().join("docs/examples/polkit/wakevirt.pkla");
    host.write(&format!("{FOLDER}/wakevirt.pkla"), &std::fs::read_to_string(example).expect("the example"));
    // Somebody at the machine, and somebody who is not.
    for (local, active) in [("true", "true"), ("false", "false")] {
        let answer = |user: User, action: &str| {
            let mut reader = host.command(READER);
            succeed(reader.args([user.name(), local, active, action])).trim().to_owned()
        };
        let (wake, reload, manage) = ("org.wakevirt.wake", "org.wakevirt.reload", "org.libvirt.unix.manage");
        assert_eq!(answer(User::LibvirtMember, wake), "yes");
        assert_eq!(answer(User::Actor, manage), "yes");
        // What is not in the file is for polkit's defaults: no answer.
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
