//! What the sniffer says where it cannot have Landlock: each cause has its own cure.
#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use wakevirt_protocol::sniffer::MAX_REASON;
use wakevirt_sniffer::sandbox;

/// What [`sandbox::forbid_files`] gives where this error answers landlock_create_ruleset(2). A thread of its own
/// has the filter, and ends with it.
fn behind_a_filter(errno: i32, required: bool) -> Result<bool, String> {
    let refuse = move || {
        let calls = BTreeMap::from([(libc::SYS_landlock_create_ruleset, vec![])]);
        let answer = SeccompAction::Errno(errno.try_into().unwrap());
        let arch = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(calls, SeccompAction::Allow, answer, arch).unwrap();
        seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
        sandbox::forbid_files(required).map_err(|error| error.to_string())
    };
    std::thread::spawn(refuse).join().unwrap()
}

#[test]
fn a_refusal_names_its_cause_and_the_cure() {
    for (errno, cause, cure) in [
        (libc::EPERM, "a seccomp filter, such as a container's, refuses Landlock", "in the filter"),
        (libc::EACCES, "a seccomp filter, such as a container's, refuses Landlock", "in the filter"),
        (libc::EOPNOTSUPP, "the kernel's Landlock is switched off", "add landlock to lsm="),
        (libc::ENOSYS, "the kernel has no Landlock, or a container's seccomp filter hides it", "Linux 5.13"),
    ] {
        let error = behind_a_filter(errno, true).unwrap_err();
        assert!(error.contains(cause) && error.contains(cure), "{errno}: {error}");
        assert!(error.contains("set require-landlock = false"), "{error}");
        assert!(error.len() <= MAX_REASON, "the announcer would see only part of it: {error}");
    }
}

#[test]
fn without_being_required_it_is_left_out() {
    assert_eq!(behind_a_filter(libc::EPERM, false), Ok(false));
}
