//! Runs other programs, and limits their time and output.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The maximum run time of a program.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often to check whether the program has exited.
const INTERVAL: Duration = Duration::from_millis(10);
/// The maximum length of each output, in bytes.
const MAX_OUTPUT: u64 = 1024 * 1024;

/// The output of a program that has exited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProgramOutput {
    /// Whether its exit status was 0.
    pub success: bool,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl ProgramOutput {
    /// The last line of its standard error, without the prefix that virsh(1) adds.
    #[must_use]
    pub fn error(&self) -> String {
        let line = self.stderr.lines().map(|line| line.trim_start_matches("error: ").trim());
        let line = line.rev().find(|line| !line.is_empty());
        line.unwrap_or("it failed without a message").to_owned()
    }
}

/// Runs a program with the privileges of the caller, without input, in the C locale.
///
/// # Errors
/// If the program cannot be started or does not exit in time. The message is the reason.
pub fn run(program: &str, arguments: &[&str]) -> Result<ProgramOutput, String> {
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C").env("LIBVIRT_AUTOSTART", "0").env("SYSTEMD_COLORS", "0");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("cannot start {program}: {error}"))?;
    let (stdout, stderr) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let deadline = Instant::now() + TIMEOUT;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => thread::sleep(INTERVAL),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{program} did not exit within {} s", TIMEOUT.as_secs()));
            }
            Err(error) => return Err(format!("{program}: {error}")),
        }
    };
    let text = |thread: thread::JoinHandle<String>| thread.join().unwrap_or_default();
    Ok(ProgramOutput { success: status.success(), stdout: text(stdout), stderr: text(stderr) })
}

/// Reads an output on a thread of its own, so that a full pipe does not block the program.
fn reader(output: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut output) = output {
            let _ = output.by_ref().take(MAX_OUTPUT).read_to_end(&mut bytes);
            // Drain the rest, so that the program can exit.
            let _ = std::io::copy(&mut output, &mut std::io::sink());
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_the_output_and_limits_it() {
        let output = run("sh", &["-c", "echo out; echo error: bad >&2; exit 3"]).unwrap();
        assert_eq!(
            (output.success, output.stdout.as_str(), output.error().as_str()),
            (false, "out\n", "bad")
        );
        let long = run("sh", &["-c", "head -c 3000000 /dev/zero"]).unwrap();
        assert_eq!(u64::try_from(long.stdout.len()), Ok(MAX_OUTPUT));
        assert!(run("/nonexistent/program", &[]).is_err());
    }
}
