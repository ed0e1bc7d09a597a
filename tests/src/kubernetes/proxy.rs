//! A TCP proxy that loses connections in the middle of what a server sends.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::server::connection::{bind, within};
use crate::host::Host;
use crate::wait;

/// The maximum number of bytes that the proxy forwards at once.
const CHUNK: usize = 16 * 1024;

/// A proxy in the network of a host, until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    _runtime: Runtime,
}

#[derive(Debug)]
struct Shared {
    /// The bytes that servers may still send. The connection that exceeds them is closed.
    remaining: AtomicUsize,
    cuts: AtomicUsize,
}

impl Proxy {
    /// Forwards connections to an address on the same host.
    ///
    /// # Panics
    /// If the address is in use.
    #[must_use]
    pub fn start(host: &Host, listen: SocketAddr, server: SocketAddr) -> Self {
        let shared = Arc::new(Shared { remaining: AtomicUsize::new(usize::MAX), cuts: AtomicUsize::new(0) });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (listener, namespace) = (bind(Some(&host.network()), listen), host.network());
        let accepting = shared.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(forward(accepting.clone(), client, namespace.clone(), server));
            }
        });
        Self { shared, _runtime: runtime }
    }

    /// Forwards this number of bytes from servers. The next byte closes its connection, once.
    pub fn cut_after(&self, bytes: usize) {
        self.shared.remaining.store(bytes, Ordering::SeqCst);
    }

    /// Waits until a connection was closed.
    ///
    /// # Panics
    /// If none is closed within the timeout.
    pub fn wait_for_cut(&self) {
        wait::until_true("a lost connection", || self.shared.cuts.load(Ordering::SeqCst) > 0);
    }
}

/// Forwards both directions until one ends.
async fn forward(
    shared: Arc<Shared>,
    client: TcpStream,
    namespace: PathBuf,
    server: SocketAddr,
) -> io::Result<()> {
    let connected = within(Some(&namespace), move || std::net::TcpStream::connect(server))?;
    connected.set_nonblocking(true)?;
    let (mut from_server, mut to_server) = TcpStream::from_std(connected)?.into_split();
    let (mut from_client, mut to_client) = client.into_split();
    let replies = async {
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = from_server.read(&mut chunk).await?;
            let remaining = shared.remaining.load(Ordering::SeqCst);
            let sent = chunk.get(..length.min(remaining)).unwrap_or_default();
            to_client.write_all(sent).await?;
            if length == 0 {
                return Ok::<(), io::Error>(());
            }
            if length > remaining {
                shared.remaining.store(usize::MAX, Ordering::SeqCst);
                shared.cuts.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            if remaining != usize::MAX {
                shared.remaining.store(remaining - length, Ordering::SeqCst);
            }
        }
    };
    let requests = tokio::io::copy(&mut from_client, &mut to_server);
    tokio::select! {
        ended = replies => ended,
        ended = requests => ended.map(drop),
    }
}
