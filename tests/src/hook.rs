//! A stand-in for wakevirt-host, which answers libvirt's hook.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, accept_with,
    bind, listen, recv, send, shutdown, socket_with,
};
use wakevirt_protocol::host::{Operation, Reply, SOCKET, SPOOL, entry_operation, entry_parts};

use crate::process::print_on_failure;

/// An event that the hook reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What happened to the domain.
    pub operation: Operation,
    /// The domain's name.
    pub name: String,
    /// The domain's XML.
    pub xml: String,
}

/// What the stand-in does after an event.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Sends these replies. It leaves the connection open.
    Replies(Vec<Reply>),
    /// Closes the connection, as if the service had exited.
    Close,
}

impl Answer {
    /// The event was handled.
    #[must_use]
    pub fn done() -> Self {
        Self::Replies(vec![Reply::Done])
    }

    /// Does not reply.
    #[must_use]
    pub fn hang() -> Self {
        Self::Replies(Vec::new())
    }
}

/// A service that listens until it is dropped.
#[derive(Debug)]
pub struct StandIn {
    socket: Arc<OwnedFd>,
    path: PathBuf,
    events: Arc<Mutex<Vec<Event>>>,
}

impl StandIn {
    /// Listens on the system with this root directory. Deletes each event from the spool, and answers it with the
    /// result of `answer`.
    ///
    /// # Panics
    /// If it cannot listen, for example because a service does.
    pub fn start(root: &Path, answer: impl Fn(&Event) -> Answer + Send + 'static) -> Self {
        let path = root.join(SOCKET.trim_start_matches('/'));
        let socket = Arc::new(listen_at(&path, 100));
        let events = Arc::new(Mutex::new(Vec::new()));
        let (listening, added) = (Arc::clone(&socket), Arc::clone(&events));
        let spool = root.join(SPOOL.trim_start_matches('/'));
        std::thread::spawn(move || {
            let mut open = Vec::new();
            while let Some((connection, entry)) = accept(&listening) {
                let event = take(&spool.join(&entry), &entry);
                let answer = answer(&event);
                added.lock().expect("no thread panicked").push(event);
                if let Answer::Replies(replies) = answer {
                    replies.iter().for_each(|reply| reply_to(&connection, &reply.encode()));
                    open.push(connection);
                }
            }
        });
        Self { socket, path, events }
    }

    /// The events that [`Self::take_events`] has not returned yet.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().expect("no thread panicked").clone()
    }

    /// The events since the last call.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().expect("no thread panicked"))
    }

    /// The names of the operations since the last call.
    #[must_use]
    pub fn take_operations(&self) -> Vec<&'static str> {
        self.take_events().iter().map(|event| event.operation.name()).collect()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        print_on_failure("the events of the hook", || {
            self.take_events()
                .iter()
                .map(|event| format!("{} {}\n", event.operation.name(), event.name))
                .collect()
        });
        // Ends accept(2) in the thread.
        let _ = shutdown(&self.socket, Shutdown::Both);
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Reads and deletes an entry of the spool.
fn take(path: &Path, entry: &str) -> Event {
    let content = std::fs::read(path).expect("the entry is in the spool");
    std::fs::remove_file(path).expect("the entry is in the spool");
    let (name, xml) = entry_parts(&content).expect("the entry has a name");
    let [name, xml] = [name, xml].map(|part| String::from_utf8_lossy(part).into_owned());
    Event { operation: entry_operation(entry).expect("the entry has an operation"), name, xml }
}

/// Listens for the hook at this path. `backlog` limits the connections that wait, as in listen(2).
///
/// # Panics
/// If another socket exists at this path.
#[must_use]
pub fn listen_at(path: &Path, backlog: i32) -> OwnedFd {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let socket = socket.expect("a socket");
    let address = SocketAddrUnix::new(path).expect("the path is short enough");
    bind(&socket, &address).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    listen(&socket, backlog).expect("it can listen");
    socket
}

/// Accepts a connection of the hook, and receives its message. Returns `None` if the socket was shut down.
///
/// # Panics
/// If the hook does not send a message.
#[must_use]
pub fn accept(socket: &OwnedFd) -> Option<(OwnedFd, String)> {
    let connection = accept_with(socket, SocketFlags::CLOEXEC).ok()?;
    let mut message = [0; 128];
    let (length, _) = recv(&connection, &mut message, RecvFlags::empty()).expect("the hook sends a message");
    let entry = message.get(..length).and_then(|entry| String::from_utf8(entry.to_vec()).ok());
    Some((connection, entry.expect("the message is text")))
}

/// Sends a message to the hook, if it has not exited.
pub fn reply_to(connection: &OwnedFd, message: &[u8]) {
    let _ = send(connection, message, SendFlags::NOSIGNAL);
}
