//! The change from root to the service's own user, unless the service manager has already made it.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs;

use caps::{CapSet, Capability};
use nix::unistd::{self, Group, Uid, User};

/// Why the user was not changed. The process may be in an intermediate state, and must exit.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The user does not exist.
    #[error(
        "user {name} does not exist; create it with systemd-sysusers, or with: \
         useradd --system --user-group --no-create-home --shell /usr/sbin/nologin {name}"
    )]
    NoSuchUser {
        /// The user's name.
        name: String,
    },
    /// The user has root's ID.
    #[error("user {name} has the user ID 0; the service needs an unprivileged user")]
    IsRoot {
        /// The user's name.
        name: String,
    },
    /// Capabilities belong to a thread, so the other threads would retain theirs.
    #[error("cannot change the user in a process with {0} threads; change it before a second thread starts")]
    Threads(u32),
    /// The capabilities cannot be dropped.
    #[error(transparent)]
    Capabilities(#[from] wakevirt_privilege::Error),
    /// A step failed.
    #[error(
        "cannot change to user {name}: cannot {step}: {reason}; start the service as root with all its capabilities, or as {name}"
    )]
    Step {
        /// The user's name.
        name: String,
        /// The step that failed.
        step: &'static str,
        /// The cause.
        reason: String,
    },
}

/// Changes irrevocably from root to the user with this name and to its groups. Adds those of `groups` that exist; in a
/// unit, `SupplementaryGroups=` adds them. Of the capabilities that the process had, only those in `retain` remain;
/// programs that it starts inherit them. If the process was not started as root, this changes nothing and returns
/// `false`.
///
/// Call this function before the process starts a second thread: capabilities belong to a thread.
///
/// # Errors
/// [`UserError`] names the cause. The process must then exit.
pub fn change_to(name: &str, groups: &[&str], retain: &[Capability]) -> Result<bool, UserError> {
    if !Uid::effective().is_root() {
        return Ok(false);
    }
    let step = |step| move |reason: String| UserError::Step { name: name.to_owned(), step, reason };
    match threads().map_err(step("count the threads in /proc/self/status"))? {
        1 => {}
        more => return Err(UserError::Threads(more)),
    }
    let user = User::from_name(name).map_err(|error| step("look up the user")(error.to_string()))?;
    let user = user.ok_or_else(|| UserError::NoSuchUser { name: name.to_owned() })?;
    if user.uid.is_root() {
        return Err(UserError::IsRoot { name: name.to_owned() });
    }

    // Root in a container may lack some of these capabilities. The code that needs such a capability reports the error.
    let had = caps::read(None, CapSet::Permitted)
        .map_err(|error| step("read the capabilities")(error.to_string()))?;
    let retain: HashSet<Capability> = retain.iter().copied().filter(|cap| had.contains(cap)).collect();

    narrow_bounding_set(&retain).map_err(step("narrow the bounding set"))?;
    become_user(&user, groups).map_err(|(what, error)| step(what)(error.to_string()))?;
    for set in [CapSet::Permitted, CapSet::Effective, CapSet::Inheritable, CapSet::Ambient] {
        caps::set(None, set, &retain).map_err(|error| step("set the capabilities")(error.to_string()))?;
    }
    caps::securebits::set_keepcaps(false)
        .map_err(|error| step("clear keep-capabilities")(error.to_string()))?;
    Ok(true)
}

/// Drops all capabilities irrevocably: [`wakevirt_privilege::drop_capabilities`].
///
/// # Errors
/// [`UserError::Capabilities`]. The process must then exit.
pub fn drop_capabilities() -> Result<(), UserError> {
    Ok(wakevirt_privilege::drop_capabilities()?)
}

/// The user that the service runs as. If it was started as root, this is the user called `name`, which the service will
/// become, or root if there is no such user.
#[must_use]
pub fn service_uid(name: &str) -> Uid {
    let running = Uid::effective();
    if !running.is_root() {
        return running;
    }
    User::from_name(name).ok().flatten().map_or(running, |user| user.uid)
}

/// Removes all capabilities except `retain` from the bounding set. This requires CAP_SETPCAP, so it is the first step
/// (capabilities(7)).
fn narrow_bounding_set(retain: &HashSet<Capability>) -> Result<(), String> {
    let bounding = caps::read(None, CapSet::Bounding).map_err(|error| error.to_string())?;
    for capability in bounding.difference(retain) {
        caps::drop(None, CapSet::Bounding, *capability).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Sets the groups while the process is still root, and then the user. Retains the permitted set.
fn become_user(user: &User, groups: &[&str]) -> Result<(), (&'static str, String)> {
    let name =
        CString::new(user.name.as_str()).map_err(|error| ("read the user's name", error.to_string()))?;
    let mut gids =
        unistd::getgrouplist(&name, user.gid).map_err(|error| ("look up its groups", error.to_string()))?;
    for group in groups {
        let found = Group::from_name(group).map_err(|error| ("look up a group", error.to_string()))?;
        gids.extend(found.map(|group| group.gid).filter(|gid| !gids.contains(gid)));
    }
    unistd::setgroups(&gids).map_err(|error| ("set the groups", error.to_string()))?;
    unistd::setresgid(user.gid, user.gid, user.gid).map_err(|error| ("set the group", error.to_string()))?;
    caps::securebits::set_keepcaps(true).map_err(|error| ("set keep-capabilities", error.to_string()))?;
    unistd::setresuid(user.uid, user.uid, user.uid).map_err(|error| ("set the user", error.to_string()))
}

/// The number of threads of the process.
fn threads() -> Result<u32, String> {
    let status = fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    let count = status.lines().find_map(|line| line.strip_prefix("Threads:"));
    count.and_then(|count| count.trim().parse().ok()).ok_or_else(|| "it has no thread count".to_owned())
}
