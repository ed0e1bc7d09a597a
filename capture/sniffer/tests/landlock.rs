//! The sniffer's error if Landlock is unavailable. It names the cause and the solution.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use wakevirt_protocol::sniffer::MAX_REASON;
use wakevirt_sniffer::sandbox;

/// Calls [`sandbox::forbid_files`] while landlock_create_ruleset(2) fails with this error. The seccomp filter applies
/// only to a new thread.
fn forbid_files_with_error(errno: i32, required: bool) -> Result<bool, String> {
    let run = move || {
        let calls = BTreeMap::from([(libc::SYS_landlock_create_ruleset, vec![])]);
        let action = SeccompAction::Errno(errno.try_into().unwrap());
        let arch = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(calls, SeccompAction::Allow, action, arch).unwrap();
        seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
        sandbox::forbid_files(required).map_err(|error| error.to_string())
    };
    std::thread::spawn(run).join().unwrap()
}

#[test]
fn the_error_names_the_cause_and_the_solution() {
    for (errno, cause, solution) in [
        (libc::EPERM, "a seccomp filter, such as a container's, denies Landlock", "in the filter"),
        (libc::EACCES, "a seccomp filter, such as a container's, denies Landlock", "in the filter"),
        (libc::EOPNOTSUPP, "Landlock is disabled in the kernel", "add landlock to lsm="),
        (libc::ENOSYS, "the kernel has no Landlock, or a container's seccomp filter hides it", "Linux 5.13"),
    ] {
        let error = forbid_files_with_error(errno, true).unwrap_err();
        assert!(error.contains(cause) && error.contains(solution), "{errno}: {error}");
        assert!(error.contains("set require-landlock = false"), "{error}");
        assert!(error.len() <= MAX_REASON, "the failure report would be truncated: {error}");
    }
}

#[test]
fn runs_without_landlock_if_it_is_not_required() {
    assert_eq!(forbid_files_with_error(libc::EPERM, false), Ok(false));
}
