//! Drops privileges at startup.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;

use nix::unistd::User;
use wakevirt_service::user;

use crate::Error;
use crate::model::Program;

/// The runtime directory, unless the service manager sets `RUNTIME_DIRECTORY`.
pub(crate) const RUNTIME_DIRECTORY: &str = "/run/wakevirt-actor";
/// The service's own user.
pub(crate) const USER: &str = "wakevirt-actor";
/// Creates the runtime directory if root starts the service without a service manager, as systemd does for
/// `RuntimeDirectory=`. Errors are reported when the service writes to the directory.
fn make_runtime_directory() {
    if !nix::unistd::geteuid().is_root() || std::env::var_os("RUNTIME_DIRECTORY").is_some() {
        return;
    }
    if let (Ok(()), Ok(Some(user))) =
        (DirBuilder::new().mode(0o700).create(RUNTIME_DIRECTORY), User::from_name(USER))
    {
        // Changes the owner only if the directory was created here.
        let _reported_later = nix::unistd::chown(RUNTIME_DIRECTORY, Some(user.uid), Some(user.gid));
    }
}

/// Drops all privileges. If the process runs as root, it switches to the service's own user, with the program's group.
/// The user is not a member of this group: the unit adds it, and a drop-in can remove it
/// (systemd/wakevirt-actor.service). If the process does not run as root, the user does not change. In both cases, the process drops all capabilities, and cannot gain any by
/// executing a program.
///
/// Call it while the process has one thread: capabilities belong to threads (capabilities(7)).
///
/// # Errors
/// If a system call fails. The process must then exit.
pub fn drop_all(program: &Program) -> Result<(), Error> {
    make_runtime_directory();
    user::change_to(USER, program.group.as_slice(), &[])?;
    Ok(user::drop_capabilities()?)
}
