//! What the process gives up before it does anything.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;

use nix::unistd::User;
use wakevirt_service::user;

use crate::Error;

/// Where it is where the service manager names no other place.
pub(crate) const FOLDER: &str = "/run/wakevirt-actor";
/// The service's own user.
pub(crate) const USER: &str = "wakevirt-actor";
/// The group that libvirt lets in. The user is no member: what starts the service gives it the group, and
/// can leave it out (systemd/wakevirt-actor.service).
const GROUP: &str = "libvirt";

/// Makes the runtime directory as systemd does for `RuntimeDirectory=`, where root starts the service
/// without it. A folder that is missing or wrong is reported when it is written to.
fn make_runtime_directory() {
    if !nix::unistd::geteuid().is_root() || std::env::var_os("RUNTIME_DIRECTORY").is_some() {
        return;
    }
    if let (Ok(()), Ok(Some(user))) = (DirBuilder::new().mode(0o700).create(FOLDER), User::from_name(USER)) {
        // Only what was made here is handed over.
        let _reported_later = nix::unistd::chown(FOLDER, Some(user.uid), Some(user.gid));
    }
}

/// Gives up every privilege, for good: root becomes the service's own user, in the group libvirt, whoever
/// else it is stays who it is; in either case no capability is kept, and none can be gained by starting a
/// program.
///
/// Call it before the process has a second thread: the kernel keeps capabilities for each thread by
/// itself (capabilities(7)).
///
/// # Errors
/// If the kernel refuses a step. The process must not go on then.
pub fn give_up() -> Result<(), Error> {
    make_runtime_directory();
    user::change_to(USER, &[GROUP], &[])?;
    Ok(user::drop_capabilities()?)
}
