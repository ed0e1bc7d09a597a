//! The connection to a bus, under zbus: what comes in is admitted or dropped before zbus sees it, and
//! signals overtake replies on the way out.
//!
//! zbus reads each message as a whole, however long, and starts a task for each call, however many there
//! are. And what it writes waits in one line, so that a signal would wait behind megabytes of replies.

mod head;
mod parked;
mod read;
mod refusal;
mod write;

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::UnixStream;
use zbus::Connection;
use zbus::address::transport::{Transport, UnixSocket};
use zbus::connection::Builder;
use zbus::connection::socket::{BoxedSplit, Split};

use super::{Address, Calls};
use read::Reader;
use write::Writer;

/// How long a method call may take: what libdbus and GDBus allow, too.
const METHOD_TIMEOUT: Duration = Duration::from_secs(25);
/// What the kernel may hold of what is written, in bytes: what lies there, nothing overtakes any more.
/// dbus-daemon takes 2 KiB from each connection in turn.
const KERNEL_BUFFER: usize = 2 * 1024;

impl Address {
    /// A connection to this bus; calls on it end after 25 s. With `calls` it is one that serves: each call
    /// is admitted there, and no signal is taken but the bus's own. Without, no call is taken.
    ///
    /// # Errors
    /// If the bus cannot be reached.
    pub async fn connect(&self, calls: Option<&Calls>) -> zbus::Result<Connection> {
        let stream = UnixStream::connect(self.socket()?).await?;
        setsockopt(&stream, sockopt::SndBuf, &KERNEL_BUFFER).map_err(io::Error::from)?;
        let (read, write) = stream.into_split();
        calls.iter().for_each(|calls| calls.begin_anew());
        let write = Writer::new(write, calls.cloned());
        let read = Reader::new(read, calls.cloned(), write.refusals());
        let socket: BoxedSplit = Split::new(Box::new(read), Box::new(write));
        Builder::socket(socket).method_timeout(METHOD_TIMEOUT).build().await
    }

    /// The path of the socket; an abstract one begins with a zero byte, as tokio takes it.
    fn socket(&self) -> zbus::Result<PathBuf> {
        let address = match self {
            Self::System => zbus::Address::system()?,
            Self::Session => zbus::Address::session()?,
            Self::At(address) => address.clone(),
        };
        match address.transport() {
            Transport::Unix(unix) => match unix.path() {
                UnixSocket::File(path) => Ok(path.clone()),
                UnixSocket::Abstract(name) => {
                    let bytes = [b"\0", name.as_bytes()].concat();
                    Ok(std::ffi::OsStr::from_bytes(&bytes).into())
                }
                _ => Err(zbus::Error::Unsupported),
            },
            _ => Err(zbus::Error::Unsupported),
        }
    }
}
