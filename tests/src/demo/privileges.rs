//! The privileges of the processes, from `/proc`.

use std::fs;

use nix::unistd::{Pid, Uid, User};

use crate::demo::screen::Screen;
use crate::process::proc::{self, Status};

/// CAP_NET_RAW in linux/capability.h.
const NET_RAW: u32 = 13;

/// Prints a table of these processes.
pub(super) fn show(screen: Screen, processes: &[Pid]) {
    let heads = ["process", "user", "capabilities", "can regain", "no_new_privs", "seccomp", "open files"];
    let rows = processes.iter().map(|pid| row(*pid));
    screen.table(&heads.map(str::to_owned), rows);
}

fn row(pid: Pid) -> [String; 7] {
    let status = Status::of(pid);
    let sets = ["CapPrm", "CapEff", "CapInh", "CapAmb"].map(|set| status.capabilities(set));
    let held = sets.into_iter().fold(0, |all, set| all | set);
    let no_new_privs = status.field("NoNewPrivs") == "1";
    let seccomp = match status.field("Seccomp") {
        "0" => "none",
        "1" => "strict",
        _ => "filter",
    };
    [
        proc::program(pid).unwrap_or_default(),
        name(pid, status.effective_uid()),
        capabilities(held),
        // With no_new_privs, execve(2) gains no capabilities from the bounding set.
        if no_new_privs { "none".to_owned() } else { capabilities(status.capabilities("CapBnd")) },
        if no_new_privs { "yes" } else { "no" }.to_owned(),
        seccomp.to_owned(),
        fs::read_dir(format!("/proc/{pid}/fd"))
            .map_or_else(|_| "?".to_owned(), |fds| fds.count().to_string()),
    ]
}

fn capabilities(set: u64) -> String {
    match set {
        0 => "none".to_owned(),
        set if set == 1 << NET_RAW => "net_raw".to_owned(),
        set => format!("{set:#x}"),
    }
}

/// The name of a user on the process's host.
fn name(pid: Pid, uid: u32) -> String {
    let users = fs::read_to_string(format!("/proc/{pid}/root/etc/passwd")).unwrap_or_default();
    let of_host = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    let of_machine = || User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
    of_host.or_else(of_machine).unwrap_or_else(|| uid.to_string())
}
