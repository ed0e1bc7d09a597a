//! The socket on which the hook reports events.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use listenfd::ListenFd;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use wakevirt_protocol::host::{MAX_WAIT, Operation, Reply, entry_operation};

use crate::config::Config;

/// The maximum number of connections that are served at the same time. Further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// The length of the kernel's queue, as in `systemd.socket(5)` by default.
const BACKLOG: i32 = 4096;
/// How long a connection can take to send its message.
const REQUEST: Duration = Duration::from_secs(2);
/// The maximum length of a message, in bytes: the name of a file.
const MAX_MESSAGE: usize = 255;
/// The hook waits this much longer than the service, which then undoes what it cannot complete.
const UNDO: Duration = Duration::from_secs(5);
/// The hook waits this long for the answer to a `prepare` before it is asked to wait longer.
const PATIENCE: Duration = Duration::from_millis(500);

/// An event in the spool, and where its answer goes.
#[derive(Debug)]
pub(super) struct Request {
    /// The name of the file.
    pub entry: String,
    /// Receives the answer.
    pub reply: oneshot::Sender<Reply>,
}

/// Takes the socket from the service manager; without one, creates it.
/// Its type is that of stream sockets, which works for SOCK_SEQPACKET as well: read(2) and write(2) transfer one message.
///
/// # Errors
/// If the service manager passes another kind of socket, or the socket cannot be created.
pub(super) fn open(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let mut passed = ListenFd::from_env();
    let family = AddressFamily::UNIX.as_raw().into();
    let kind = i32::try_from(SocketType::SEQPACKET.as_raw()).map_err(io::Error::other)?;
    let socket = match passed.len() {
        0 => None,
        _ => passed.take_custom::<OwnedFd>(0, family, kind, "ListenSequentialPacket=")?,
    };
    let socket = match socket {
        Some(socket) => socket,
        None => create(path)?,
    };
    let socket = std::os::unix::net::UnixListener::from(socket);
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Creates the socket. Only root can connect to it.
fn create(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Accepts connections, and passes their events on.
///
/// # Errors
/// If the socket cannot be used.
pub(super) async fn run(
    socket: std::os::unix::net::UnixListener,
    requests: mpsc::Sender<Request>,
    config: watch::Receiver<Config>,
) -> io::Result<()> {
    let socket = UnixListener::from_std(socket)?;
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return Ok(()) };
        match socket.accept().await {
            Ok((connection, _)) => {
                let (requests, wait) = (requests.clone(), config.borrow().prepare_wait + UNDO);
                tokio::spawn(async move {
                    if let Err(error) = serve(connection, &requests, wait).await {
                        tracing::debug!("a connection ended: {error}");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                // Such as too many open files: other connections end.
                tracing::debug!("cannot accept a connection: {error}");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one connection: one event.
async fn serve(connection: UnixStream, requests: &mpsc::Sender<Request>, wait: Duration) -> io::Result<()> {
    let peer = connection.peer_cred()?.uid();
    if peer != 0 {
        return Err(io::Error::other(format!("user {peer} is not root")));
    }
    let mut message = [0; MAX_MESSAGE];
    let length = timeout(REQUEST, receive(&connection, &mut message)).await??;
    let entry = message.get(..length).and_then(|name| core::str::from_utf8(name).ok()).unwrap_or_default();
    let operation = entry_operation(entry).ok_or_else(|| io::Error::other("the message is not an event"))?;

    let (reply, mut answer) = oneshot::channel();
    let request = Request { entry: entry.to_owned(), reply };
    requests.send(request).await.map_err(io::Error::other)?;
    let reply = match timeout(PATIENCE, &mut answer).await {
        Ok(reply) => reply,
        Err(_elapsed) => {
            if operation == Operation::Prepare {
                respond(&connection, &Reply::Wait(wait)).await?;
            }
            timeout(MAX_WAIT, answer).await?
        }
    };
    respond(&connection, &reply.map_err(io::Error::other)?).await
}

async fn receive(connection: &UnixStream, message: &mut [u8]) -> io::Result<usize> {
    loop {
        connection.readable().await?;
        match connection.try_read(message) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

async fn respond(connection: &UnixStream, reply: &Reply) -> io::Result<()> {
    let message = reply.encode();
    let send = async {
        loop {
            connection.writable().await?;
            match connection.try_write(&message) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    };
    timeout(REQUEST, send).await?.map(drop)
}
