//! The sniffer's way into its sandbox, in stages. None can be left again, and one that fails ends
//! the process.
//!
//! | stage | what it does | what must not have happened yet |
//! | --- | --- | --- |
//! | [`hide`] | the announcer, of the same user, can no longer trace the process | anything |
//! | open | sockets are opened, filtered, their filters locked (`sockets`) | a packet was read |
//! | [`drop_capabilities`] | every capability set but the bounding one is emptied; no program could bring one back | a packet was read |
//! | [`forbid_files`] | Landlock with no rule at all | a packet was read |
//! | [`forbid_system_calls`] | seccomp, which kills | a packet was read |
//!
//! Capabilities, Landlock and seccomp act on the calling thread: there is only one.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope,
};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::{Error, ffi};

fn failed<E: ToString>(stage: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::Sandbox { stage, reason: error.to_string() }
}

/// Makes the process one that others of its user cannot trace, nor read the memory or descriptors
/// of: `PR_SET_DUMPABLE` (prctl(2), ptrace(2)). A core dump would hold packets.
///
/// # Errors
/// [`Error::Sandbox`].
pub fn hide() -> Result<(), Error> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("forbid that the process is traced"))
}

/// Empties the ambient, effective, permitted and inheritable sets, and forbids that a program
/// brings anything back (`no_new_privs`, prctl(2)).
///
/// The bounding set keeps what it had: to take from it needs `CAP_SETPCAP`, which the sniffer
/// never has, and under `no_new_privs` it gives nothing.
///
/// # Errors
/// [`Error::Sandbox`].
pub fn drop_capabilities() -> Result<(), Error> {
    Ok(wakevirt_privilege::drop_capabilities()?)
}

/// Forbids every file, TCP port, abstract socket and signal that this kernel's Landlock knows to
/// forbid (landlock(7)). Returns whether Landlock is in force.
///
/// A kernel may know less than all of it; what it does not know, [`forbid_system_calls`] forbids.
///
/// # Errors
/// [`Error::Sandbox`], also where there is no Landlock although it is required.
pub fn forbid_files(required: bool) -> Result<bool, Error> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V6))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(ABI::V6)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(ABI::V6)))
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.restrict_self())
        .map_err(failed("close the Landlock sandbox"))?;
    match status.ruleset {
        RulesetStatus::NotEnforced if required => Err(Error::Sandbox {
            stage: "close the Landlock sandbox",
            reason: format!(
                "{}, or set require-landlock = false to run without this layer",
                why_no_landlock(ffi::ask_for_landlock())
            ),
        }),
        RulesetStatus::NotEnforced => Ok(false),
        RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Ok(true),
    }
}

/// Why Landlock is not in force, and what to do about it.
fn why_no_landlock(answer: io::Result<()>) -> String {
    match answer.map_err(|error| (error.raw_os_error(), error)) {
        Err((Some(libc::EOPNOTSUPP), _)) => {
            "the kernel's Landlock is switched off; add landlock to lsm= on the kernel's command line".to_owned()
        }
        Err((Some(libc::ENOSYS), _)) => {
            "the kernel has no Landlock, or a container's seccomp filter hides it; use Linux 5.13 or later with \
             Landlock, and allow landlock_create_ruleset and landlock_restrict_self in the filter"
                .to_owned()
        }
        Err((_, error)) => format!(
            "a seccomp filter, such as a container's, refuses Landlock ({error}); allow landlock_create_ruleset and \
             landlock_restrict_self in the filter"
        ),
        Ok(()) => "the kernel did not put Landlock in force; use another kernel".to_owned(),
    }
}

/// Kills the process at the first system call that it has no use for (seccomp(2)).
///
/// Without `outgoing` sockets there is nothing to bind.
///
/// # Errors
/// [`Error::Sandbox`].
pub fn forbid_system_calls(outgoing: &[OwnedFd]) -> Result<(), Error> {
    let stage = "close the seccomp sandbox";
    let arch = std::env::consts::ARCH.try_into().map_err(failed(stage))?;
    let rules = allowed(outgoing).map_err(failed(stage))?;
    let program: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)
            .and_then(TryInto::try_into)
            .map_err(failed(stage))?;
    seccompiler::apply_filter(&program).map_err(failed(stage))
}

/// Every system call that the sniffer may make, with its reason. An empty list of rules allows the
/// call with any arguments.
fn allowed(outgoing: &[OwnedFd]) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut calls = BTreeMap::from([
        // Waits for packets, and for the announcer's end.
        (libc::SYS_ppoll, vec![]),
        // Reads packets, datagrams and the announcer's messages.
        (libc::SYS_recvmsg, vec![]),
        // Speaks to the announcer, and to nobody else: the packet sockets could send frames of any
        // content. The socketpair is standard input, and no descriptor can be made to take its place.
        (libc::SYS_sendto, vec![SeccompRule::new(vec![argument(0, 0)?, argument(4, 0)?])?]),
        // Asks what the kernel dropped.
        (
            libc::SYS_getsockopt,
            vec![
                SeccompRule::new(vec![number(1, libc::SOL_PACKET)?, number(2, libc::PACKET_STATISTICS)?])?,
                SeccompRule::new(vec![number(1, libc::SOL_SOCKET)?, number(2, libc::SO_MEMINFO)?])?,
            ],
        ),
        // Paces the counters; the vDSO falls back to it where the clock source demands it (vdso(7)).
        (libc::SYS_clock_gettime, vec![]),
        // The kernel's own, when a stopped process goes on (restart_syscall(2)).
        (libc::SYS_restart_syscall, vec![]),
        // Ends.
        (libc::SYS_exit_group, vec![]),
    ]);
    // Follows the interfaces whose outgoing frames are heard, by their own sockets alone.
    if !outgoing.is_empty() {
        let sockets = outgoing.iter().map(|socket| SeccompRule::new(vec![number(0, socket.as_raw_fd())?]));
        calls.insert(libc::SYS_bind, sockets.collect::<Result<_, _>>()?);
    }
    Ok(calls)
}

/// The argument, all 64 bits of it, is this.
fn argument(index: u8, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)
}

/// The argument, an `int`, is this number.
fn number(index: u8, value: i32) -> Result<SeccompCondition, seccompiler::BackendError> {
    let value = u64::from(u32::try_from(value).unwrap_or(u32::MAX));
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}
