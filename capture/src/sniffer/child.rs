//! The sniffer, as the announcer sees it: a child process that may be taken over at any moment.

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
use wakevirt_protocol::sniffer::{FromSniffer, MAX_MESSAGE, MAX_UDP_SOCKETS, Start, ToSniffer};
use zeroize::Zeroize;

use crate::error::Error;
use crate::network::ffi;

/// The sniffer's file name.
const PROGRAM: &str = "wakevirt-sniffer";

/// How long a sniffer may take to end once either end of the socketpair is closed.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The sniffer, just started.
#[derive(Debug)]
pub struct Sniffer {
    process: Child,
    channel: OwnedFd,
}

impl Sniffer {
    /// Starts the sniffer with the UDP sockets and one end of a socketpair, and nothing else: no
    /// environment, no argument, and standard output and error that lead nowhere, for whoever takes
    /// it over could write into the log by them.
    ///
    /// It inherits the ambient capabilities. Call this before there is a second thread.
    ///
    /// # Errors
    /// [`Error::Sniffer`] where it cannot be started.
    pub fn start(start: &Start, sockets: &[OwnedFd]) -> Result<Self, Error> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(|error| Error::Channel(error.into()))?;
        // The sniffer waits for the first message; what it says afterwards never waits.
        rustix::io::ioctl_fionbio(&theirs, false).map_err(|error| Error::Channel(error.into()))?;
        ffi::keep_descriptors_from_children().map_err(Error::Descriptors)?;
        let program = find()?;
        let process = Command::new(&program)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| Error::Sniffer { program, error })?;
        let sniffer = Self { process, channel: ours };
        sniffer.hand_over(start, sockets)?;
        Ok(sniffer)
    }

    fn hand_over(&self, start: &Start, sockets: &[OwnedFd]) -> Result<(), Error> {
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

    /// Begins to listen to it. Needs the runtime.
    ///
    /// # Errors
    /// [`Error::Channel`] where the runtime cannot watch the socketpair.
    pub fn listen(self) -> Result<(Process, Channel), Error> {
        let channel = ffi::readable(self.channel).map_err(Error::Channel)?;
        Ok((Process(self.process), Channel(channel)))
    }
}

/// The sniffer's process.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Waits until the sniffer has ended, and ends it if it does not end by itself.
    #[must_use]
    pub fn end(mut self) -> End {
        let deadline = Instant::now() + LAST_WORDS;
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) => return End::Status(status),
                Ok(None) if Instant::now() < deadline => sleep(Duration::from_millis(5)),
                Ok(None) => {
                    let _gone = self.0.kill();
                    let _status = self.0.wait();
                    return End::Hung;
                }
                Err(error) => return End::Unknown(error),
            }
        }
    }
}

/// How the sniffer ended.
#[derive(Debug)]
pub enum End {
    /// With this status.
    Status(ExitStatus),
    /// It did not end when the socketpair was closed, and was killed.
    Hung,
    /// The kernel does not tell.
    Unknown(io::Error),
}

impl End {
    /// Whether it ended because the announcer did: nothing to report.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        matches!(self, Self::Status(status) if status.success())
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = match self {
            Self::Status(status) => status,
            Self::Hung => return f.write_str("it closed its end of the socketpair and did not exit"),
            Self::Unknown(error) => return write!(f, "the kernel does not tell how: {error}"),
        };
        match (status.code(), status.signal()) {
            (_, Some(libc::SIGSYS)) => f.write_str(
                "the kernel killed it because it made a system call that it may not make: either a defect, or \
                 somebody has taken it over; the kernel's log names the call (type=1326)",
            ),
            (_, Some(signal)) => write!(f, "signal {signal} ended it"),
            (Some(code), None) => write!(f, "it exited with code {code}"),
            (None, None) => f.write_str("it exited"),
        }
    }
}

/// The announcer's end of the socketpair.
#[derive(Debug)]
pub struct Channel(AsyncFd<OwnedFd>);

impl Channel {
    /// Waits for the next message: `None` where the sniffer has closed its end.
    ///
    /// # Errors
    /// [`Error::BadMessage`] where it sent something that is none, [`Error::Channel`] where the
    /// socketpair fails.
    pub async fn next(&self) -> Result<Option<FromSniffer>, Error> {
        // One byte more than a message may have, so that a longer one shows.
        let mut buffer = [0; MAX_MESSAGE + 1];
        loop {
            let mut ready = self.0.readable().await.map_err(Error::Channel)?;
            // An AsyncFd takes no part in tokio's cooperative scheduling. Without this, a sniffer that always
            // has a message ready would keep the bus, the signals and the watchdog from running. Nothing has
            // been received yet, so nothing is lost if the caller cancels here.
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
            // A password may be in it.
            buffer.zeroize();
            return Ok(Some(message?));
        }
    }

    /// Tells the sniffer to hear the frames that leave through an interface.
    ///
    /// # Errors
    /// [`Error::Channel`]; the sniffer is then not listening, which is not how it should be.
    pub fn hear_outgoing(&self, slot: u8, interface: u32) -> Result<(), Error> {
        self.say(&ToSniffer::Outgoing { slot, interface })
    }

    /// Asks the sniffer for its counters, which shows whether it lives.
    ///
    /// # Errors
    /// [`Error::Channel`].
    pub fn ask(&self) -> Result<(), Error> {
        self.say(&ToSniffer::Report)
    }

    fn say(&self, message: &ToSniffer) -> Result<(), Error> {
        let mut buffer = [0; MAX_MESSAGE];
        let bytes = message.encode(&mut buffer).map_err(|error| Error::Channel(io::Error::other(error)))?;
        match send(&self.0, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            // It has ended; why it did is still to be read.
            Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
            Err(error) => Err(Error::Channel(error.into())),
        }
    }
}

/// The sniffer beside the running program, as in a build folder, or in the folder for programs that
/// only programs start.
fn find() -> Result<PathBuf, Error> {
    let own = std::env::current_exe().map_err(Error::OwnPath)?;
    let folder = own.parent().unwrap_or(Path::new("/"));
    let candidates = [folder.join(PROGRAM), folder.join("../libexec/wakevirt").join(PROGRAM)];
    candidates.iter().find(|path| path.is_file()).cloned().ok_or(Error::NoSniffer { candidates })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than a task of tokio may do before it yields (128), and fewer than fill the socketpair's buffer.
    const MESSAGES: usize = 200;

    #[tokio::test]
    async fn a_channel_that_is_never_empty_lets_other_tasks_run() {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let channel = Channel(ffi::readable(ours).unwrap());
        let mut buffer = [0; MAX_MESSAGE];
        let message = FromSniffer::Failed { reason: String::new() };
        let bytes = message.encode(&mut buffer).unwrap();
        for _ in 0..MESSAGES {
            send(&theirs, bytes, SendFlags::DONTWAIT).unwrap();
        }
        // The first wait for the socketpair lets every task run.
        assert_eq!(channel.next().await.unwrap().as_ref(), Some(&message));
        let other = tokio::spawn(async {});
        for _ in 1..MESSAGES {
            assert_eq!(channel.next().await.unwrap().as_ref(), Some(&message));
        }
        assert!(other.is_finished(), "{MESSAGES} messages were received before another task ran");
    }
}
