//! The sockets that the service manager passes: sd_listen_fds(3).

use listenfd::ListenFd;
use tokio::net::TcpListener;

use super::super::Error;

/// Takes the passed sockets.
///
/// # Errors
/// If there is none, or if one is not a listening TCP socket.
pub fn take() -> Result<Vec<TcpListener>, Error> {
    let mut sockets = ListenFd::from_env();
    let mut taken = Vec::new();
    for index in 0..sockets.len() {
        let failed = |reason| Error::Socket { index, reason };
        if let Some(socket) = sockets.take_tcp_listener(index).map_err(failed)? {
            socket.set_nonblocking(true).map_err(failed)?;
            taken.push(TcpListener::from_std(socket).map_err(failed)?);
        }
    }
    if taken.is_empty() { Err(Error::NoSocket) } else { Ok(taken) }
}
