//! A program that has called libvirt exits without the exit handlers of the libraries. They would free what its other
//! threads still use.

use std::process::Command;

use wakevirt_tests::host::{Host, PROGRAMS, User, succeed};
use wakevirt_tests::privileged;
use wakevirt_tests::process::Process;

/// What the dynamic linker prints before it calls the handler of a library: `LD_DEBUG` in ld.so(8).
const START_HANDLER: &str = "calling init: ";
const EXIT_HANDLER: &str = "calling fini: ";
const URI: &str = "test:///default";

/// A program. The dynamic linker writes a file for it in the directory `/run/NAME`.
fn traced(host: &Host, name: &str, path: &str) -> Command {
    host.sh(&format!("install -d -m 777 /run/{name}"));
    let mut command = host.command_as(User::Unprivileged, "env");
    command.arg("LD_DEBUG=files").arg(format!("LD_DEBUG_OUTPUT=/run/{name}/trace")).arg(path);
    command
}

/// Whether the program called exit handlers.
fn has_called_exit_handlers(host: &Host, name: &str) -> bool {
    let trace = succeed(host.command("sh").args(["-c", &format!("cat /run/{name}/trace.*")]));
    assert!(trace.contains(START_HANDLER), "{name} was not traced: {trace}");
    trace.contains(EXIT_HANDLER)
}

#[test]
fn programs_with_libvirt_exit_without_exit_handlers() {
    privileged!();
    let host = Host::new();
    succeed(traced(&host, "virsh", "virsh").args(["--connect", URI, "list"]));
    assert!(has_called_exit_handlers(&host, "virsh"), "virsh called none: this test checks nothing");

    host.write("/run/actor.toml", &format!("connections = [\"{URI}\"]\n"));
    let mut actor = traced(&host, "actor", &format!("{PROGRAMS}/wakevirt-actor"));
    actor.args(["--config", "/run/actor.toml", "--log-to", "stderr", "--bus", "unix:path=/run/no-bus"]);
    let mut actor = Process::start("wakevirt-actor", actor.env("RUNTIME_DIRECTORY", "/run/actor"));
    let _ = actor.log().wait_for(&format!("connected to {URI}"));
    actor.stop();
    assert!(!has_called_exit_handlers(&host, "actor"));

    let sleep = format!("{PROGRAMS}/wakevirt-sleep");
    succeed(traced(&host, "sleep", &sleep).args(["--connect", URI, "suspend"]));
    assert!(!has_called_exit_handlers(&host, "sleep"));
}
