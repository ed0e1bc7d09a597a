//! Whether VMs of `qemu:///session` are running and are shown as shut off. docs/SESSION.md describes the causes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::quoting::quote;
use crate::verbs::doctor::observe::Observations;
use crate::verbs::doctor::observe::session::{Guest, Session};
use crate::verbs::finding::Finding;

/// The page that describes the causes.
const PAGE: &str = "/usr/share/doc/wakevirt/SESSION.md";

/// Finds VMs that are running and are shown as shut off, and daemons that can cause it.
#[must_use]
pub fn check(seen: &Observations) -> Vec<Finding> {
    let session = &seen.session;
    let (elsewhere, lost) = lost_guests(session);
    let in_two_directories = directories(seen, &elsewhere);
    let several = in_two_directories.or_else(|| two_daemons(seen));
    several.into_iter().chain(lost.into_iter().map(without_directory)).collect()
}

/// The guests that the daemon of the login sessions does not know: those that it could, if their files were in its
/// directory, and the others.
fn lost_guests(session: &Session) -> (Vec<&Guest>, Vec<&Guest>) {
    let is_known = |guest: &&Guest| !guest.is_removed && guest.directory == session.directory;
    let known: BTreeSet<&str> = session.guests.iter().filter(is_known).map(|it| it.name.as_str()).collect();
    let others = session.guests.iter().filter(|guest| !is_known(guest));
    // libvirt does not know a second guest with the same name.
    others.partition(|guest| !guest.is_removed && !known.contains(guest.name.as_str()))
}

/// Reports daemons and guests that use a different runtime directory than the user's login sessions.
fn directories(seen: &Observations, elsewhere: &[&Guest]) -> Option<Finding> {
    let Session { directory, daemons, .. } = &seen.session;
    if daemons.iter().all(|daemon| daemon.directory == *directory) && elsewhere.is_empty() {
        return None;
    }
    let names: Vec<&str> = elsewhere.iter().map(|guest| guest.name.as_str()).collect();
    let shown = if names.is_empty() {
        "and each libvirt daemon shows only its own VMs".to_owned()
    } else {
        format!("and programs of login sessions show these running VMs as shut off: {}", names.join(", "))
    };
    let problem = format!("this user has different runtime directories, {shown}");
    let finding = list(seen, Finding::error("two-runtime-directories", problem));
    let finding = elsewhere.iter().fold(finding, |finding, guest| {
        finding.seen(format!("VM {}, process {}: {}", guest.name, guest.pid, guest.directory.display()))
    });
    let finding = finding.seen(format!("login sessions: {}", directory.display()));
    Some(finding.fix(restart(seen, elsewhere)).advice(format!(
        "VMs keep running. A program without XDG_RUNTIME_DIR, such as a login over SSH without a session, causes this; {PAGE} describes how to set the variable."
    )))
}

/// Reports several daemons in one directory.
fn two_daemons(seen: &Observations) -> Option<Finding> {
    let daemons = &seen.session.daemons;
    if daemons.len() < 2 {
        return None;
    }
    let kinds: BTreeSet<_> = daemons.iter().map(|daemon| &daemon.name).collect();
    let problem = if kinds.len() > 1 {
        "this user has both libvirtd and virtqemud running, and each sees only its own VMs"
    } else {
        "this user has several libvirt daemons running; the runtime directory of the first was removed, for example at logout"
    };
    let finding = list(seen, Finding::error("two-daemons", problem));
    Some(finding.fix(restart(seen, &[])).advice(format!(
        "VMs keep running. The daemon that starts next finds only the VMs whose state is in its runtime directory; see {PAGE}."
    )))
}

/// Reports a VM that no daemon can find.
fn without_directory(guest: &Guest) -> Finding {
    let Guest { pid, name, directory, is_removed } = guest;
    let problem = if *is_removed {
        format!(
            "the VM {name} is running, and libvirt shows it as shut off: the runtime directory of its libvirt daemon was removed, for example at logout"
        )
    } else {
        format!("the VM {name} is running twice, and libvirt shows only one of them")
    };
    let removed = if *is_removed { " (removed)" } else { "" };
    Finding::error("lost-vm", problem)
        .seen(format!("process {pid}: {}{removed}", directory.display()))
        .fix(format!("kill {pid}"))
        .advice(format!(
            "For the guest, the command is like a power failure: if you can, shut it down from inside instead, for example over SSH. {PAGE} describes how to prevent this."
        ))
}

/// Adds the daemons to a finding.
fn list(seen: &Observations, finding: Finding) -> Finding {
    seen.session.daemons.iter().fold(finding, |finding, daemon| {
        finding.seen(format!("{}, process {}: {}", daemon.name, daemon.pid, daemon.directory.display()))
    })
}

/// A command that ends all daemons, moves libvirt's files about these guests to the directory of the login sessions, and
/// starts one daemon, which finds all guests.
///
/// SIGKILL ends a daemon at once, so that it cannot write the files again after they have been moved.
fn restart(seen: &Observations, guests: &[&Guest]) -> String {
    let Session { directory, daemons, .. } = &seen.session;
    let pids: Vec<String> = daemons.iter().map(|daemon| daemon.pid.to_string()).collect();
    let mut steps = Vec::new();
    if !pids.is_empty() {
        let signal = if guests.is_empty() { "" } else { "-9 " };
        steps.push(format!("kill {signal}{}", pids.join(" ")));
    }
    let mut files: BTreeMap<&Path, Vec<String>> = BTreeMap::new();
    for guest in guests {
        let run = guest.directory.join("qemu/run");
        let of_guest = ["xml", "pid"].map(|kind| run.join(format!("{}.{kind}", guest.name)));
        files
            .entry(&guest.directory)
            .or_default()
            .extend(of_guest.map(|file| quote(&file.to_string_lossy())));
    }
    let target = quote(&directory.join("qemu/run").to_string_lossy());
    if !files.is_empty() {
        steps.push(format!("mkdir -p -m 700 {target}"));
    }
    steps.extend(files.values().map(|files| format!("mv {} {target}", files.join(" "))));
    if seen.user_units.as_ref().is_some_and(Result::is_ok) {
        steps.push("systemctl --user restart wakevirt-libvirtd wakevirt-actor".to_owned());
    }
    steps.join(" && ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::doctor::observe::session::Daemon;

    fn daemon(pid: u32, name: &str, directory: &str) -> Daemon {
        Daemon { pid, name: name.to_owned(), directory: directory.into() }
    }

    fn guest(pid: u32, name: &str, directory: &str, is_removed: bool) -> Guest {
        Guest { pid, name: name.to_owned(), directory: directory.into(), is_removed }
    }

    /// The check, the number of lines of evidence, and the command of each finding.
    fn findings(daemons: Vec<Daemon>, guests: Vec<Guest>) -> Vec<(&'static str, usize, String)> {
        let session = Session { directory: "/r".into(), daemons, guests };
        let findings = check(&Observations { session, ..Observations::nothing() });
        findings.into_iter().map(|it| (it.check, it.evidence.len(), it.fix.unwrap_or_default())).collect()
    }

    #[test]
    fn one_daemon_in_the_directory_of_sessions_is_fine() {
        assert_eq!(findings(Vec::new(), Vec::new()), []);
        let daemons = vec![daemon(1, "virtqemud", "/r")];
        assert_eq!(findings(daemons, vec![guest(2, "a", "/r", false)]), []);
    }

    #[test]
    fn moves_guests_to_the_directory_of_sessions() {
        let command = "kill -9 1 && mkdir -p -m 700 /r/qemu/run && mv '/c c/qemu/run/a.xml' '/c c/qemu/run/a.pid' /r/qemu/run";
        let one = vec![daemon(1, "libvirtd", "/c c")];
        let guests = vec![guest(2, "a", "/c c", false), guest(3, "b", "/r", false)];
        assert_eq!(findings(one, guests), [("two-runtime-directories", 3, command.to_owned())]);
        // The daemon has exited.
        let command = "mkdir -p -m 700 /r/qemu/run && mv /c/qemu/run/a.xml /c/qemu/run/a.pid /r/qemu/run";
        let guests = vec![guest(2, "a", "/c", false)];
        assert_eq!(findings(Vec::new(), guests), [("two-runtime-directories", 2, command.to_owned())]);
    }

    #[test]
    fn ends_guests_that_no_daemon_can_find() {
        let two = vec![daemon(1, "libvirtd", "/r"), daemon(2, "libvirtd", "/r")];
        let guests = vec![guest(3, "a", "/r", true), guest(4, "b", "/r", false), guest(5, "b", "/c", false)];
        let commands = ["kill 1 2", "kill 3", "kill 5"].map(str::to_owned);
        let [two_daemons, removed, twice] = commands;
        let expected = [("two-daemons", 2, two_daemons), ("lost-vm", 1, removed), ("lost-vm", 1, twice)];
        assert_eq!(findings(two, guests), expected);
    }
}
