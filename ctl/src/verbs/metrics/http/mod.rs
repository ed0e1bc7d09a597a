//! Answers HTTP requests for the metrics.
//!
//! The server supports only what a scrape needs: one request for each connection. It limits the length of requests, the
//! number of connections, and the time that a client can take.

mod accept;
pub mod request;
mod snapshot;
pub mod sockets;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};
use wakevirt_service::bus::Address;

use self::request::Refusal;
use self::snapshot::Snapshots;
use crate::report;

/// The maximum number of open connections on each socket. A further connection closes the oldest one, so that idle
/// clients do not keep others out.
const MAX_CONNECTIONS: usize = 256;
/// The time limits for sending the request, and for reading the reply.
const REQUEST_TIME: Duration = Duration::from_secs(2);
const REPLY_TIME: Duration = Duration::from_secs(2);
/// The maximum number of reads after a reply, of 1 KiB each.
const MAX_DISCARDS: usize = 64;
/// The pause after a failure to accept a connection, for example because no file descriptor is free.
const PAUSE: Duration = Duration::from_secs(1);

/// Answers requests on these sockets with the metrics of the services on this bus, until the program is stopped.
pub async fn serve(listeners: Vec<TcpListener>, bus: Address) {
    let snapshots = Arc::new(Snapshots::new(bus));
    let mut tasks = JoinSet::new();
    for listener in listeners {
        tasks.spawn(serve_one(listener, Arc::clone(&snapshots)));
    }
    tasks.join_next().await;
}

async fn serve_one(listener: TcpListener, snapshots: Arc<Snapshots>) {
    let mut connections = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.retain(|connection: &tokio::task::AbortHandle| !connection.is_finished());
                if connections.len() >= MAX_CONNECTIONS
                    && let Some(oldest) = connections.pop_front()
                {
                    oldest.abort();
                }
                connections.push_back(tokio::spawn(answer(stream, Arc::clone(&snapshots))).abort_handle());
                // Let the new task run before the next connection is accepted, even if many are waiting.
                yield_now().await;
            }
            Err(error) => {
                report(&error);
                sleep(PAUSE).await;
            }
        }
    }
}

/// Answers one request.
async fn answer(mut stream: TcpStream, snapshots: Arc<Snapshots>) {
    let request = timeout(REQUEST_TIME, request::read(&mut stream)).await;
    let reply = match request.unwrap_or(Err(Refusal::Timeout)) {
        Ok(format) => reply("200 OK", format.media_type(), &format.write(&snapshots.latest().await)),
        Err(Refusal::Closed) => return,
        Err(refusal) => refused(refusal),
    };
    // An error means that the client has closed the connection or does not read.
    let _ = timeout(REPLY_TIME, send(&mut stream, &reply)).await;
}

fn refused(refusal: Refusal) -> String {
    let (status, text) = match refusal {
        Refusal::Invalid | Refusal::Closed => ("400 Bad Request", "this is not a valid HTTP request\n"),
        Refusal::Path => ("404 Not Found", "the metrics are at /metrics\n"),
        Refusal::Method => ("405 Method Not Allowed\r\nAllow: GET", "the only method is GET\n"),
        Refusal::Timeout => ("408 Request Timeout", "the request was not complete in time\n"),
        Refusal::Length => ("431 Request Header Fields Too Large", "the request is too long\n"),
    };
    reply(status, "text/plain; charset=utf-8", text)
}

fn reply(status: &str, media_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// Sends a reply, and then discards what the client has sent in addition. Otherwise the kernel would reset the
/// connection, and the client could lose the reply (RFC 9112, section 9.6).
async fn send(stream: &mut TcpStream, reply: &str) -> io::Result<()> {
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown().await?;
    let mut discarded = [0; 1024];
    for _ in 0..MAX_DISCARDS {
        if stream.read(&mut discarded).await? == 0 {
            break;
        }
    }
    Ok(())
}
