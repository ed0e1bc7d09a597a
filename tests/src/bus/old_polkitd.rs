//! Debian 11's polkitd 0.105 on the system bus of a host. It does not read JavaScript rules.

use crate::debian::tree_of;
use crate::host::{Host, project, succeed};
use crate::process::Process;
use crate::wait;

use super::polkitd::NAME;

/// polkitd's root directory, as a path on the host.
const ROOT: &str = "/run/bullseye/root";

/// Prepares the root directory, in which polkitd shares the users, the bus, the processes and `/etc/polkit-1` with the
/// host. `$1` is the Debian tree, `$2` this project.
const PREPARE: &str = r#"
mkdir -p /run/bullseye/upper /run/bullseye/work /run/bullseye/root /run/bus/policies /run/dbus
mount -t overlay -o "lowerdir=$1,upperdir=/run/bullseye/upper,workdir=/run/bullseye/work" overlay /run/bullseye/root
cd /run/bullseye/root
cp usr/share/dbus-1/system.d/org.freedesktop.PolicyKit1.conf /run/bus/policies/
cp "$2/dbus/org.wakevirt.policy" usr/share/polkit-1/actions/
cp /etc/passwd /etc/group etc/
rm -rf /etc/polkit-1 /var/lib/polkit-1
cp -a etc/polkit-1 /etc/
mkdir -p run/dbus run/systemd/seats run/systemd/sessions run/systemd/users run/systemd/machines
mount --bind /etc/polkit-1 etc/polkit-1
mount --bind /run/dbus run/dbus
mount --bind /proc proc
"#;

/// polkit 0.105 on a host, with its own actions and this project's actions.
#[derive(Debug)]
pub struct OldPolkitd<'host>(&'host Host);

impl<'host> OldPolkitd<'host> {
    /// Installs polkit without starting it. This must happen before the host's [`Bus`](super::Bus) starts.
    ///
    /// # Panics
    /// If the Debian tree cannot be created.
    #[must_use]
    pub fn install(host: &'host Host) -> Self {
        let mut prepare = host.command("sh");
        prepare.args(["-euc", PREPARE, "prepare"]).arg(tree_of("bullseye")).arg(project());
        succeed(&mut prepare);
        Self(host)
    }

    /// Starts polkitd, and waits until it is on the bus.
    ///
    /// # Panics
    /// If it does not start, with its log in the message.
    #[must_use]
    pub fn start(&self) -> Process {
        let Self(host) = self;
        let mut process =
            Process::start("polkitd", host.command("chroot").args([ROOT, "/usr/libexec/polkitd"]));
        let owned = wait::until("polkitd to start", || match host.name_is_owned(NAME) {
            true => Some(true),
            false => process.exit_status().map(|_| false),
        });
        assert!(owned, "polkitd is not running:\n{}", process.log().all().join("\n"));
        process
    }
}
