//! What the process gives up before it does anything.

use caps::CapSet;
use wakevirt_service::user;

use crate::Error;

/// The service's own user.
pub(crate) const USER: &str = "wakevirt-actor";

/// Gives up every privilege, for good: root becomes the service's own user, whoever else it is stays
/// who it is; in either case no capability is kept, and none can be gained by starting a program.
///
/// Call it before the process has a second thread: the kernel keeps capabilities for each thread by
/// itself (capabilities(7)).
///
/// # Errors
/// If the kernel refuses a step. The process must not go on then.
pub fn give_up() -> Result<(), Error> {
    user::change_to(USER, &[])?;
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set)?;
    }
    rustix::thread::set_no_new_privs(true).map_err(|errno| Error::NoNewPrivileges(errno.into()))
}
