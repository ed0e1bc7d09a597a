//! The stages of the sandbox. A stage cannot be undone. If one fails, the process exits.
//!
//! | stage | effect | must come before |
//! | --- | --- | --- |
//! | [`hide`] | the announcer, which runs as the same user, can no longer trace the process | all others |
//! | open | the sockets are opened, and their filters are attached and locked (`sockets`) | the first packet is read |
//! | [`drop_capabilities`] | all capability sets except the bounding set are cleared; no program can regain a capability | the first packet is read |
//! | [`forbid_files`] | Landlock is enforced without any rule | the first packet is read |
//! | [`forbid_system_calls`] | seccomp: any other system call kills the process | the first packet is read |
//!
//! Capabilities, Landlock and seccomp apply to the calling thread. The process has only one.

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

use crate::error::Error;
use crate::ffi;

fn failed<E: ToString>(stage: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::Sandbox { stage, reason: error.to_string() }
}

/// Prevents other processes of the same user from tracing this one, and from reading its memory and
/// descriptors: `PR_SET_DUMPABLE` (prctl(2), ptrace(2)). It also prevents core dumps, which would contain packets.
///
/// # Errors
/// `Error::Sandbox`.
pub fn hide() -> Result<(), Error> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("prevent tracing of the process"))
}

/// Drops all capabilities irrevocably: [`wakevirt_privilege::drop_capabilities`].
///
/// # Errors
/// `Error::Capabilities`.
pub fn drop_capabilities() -> Result<(), Error> {
    Ok(wakevirt_privilege::drop_capabilities()?)
}

/// Denies access to all files, TCP ports, abstract sockets and signals, as far as this kernel's version of Landlock
/// supports it (landlock(7)). Returns whether Landlock is enforced.
///
/// [`forbid_system_calls`] denies what an older Landlock does not cover.
///
/// # Errors
/// `Error::Sandbox`, including if Landlock is required but not enforced.
pub fn forbid_files(required: bool) -> Result<bool, Error> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V6))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(ABI::V6)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(ABI::V6)))
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.restrict_self())
        .map_err(failed("enable the Landlock sandbox"))?;
    match status.ruleset {
        RulesetStatus::NotEnforced if required => Err(Error::Sandbox {
            stage: "enable the Landlock sandbox",
            reason: format!(
                "{}, or set require-landlock = false to run without this layer",
                explain_missing_landlock(ffi::probe_landlock())
            ),
        }),
        RulesetStatus::NotEnforced => Ok(false),
        RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Ok(true),
    }
}

/// Why Landlock is not enforced, and what to do.
fn explain_missing_landlock(probe: io::Result<()>) -> String {
    match probe.map_err(|error| (error.raw_os_error(), error)) {
        Err((Some(libc::EOPNOTSUPP), _)) => {
            "Landlock is disabled in the kernel; add landlock to lsm= on the kernel command line".to_owned()
        }
        Err((Some(libc::ENOSYS), _)) => {
            "the kernel has no Landlock, or a container's seccomp filter hides it; use Linux 5.13 or later with \
             Landlock, and allow landlock_create_ruleset and landlock_restrict_self in the filter"
                .to_owned()
        }
        Err((_, error)) => format!(
            "a seccomp filter, such as a container's, denies Landlock ({error}); allow landlock_create_ruleset and \
             landlock_restrict_self in the filter"
        ),
        Ok(()) => "the kernel did not enforce Landlock; use a different kernel".to_owned(),
    }
}

/// Makes the kernel kill the process on any system call that is not allowed (seccomp(2)).
///
/// Allows bind(2) only for the `bindable` sockets.
///
/// # Errors
/// `Error::Sandbox`.
pub fn forbid_system_calls<'a>(bindable: impl Iterator<Item = &'a OwnedFd>) -> Result<(), Error> {
    let stage = "enable the seccomp sandbox";
    let arch = std::env::consts::ARCH.try_into().map_err(failed(stage))?;
    let rules = allowed(bindable).map_err(failed(stage))?;
    let program: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)
            .and_then(TryInto::try_into)
            .map_err(failed(stage))?;
    // Never freed: musl returns the memory with munmap(2), which the filter forbids.
    seccompiler::apply_filter(program.leak()).map_err(failed(stage))
}

/// The allowed system calls, each with its reason. An empty list of rules allows a call with any arguments.
fn allowed<'a>(
    bindable: impl Iterator<Item = &'a OwnedFd>,
) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut calls = BTreeMap::from([
        // Waits for packets, and for the announcer to exit.
        (libc::SYS_ppoll, vec![]),
        // Reads packets, datagrams and the announcer's messages.
        (libc::SYS_recvmsg, vec![]),
        // Sends messages, but only to the announcer: through the packet sockets, the process could send frames with any
        // content. The socketpair is standard input, and cannot be replaced with another descriptor.
        (libc::SYS_sendto, vec![SeccompRule::new(vec![argument(0, 0)?, argument(4, 0)?])?]),
        // Reads the kernel's drop counts.
        (
            libc::SYS_getsockopt,
            vec![
                SeccompRule::new(vec![number(1, libc::SOL_PACKET)?, number(2, libc::PACKET_STATISTICS)?])?,
                SeccompRule::new(vec![number(1, libc::SOL_SOCKET)?, number(2, libc::SO_MEMINFO)?])?,
            ],
        ),
        // Times the reports; the vDSO falls back to it with some clock sources (vdso(7)).
        (libc::SYS_clock_gettime, vec![]),
        // Made by the kernel when a stopped process continues (restart_syscall(2)).
        (libc::SYS_restart_syscall, vec![]),
        // Exits.
        (libc::SYS_exit_group, vec![]),
    ]);
    // Binds packet sockets to interfaces.
    let bound = bindable.map(|socket| SeccompRule::new(vec![number(0, socket.as_raw_fd())?]));
    let bound = bound.collect::<Result<Vec<_>, _>>()?;
    // An empty list would allow every bind.
    if !bound.is_empty() {
        calls.insert(libc::SYS_bind, bound);
    }
    Ok(calls)
}

/// Requires that all 64 bits of the argument equal `value`.
fn argument(index: u8, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)
}

/// Requires that the argument, an `int`, equals `value`.
fn number(index: u8, value: i32) -> Result<SeccompCondition, seccompiler::BackendError> {
    let value = u64::from(u32::try_from(value).unwrap_or(u32::MAX));
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}
