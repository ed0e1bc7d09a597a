//! A program that runs on a host.

pub mod descriptors;
pub mod kernel_log;
pub mod lines;
pub mod proc;
#[cfg(target_arch = "x86_64")]
pub mod ptrace;

use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::lines::Lines;
use crate::wait;

/// So many lines of a log are shown where a test fails.
const SHOWN: usize = 200;

/// A program that runs on a host until it ends or the value is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    /// `nsenter`, which ends as the program does.
    child: Child,
    /// The program itself; unknown if it ended before anyone could look.
    pid: Option<Pid>,
    log: Lines,
}

impl Process {
    /// Starts a program that [`Host::command`](crate::host::Host::command) made ready; what it writes,
    /// to standard output or standard error, is its log.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(name: &str, command: &mut Command) -> Self {
        Self::start_watched(name, command, |_| ())
    }

    /// As [`Self::start`], and each line of the log is shown as it comes.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_watched(name: &str, command: &mut Command, show: impl FnMut(&str) + Send + 'static) -> Self {
        let (log, both) = std::io::pipe().expect("a pipe");
        let stderr = both.try_clone().expect("a pipe");
        let mut child = command.stdout(Stdio::from(both)).stderr(Stdio::from(stderr)).spawn().expect(name);
        // The command keeps its ends of the pipe; without them the log ends with the program.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let log = Lines::watched(log, show);
        let pid = wait::until(name, || {
            let pid = proc::children(proc::pid_of(&child)).first().copied();
            let ended = child.try_wait().expect("it is a child").is_some();
            (pid.is_some() || ended).then_some(pid)
        });
        Self { name: name.to_owned(), child, pid, log }
    }

    /// The process ID of the program, as this process sees it.
    ///
    /// # Panics
    /// If the program ended as soon as it had started; its log is shown.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid.unwrap_or_else(|| panic!("{} ended at once:\n{}", self.name, self.log.all().join("\n")))
    }

    /// What it wrote.
    #[must_use]
    pub fn log(&self) -> &Lines {
        &self.log
    }

    /// What `/proc` tells about it.
    #[must_use]
    pub fn status(&self) -> proc::Status {
        proc::Status::of(self.pid())
    }

    /// Its child that runs this program.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn child(&self, program: &str) -> Pid {
        wait::until(&format!("{} to have a child {program}", self.name), || {
            proc::children(self.pid())
                .into_iter()
                .find(|child| proc::program(*child).as_deref() == Some(program))
        })
    }

    /// Sends it a signal; nothing happens if it has ended.
    pub fn signal(&self, signal: Signal) {
        if matches!(signal, Signal::SIGCONT | Signal::SIGKILL) {
            // nsenter stops itself when its child is stopped, and would never see it end.
            let _ = kill(proc::pid_of(&self.child), Signal::SIGCONT);
        }
        // Only while it is the child of its `nsenter`: afterwards its number may be somebody else's.
        let running = proc::children(proc::pid_of(&self.child));
        for pid in running.into_iter().filter(|pid| Some(*pid) == self.pid) {
            let _ = kill(pid, signal);
        }
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// If the kernel does not tell.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is a child")
    }

    /// Waits until it has ended, and returns how.
    ///
    /// # Panics
    /// If it does not end.
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        let name = format!("{} to end", self.name);
        wait::until(&name, || self.exit_status())
    }

    /// Tells it to stop (SIGTERM), and waits until it has.
    ///
    /// # Panics
    /// If it does not end, or not with success: the log is shown.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.wait_for_exit();
        assert!(
            status.success(),
            "{} did not end cleanly: {status}\n{}",
            self.name,
            self.log.all().join("\n")
        );
    }

    /// Kills it (SIGKILL), and waits until it is gone.
    ///
    /// # Panics
    /// If the kernel does not tell.
    pub fn kill(&mut self) {
        while self.exit_status().is_none() {
            self.signal(Signal::SIGKILL);
            std::thread::sleep(wait::INTERVAL);
        }
    }
}

/// Shows a log where the test fails, with what it wrote itself.
#[expect(clippy::print_stderr, reason = "the test's own output, which it keeps to itself while it passes")]
pub(crate) fn show_if_it_fails(what: &str, log: impl FnOnce() -> String) {
    if std::thread::panicking() {
        eprintln!("--- {what}:\n{}", log());
    }
}

impl Drop for Process {
    /// Ends it. Where a test fails, its log is shown.
    fn drop(&mut self) {
        self.kill();
        show_if_it_fails(&format!("the log of {}", self.name), || self.log.last(SHOWN));
    }
}
