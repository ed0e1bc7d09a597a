//! `wakevirtctl metrics`: the counters of both services for Prometheus.

mod families;
mod family;
mod file;
pub mod http;
mod text;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use wakevirt_service::logs::quoted;

use self::families::families;
use self::text::Format;
use crate::client::Client;
use crate::exit::Exit;
use crate::output::Output;
use crate::report;
use crate::verbs::reading::Reading;

/// The options.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The text format: classic (the default), which node_exporter also reads, or openmetrics
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
    /// Write the metrics to this file; a reader never sees an incomplete file
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Answer HTTP requests for /metrics on the TCP sockets that the service manager passes
    ///
    /// The client selects the format with its Accept header. wakevirt-metrics.service uses this option.
    #[arg(long, conflicts_with_all = ["format", "output"])]
    http: bool,
    /// Answer HTTP requests for /metrics on this TCP socket, such as 127.0.0.1:10842
    ///
    /// This is for containers. On a host, wakevirt-metrics.socket listens without giving this program access to the network.
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with_all = ["format", "output", "http"])]
    listen: Option<SocketAddr>,
}

/// Why there are no metrics. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The options conflict. clap does not detect this conflict if --json precedes the verb.
    #[error(
        "--json cannot be used with --format, --output, --http or --listen; use either --json or the others"
    )]
    Json,
    /// The file cannot be written.
    #[error("cannot write {}: {source}", quoted(.path))]
    File {
        /// The file.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// The program cannot listen on the address.
    #[error("cannot listen on {address}: {source}; choose an address of this host, and a free port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// No socket was passed.
    #[error(
        "no socket was passed; start wakevirt-metrics.socket, or run \
         \"systemd-socket-activate --listen=127.0.0.1:10842 wakevirtctl metrics --http\""
    )]
    NoSocket,
    /// A socket cannot be used.
    #[error(
        "cannot use socket {index}, which the service manager passed: {reason}; pass listening TCP sockets"
    )]
    Socket {
        /// Its position among the passed sockets.
        index: usize,
        /// The cause.
        reason: io::Error,
    },
}

impl Error {
    /// The exit status.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Json => Exit::Usage,
            Self::File { .. } | Self::Listen { .. } | Self::NoSocket | Self::Socket { .. } => Exit::Failure,
        }
    }
}

/// Prints the metrics, or answers requests for them. If a service does not reply, its `wakevirt_up` is 0, and its other
/// metrics are missing.
///
/// # Errors
/// If the metrics cannot be written, or no socket was passed.
pub async fn run(
    arguments: &Arguments,
    client: &Client,
    output: &mut Output,
) -> Result<Exit, crate::error::Error> {
    let Arguments { format, output: file, http, listen } = arguments;
    if output.is_json() && (*http || listen.is_some() || format.is_some() || file.is_some()) {
        return Err(Error::Json.into());
    }
    let listeners = match listen {
        Some(address) => Some(vec![listener(*address).await?]),
        None if *http => Some(http::sockets::take()?),
        None => None,
    };
    if let Some(listeners) = listeners {
        // The kernel ignores a signal to the first process of a container unless the process handles it.
        let mut terminated = signal(SignalKind::terminate())?;
        return tokio::select! {
            () = http::serve(listeners, client.address().clone()) => Ok(Exit::Failure),
            _ = terminated.recv() => Ok(Exit::Success),
        };
    }
    let reading = Reading::take(client).await;
    let mut errors: Vec<_> = reading.errors().collect();
    // If the bus is unavailable, both errors are the same.
    errors.dedup_by_key(|error| error.to_string());
    errors.into_iter().for_each(|error| report(error));
    let families = families(&reading);
    if output.is_json() {
        output.json(&families)?;
        return Ok(Exit::Success);
    }
    let text = format.unwrap_or_default().write(&families);
    match file {
        None => output.writer().write_all(text.as_bytes())?,
        Some(path) => file::replace(path, &text)
            .map_err(|source| Error::File { path: path.to_string_lossy().into_owned(), source })?,
    }
    Ok(Exit::Success)
}

async fn listener(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })
}
