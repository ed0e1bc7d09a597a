//! The sniffer as a child process. It can be compromised at any time, so its messages are not trusted.

use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    recv, send, sendmsg, socketpair,
};
use tokio::io::unix::AsyncFd;
use tokio::task::coop::consume_budget;
use wakevirt_protocol::sniffer::{
    Change, FromSniffer, MAX_MESSAGE, MAX_UDP_SOCKETS, Source, Start, ToSniffer,
};
use zeroize::Zeroize;

use crate::error::Error;
use crate::network::ffi;

/// The file name of the sniffer.
const PROGRAM: &str = "wakevirt-sniffer";

/// How long the announcer waits for the sniffer to exit after either end of the socketpair has been closed.
const EXIT_TIMEOUT: Duration = Duration::from_millis(500);

/// A sniffer that has just been started.
#[derive(Debug)]
pub struct Sniffer {
    process: Child,
    channel: OwnedFd,
}

impl Sniffer {
    /// Starts the sniffer with the UDP sockets and one end of a socketpair. The sniffer receives no environment and no
    /// arguments. Its standard output and standard error are `/dev/null`; otherwise, a compromised sniffer could write
    /// forged log lines to them.
    ///
    /// The sniffer inherits the ambient capabilities. Call this function before the process starts a second thread.
    ///
    /// # Errors
    /// [`Error::StartSniffer`] if the program cannot be executed, [`Error::SnifferNotFound`] if it is not
    /// installed.
    pub fn start(start: &Start, sockets: &[OwnedFd]) -> Result<Self, Error> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(|error| Error::Channel(error.into()))?;
        // The sniffer blocks until it receives the first message. It does not block when it sends one, except for a failure
        // report, which has a timeout.
        rustix::io::ioctl_fionbio(&theirs, false).map_err(|error| Error::Channel(error.into()))?;
        ffi::set_close_on_exec().map_err(Error::Descriptors)?;
        let program = find_program()?;
        let process = Command::new(&program)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| Error::StartSniffer { program, error })?;
        let sniffer = Self { process, channel: ours };
        sniffer.send_start(start, sockets)?;
        Ok(sniffer)
    }

    /// Sends the first message, with the UDP sockets.
    fn send_start(&self, start: &Start, sockets: &[OwnedFd]) -> Result<(), Error> {
        let mut buffer = [0; MAX_MESSAGE];
        let message = ToSniffer::Start(start.clone());
        let bytes = message.encode(&mut buffer).map_err(|error| Error::Channel(io::Error::other(error)))?;
        let sockets: Vec<_> = sockets.iter().take(MAX_UDP_SOCKETS).map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_UDP_SOCKETS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !sockets.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&sockets));
        }
        sendmsg(&self.channel, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
            .map_err(|error| Error::Channel(error.into()))?;
        Ok(())
    }

    /// Returns the process, and the channel to it. Requires the runtime.
    ///
    /// # Errors
    /// [`Error::Channel`] if the runtime does not support the socketpair.
    pub fn into_parts(self) -> Result<(Process, Channel), Error> {
        let channel = ffi::watch_readable(self.channel).map_err(Error::Channel)?;
        Ok((Process(self.process), Channel(channel)))
    }
}

/// The sniffer's process.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Waits until the sniffer exits, and kills it after a timeout.
    #[must_use]
    pub fn wait_or_kill(mut self) -> Exit {
        let deadline = Instant::now() + EXIT_TIMEOUT;
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) => return Exit::Status(status),
                Ok(None) if Instant::now() < deadline => sleep(Duration::from_millis(5)),
                Ok(None) => {
                    let _result = self.0.kill();
                    let _status = self.0.wait();
                    return Exit::Timeout;
                }
                Err(error) => return Exit::Unknown(error),
            }
        }
    }
}

/// How the sniffer exited.
#[derive(Debug)]
pub enum Exit {
    /// It exited with this status.
    Status(ExitStatus),
    /// It did not exit after the socketpair was closed, and was killed.
    Timeout,
    /// Its status cannot be read.
    Unknown(io::Error),
}

impl Exit {
    /// Whether it exited because the announcer closed the socketpair.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        matches!(self, Self::Status(status) if status.success())
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = match self {
            Self::Status(status) => status,
            Self::Timeout => {
                return f.write_str("killed, because it did not exit after the socketpair was closed");
            }
            Self::Unknown(error) => return write!(f, "status unknown: {error}"),
        };
        match (status.code(), status.signal()) {
            (_, Some(libc::SIGSYS)) => f.write_str(
                "killed for a forbidden system call, which indicates a bug or an attack; the kernel log contains the number of \
                 the call (type=1326)",
            ),
            (_, Some(signal)) => write!(f, "killed by signal {signal}"),
            (Some(code), None) => write!(f, "code {code}"),
            (None, None) => f.write_str("status unknown"),
        }
    }
}

/// The announcer's end of the socketpair.
#[derive(Debug)]
pub struct Channel(AsyncFd<OwnedFd>);

impl Channel {
    /// Receives the next message; `None` after the sniffer has closed its end. Can be cancelled without losing a
    /// message.
    ///
    /// # Errors
    /// [`Error::BadMessage`] if the datagram is not a valid message, [`Error::Channel`] if the socketpair fails.
    pub async fn receive(&self) -> Result<Option<FromSniffer>, Error> {
        // One byte more than the maximum length, to detect a longer datagram.
        let mut buffer = [0; MAX_MESSAGE + 1];
        loop {
            let mut ready = self.0.readable().await.map_err(Error::Channel)?;
            // An AsyncFd does not participate in tokio's cooperative scheduling. Without this call, a sniffer that
            // sends without a pause would prevent the tasks for the bus, the signals and the watchdog from running.
            // Nothing has been received yet, so nothing is lost if the caller cancels here.
            consume_budget().await;
            let received = ready.try_io(|channel| {
                let (received, _) = recv(channel, &mut buffer, RecvFlags::DONTWAIT)?;
                Ok(received)
            });
            let length = match received {
                Ok(Ok(0)) => return Ok(None),
                Ok(Ok(length)) => length,
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Ok(Err(error)) => return Err(Error::Channel(error)),
                Err(_would_block) => continue,
            };
            let message = FromSniffer::decode(buffer.get(..length).unwrap_or_default());
            // The message can contain a password.
            buffer.zeroize();
            return Ok(Some(message?));
        }
    }

    /// Makes the sniffer capture incoming frames from this source, with its socket in `slot`.
    ///
    /// # Errors
    /// [`Error::Channel`], including if the socketpair is full because the sniffer does not read its messages.
    pub fn capture_incoming(&self, slot: u8, source: Source) -> Result<(), Error> {
        self.send(&ToSniffer::Incoming { slot, source })
    }

    /// Makes the sniffer capture outgoing frames on an interface, with its socket in `slot`.
    ///
    /// # Errors
    /// [`Error::Channel`], including if the socketpair is full because the sniffer does not read its messages.
    pub fn capture_outgoing(&self, slot: u8, interface: u32) -> Result<(), Error> {
        self.send(&ToSniffer::Outgoing { slot, interface })
    }

    /// Requests the sniffer's counters. The reply shows that the sniffer is running.
    ///
    /// # Errors
    /// [`Error::Channel`].
    pub fn request_counters(&self) -> Result<(), Error> {
        self.send(&ToSniffer::Report)
    }

    /// Sends a change of what the sniffer drops. Returns `false` if the socketpair is full.
    ///
    /// # Errors
    /// [`Error::Channel`].
    pub fn change(&self, change: &Change) -> Result<bool, Error> {
        self.try_send(&ToSniffer::Change(*change))
    }

    /// A channel, and the sniffer's end of it.
    #[cfg(test)]
    pub fn pair() -> (Self, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        (Self(ffi::watch_readable(ours).unwrap()), theirs)
    }

    fn send(&self, message: &ToSniffer) -> Result<(), Error> {
        if self.try_send(message)? { Ok(()) } else { Err(Error::Channel(Errno::AGAIN.into())) }
    }

    /// Returns `false` if the socketpair is full.
    fn try_send(&self, message: &ToSniffer) -> Result<bool, Error> {
        let mut buffer = [0; MAX_MESSAGE];
        let bytes = message.encode(&mut buffer).map_err(|error| Error::Channel(io::Error::other(error)))?;
        match send(&self.0, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            // The sniffer has exited. Its failure report can still be read.
            Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(Error::Channel(error.into())),
        }
    }
}

/// Finds the sniffer: next to the running program, as in a build directory, or in the directory for programs that users
/// do not run directly.
fn find_program() -> Result<PathBuf, Error> {
    let program = std::env::current_exe().map_err(Error::OwnPath)?;
    let directory = program.parent().unwrap_or(Path::new("/"));
    let candidates = [directory.join(PROGRAM), directory.join("../libexec/wakevirt").join(PROGRAM)];
    candidates.iter().find(|path| path.is_file()).cloned().ok_or(Error::SnifferNotFound { candidates })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More messages than a tokio task can receive before it yields (128), and fewer than fill the socketpair.
    const MESSAGES: usize = 200;

    #[tokio::test]
    async fn other_tasks_run_while_the_channel_is_never_empty() {
        let (channel, theirs) = Channel::pair();
        let mut buffer = [0; MAX_MESSAGE];
        let message = FromSniffer::Failed { reason: String::new() };
        let bytes = message.encode(&mut buffer).unwrap();
        for _ in 0..MESSAGES {
            send(&theirs, bytes, SendFlags::DONTWAIT).unwrap();
        }
        // The first wait for the socketpair yields to all tasks.
        assert_eq!(channel.receive().await.unwrap().as_ref(), Some(&message));
        let other = tokio::spawn(async {});
        for _ in 1..MESSAGES {
            assert_eq!(channel.receive().await.unwrap().as_ref(), Some(&message));
        }
        assert!(other.is_finished(), "{MESSAGES} messages were received before another task ran");
    }
}
