//! libvirt's hook for QEMU domains: passes each event to wakevirt-host. <https://libvirt.org/hooks.html>
//!
//! The hook runs as root, and parses neither the domain's XML nor any other file. It writes the event into the spool,
//! sends the name of the file to the service, and waits for the answer. On a host without systemd, it then runs the
//! administrator's executables.
//!
//! A failure of the hook would prevent the start of a domain or, on `reconnect`, kill a running domain. The hook
//! therefore exits with 1 only if wakevirt-host refuses the start of a domain, and with 0 in all other cases, such as a
//! full spool or a panic. It prints nothing on standard output, because libvirt can replace the domain's XML with what
//! a hook prints.

mod executables;
mod service;
mod spool;
mod syslog;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::process::geteuid;
use wakevirt_protocol::host::{MAX_NAME, Operation};

/// How long libvirt can take to write the domain's XML.
const XML_WAIT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let start = Instant::now();
    // Runs before the process would abort.
    std::panic::set_hook(Box::new(|_| std::process::exit(0)));
    // A user's own libvirt daemon runs the same hooks.
    if !geteuid().is_root() {
        return ExitCode::SUCCESS;
    }
    let mut arguments = env::args_os();
    let program = arguments.next();
    let (Some(name), Some(operation)) = (arguments.next(), arguments.next().and_then(operation)) else {
        return ExitCode::SUCCESS;
    };
    if program.is_some_and(|program| program == executables::RUNNER) {
        executables::runner(&name, operation);
        return ExitCode::SUCCESS;
    }
    let refusal = pass_on(&name, operation, start).unwrap_or_else(|error| {
        print(&format!("wakevirt-hook: {error}"));
        None
    });
    match (operation, refusal) {
        (Operation::Prepare, Some(reason)) => {
            print(&reason);
            ExitCode::FAILURE
        }
        _ => {
            if let Err(error) = executables::run(&name, operation, start) {
                syslog::warn(&format!(
                    "cannot run the executables for {} of {name:?}: {error}",
                    operation.name()
                ));
            }
            ExitCode::SUCCESS
        }
    }
}

fn operation(argument: OsString) -> Option<Operation> {
    Operation::from_name(argument.to_str()?)
}

/// Passes the event to the service. Returns the reason if the service refuses it.
fn pass_on(name: &OsString, operation: Operation, start: Instant) -> Result<Option<String>, String> {
    let name = name.as_bytes();
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(format!("the domain's name has {} bytes instead of 1 to {MAX_NAME}", name.len()));
    }
    let entry = spool::add(name, operation, start + XML_WAIT)
        .map_err(|error| format!("cannot store the event in the spool: {error}"))?;
    service::ask(&entry, start).map_err(|error| format!("cannot reach wakevirt-host: {error}"))
}

/// Prints one line on standard error. libvirt adds it to its error message, if the hook fails.
fn print(line: &str) {
    let line: String = line.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    // If nobody reads it, there is nothing else to do.
    let _ = writeln!(io::stderr(), "{line}");
}
