//! Monitors the names of the network interfaces (rtnetlink(7)).
//!
//! When the kernel notifies the service of a change, all interfaces are listed again ([`crate::network::links`]). The
//! notifications are used only to detect removals: if an interface is removed and returns with the same index, the list
//! can be the same as before, but the kernel has unbound the packet sockets. If notifications are lost, any interface
//! may have been removed.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use crate::network::ffi;
use crate::network::links::{self, Links};
use crate::network::removed::Removed;

/// The delay before interfaces that changed while they were listed are listed again.
const RELIST_DELAY: Duration = Duration::from_millis(100);

/// Monitors the interfaces.
#[derive(Debug)]
pub struct Interfaces {
    socket: AsyncFd<OwnedFd>,
    links: Links,
    /// The sequence number of the most recent request.
    sequence: u32,
    /// The removed interfaces that the caller has not taken yet, or has taken with an inconsistent list.
    removed: Removed,
    /// When to list the interfaces again without a notification, because they changed during the last listing.
    relist_at: Option<Instant>,
}

impl Interfaces {
    /// Lists the interfaces, and monitors them with a socket that is subscribed to link changes. Requires the runtime.
    ///
    /// # Errors
    /// If the runtime does not support the socket, or the interfaces cannot be listed.
    pub fn watch(socket: OwnedFd) -> io::Result<Self> {
        // The socket is already subscribed, so no change between subscription and listing is missed. Earlier removals
        // do not matter, because no packet socket is bound to an interface yet.
        drain(&socket, &mut Removed::default())?;
        let socket = ffi::watch_readable(socket)?;
        let removed = Removed::default();
        let mut interfaces = Self { socket, links: Links::new(), sequence: 0, removed, relist_at: None };
        interfaces.refresh()?;
        Ok(interfaces)
    }

    /// Lists the interfaces again, and returns whether they changed or one was removed.
    fn refresh(&mut self) -> io::Result<bool> {
        let (links, consistent) = links::list(self.socket.get_ref(), &mut self.sequence, &mut self.removed)?;
        self.relist_at = (!consistent).then(|| Instant::now() + RELIST_DELAY);
        let Some(links) = links.filter(|links| *links != self.links) else {
            return Ok(!self.removed.is_empty());
        };
        self.links = links;
        Ok(true)
    }

    /// The interfaces, by index.
    #[must_use]
    pub const fn links(&self) -> &Links {
        &self.links
    }

    /// Takes the interfaces that were removed since the last call. The list can contain them again.
    ///
    /// If the list is inconsistent, a socket cannot always be bound to an interface in it. Therefore, the next call
    /// returns the same interfaces again, after they have been listed again.
    #[must_use]
    pub fn take_removed(&mut self) -> Removed {
        if self.relist_at.is_some() { self.removed.clone() } else { std::mem::take(&mut self.removed) }
    }

    /// Waits until the interfaces have changed, or one was removed, even if it has returned.
    ///
    /// # Errors
    /// If the netlink socket fails.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            if let Some(relist_at) = self.relist_at {
                // Sleeps until a point in time, not for a duration, because each packet cancels this future.
                sleep_until(relist_at).await;
            } else {
                let mut ready = self.socket.readable().await?;
                let notified = drain(self.socket.get_ref(), &mut self.removed)?;
                ready.clear_ready();
                if !notified {
                    continue;
                }
            }
            if self.refresh()? {
                return Ok(());
            }
        }
    }
}

/// Opens a netlink socket that is subscribed to link changes.
///
/// # Errors
/// If the process is not allowed to open netlink sockets.
pub fn subscribe() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // No protocol means NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None);
    let socket = socket.map_err(|error| match error {
        Errno::AFNOSUPPORT => io::Error::other(format!(
            "{error}: the service is not allowed to open a netlink socket; enable wakevirt-capture-links.socket, which passes one"
        )),
        error => error.into(),
    })?;
    // RTMGRP_LINK is the bit of the first group.
    let groups = u32::try_from(libc::RTMGRP_LINK).map_err(io::Error::other)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// Reads all pending messages, and returns whether there were any. Records the removed interfaces.
fn drain(socket: &OwnedFd, removed: &mut Removed) -> io::Result<bool> {
    let mut buffer = [0; 8192];
    let mut notified = false;
    loop {
        match recv(socket, &mut buffer, RecvFlags::DONTWAIT) {
            Ok((length, _)) => {
                notified = true;
                links::record_removal(buffer.get(..length).unwrap_or_default(), removed);
            }
            // The kernel dropped notifications.
            Err(Errno::NOBUFS) => {
                notified = true;
                removed.add_all();
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(notified),
            Err(error) => return Err(error.into()),
        }
    }
}
