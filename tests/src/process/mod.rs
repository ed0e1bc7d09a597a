//! Programs that run on a host.

pub mod descriptors;
pub mod kernel_log;
pub mod lines;
pub mod proc;
#[cfg(target_arch = "x86_64")]
pub mod ptrace;
pub(crate) mod socket;

use std::io::{self, Write};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::lines::Lines;
use crate::wait;

/// The maximum number of log lines that are printed if a test fails.
const MAX_LINES: usize = 200;

/// A program that runs on a host until it exits or the value is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    /// `nsenter`, which exits with the status of the program.
    child: Child,
    /// The program. `None` if it exited immediately.
    pid: Option<Pid>,
    log: Lines,
}

impl Process {
    /// Starts a command from [`Host::command`](crate::host::Host::command). Its standard output and error are its log.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(name: &str, command: &mut Command) -> Self {
        let (log, both) = io::pipe().expect("a pipe");
        let stderr = both.try_clone().expect("a pipe");
        let mut child = command.stdout(Stdio::from(both)).stderr(Stdio::from(stderr)).spawn().expect(name);
        // Closes the command's copies of the pipe, so that the log ends when the program exits.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let log = Lines::of(log);
        let pid = wait::until(name, || {
            let pid = proc::children(proc::pid_of(&child)).first().copied();
            let exited = child.try_wait().expect("it is a child process").is_some();
            (pid.is_some() || exited).then_some(pid)
        });
        Self { name: name.to_owned(), child, pid, log }
    }

    /// The process ID of the program in the PID namespace of this process.
    ///
    /// # Panics
    /// If the program exited immediately. The message contains its log.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid.unwrap_or_else(|| panic!("{} exited immediately:\n{}", self.name, self.log.all().join("\n")))
    }

    /// The output of the program.
    #[must_use]
    pub fn log(&self) -> &Lines {
        &self.log
    }

    /// The `/proc/PID/status` of the program.
    #[must_use]
    pub fn status(&self) -> proc::Status {
        proc::Status::of(self.pid())
    }

    /// Waits for a child process that runs this program, and returns it.
    ///
    /// # Panics
    /// If there is no such child within the timeout.
    #[must_use]
    pub fn child(&self, program: &str) -> Pid {
        wait::until(&format!("{} to have a child {program}", self.name), || {
            proc::children(self.pid())
                .into_iter()
                .find(|child| proc::program(*child).as_deref() == Some(program))
        })
    }

    /// Sends a signal to the program, unless it has exited.
    pub fn signal(&self, signal: Signal) {
        if matches!(signal, Signal::SIGCONT | Signal::SIGKILL) {
            // nsenter stops when its child is stopped, and must be continued to wait for it.
            let _ = kill(proc::pid_of(&self.child), Signal::SIGCONT);
        }
        // While the program is a child of nsenter, its process ID cannot belong to another process.
        let running = proc::children(proc::pid_of(&self.child));
        for pid in running.into_iter().filter(|pid| Some(*pid) == self.pid) {
            let _ = kill(pid, signal);
        }
    }

    /// The exit status of the program, if it has exited.
    ///
    /// # Panics
    /// If wait(2) fails.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is a child process")
    }

    /// Waits until the program exits, and returns its exit status. libvirt's daemons can take 30 s.
    ///
    /// # Panics
    /// If it does not exit.
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        let status = wait::within(3 * wait::TIMEOUT, || self.exit_status());
        status.unwrap_or_else(|| panic!("{} does not exit", self.name))
    }

    /// Sends SIGTERM, and waits until the program exits.
    ///
    /// # Panics
    /// If it does not exit, or its exit status is not 0. The message contains its log.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.wait_for_exit();
        assert!(
            status.success(),
            "{} exited with an error: {status}\n{}",
            self.name,
            self.log.all().join("\n")
        );
    }

    /// Sends SIGKILL, and waits until the program exits.
    ///
    /// # Panics
    /// If wait(2) fails.
    pub fn kill(&mut self) {
        while self.exit_status().is_none() {
            self.signal(Signal::SIGKILL);
            std::thread::sleep(wait::INTERVAL);
        }
    }
}

/// Prints a log to the output of the test if the test has failed.
#[expect(clippy::print_stderr, reason = "the output of a test is shown only if it fails")]
pub(crate) fn print_on_failure(what: &str, log: impl FnOnce() -> String) {
    if std::thread::panicking() {
        eprintln!("--- {what}:\n{}", log());
    }
}

/// The exit code for the result of a test bench program. Prints the error, if any.
#[must_use]
pub fn exit_code(program: &str, result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{program}: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Drop for Process {
    /// Kills the program, and prints its log if the test has failed.
    fn drop(&mut self) {
        self.kill();
        print_on_failure(&format!("the log of {}", self.name), || self.log.last(MAX_LINES));
    }
}
