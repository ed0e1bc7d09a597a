//! The transport of a bus connection, below zbus: it admits or drops messages before zbus sees them, and writes
//! signals before replies.
//!
//! zbus reads each message as a whole, without a limit on its length, and starts a task for each call, without a limit
//! on the number of tasks. It also has a single write queue, in which a signal could wait behind megabytes of replies.

mod header;
mod pending;
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

use super::{Address, CallLimiter};
use read::Reader;
use write::Writer;

/// The timeout of a method call, as in libdbus and GDBus.
const METHOD_TIMEOUT: Duration = Duration::from_secs(25);
/// The size of the socket's send buffer, in bytes. A signal cannot overtake the data in it. dbus-daemon reads 2 KiB
/// from each connection in turn.
const SEND_BUFFER: usize = 2 * 1024;

impl Address {
    /// Connects to this bus. Method calls on the connection time out after 25 s.
    ///
    /// With a limiter, the connection receives the calls that the limiter admits, and only the bus's own signals.
    /// Without a limiter, it receives all signals and no calls.
    ///
    /// # Errors
    /// If the bus is unavailable.
    pub async fn connect(&self, limiter: Option<&CallLimiter>) -> zbus::Result<Connection> {
        let stream = UnixStream::connect(self.socket()?).await?;
        setsockopt(&stream, sockopt::SndBuf, &SEND_BUFFER).map_err(io::Error::from)?;
        let (read, write) = stream.into_split();
        limiter.iter().for_each(|limiter| limiter.reset());
        let write = Writer::new(write, limiter.cloned());
        let read = Reader::new(read, limiter.cloned(), write.refusals());
        let socket: BoxedSplit = Split::new(Box::new(read), Box::new(write));
        Builder::socket(socket).method_timeout(METHOD_TIMEOUT).build().await
    }

    /// The path of the socket. If the socket is abstract, the path begins with a zero byte, as tokio expects.
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
