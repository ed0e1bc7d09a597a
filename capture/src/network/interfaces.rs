//! Monitors the names of the network interfaces (rtnetlink(7)).
//!
//! When the kernel notifies the service of a change, all interfaces are listed again ([`crate::network::links`]). The
//! content of the notifications is not used, so losing one does no harm.

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

/// The delay before interfaces that changed while they were listed are listed again.
const RELIST_DELAY: Duration = Duration::from_millis(100);

/// Monitors the interfaces.
#[derive(Debug)]
pub struct Interfaces {
    socket: AsyncFd<OwnedFd>,
    links: Links,
    /// The sequence number of the most recent request.
    sequence: u32,
    /// When to list the interfaces again without a notification, because they changed during the last listing.
    relist_at: Option<Instant>,
}

impl Interfaces {
    /// Lists the interfaces, and monitors them with a socket that is subscribed to link changes. Requires the runtime.
    ///
    /// # Errors
    /// If the runtime does not support the socket, or the interfaces cannot be listed.
    pub fn watch(socket: OwnedFd) -> io::Result<Self> {
        // The socket is already subscribed, so no change between subscription and listing is missed.
        drain(&socket)?;
        let socket = ffi::watch_readable(socket)?;
        let mut interfaces = Self { socket, links: Links::new(), sequence: 0, relist_at: None };
        interfaces.refresh()?;
        Ok(interfaces)
    }

    /// Lists the interfaces again, and returns whether they changed.
    fn refresh(&mut self) -> io::Result<bool> {
        let (links, consistent) = links::list(self.socket.get_ref(), &mut self.sequence)?;
        self.relist_at = (!consistent).then(|| Instant::now() + RELIST_DELAY);
        let Some(links) = links.filter(|links| *links != self.links) else { return Ok(false) };
        self.links = links;
        Ok(true)
    }

    /// The interfaces, by index.
    #[must_use]
    pub const fn links(&self) -> &Links {
        &self.links
    }

    /// Waits until the interfaces have changed.
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
                let notified = drain(self.socket.get_ref())?;
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

/// Discards all pending messages, and returns whether there were any.
fn drain(socket: &OwnedFd) -> io::Result<bool> {
    let mut buffer = [0; 8192];
    let mut notified = false;
    loop {
        match recv(socket, &mut buffer, RecvFlags::DONTWAIT) {
            // With NOBUFS the kernel reports that it dropped notifications.
            Ok(_) | Err(Errno::NOBUFS) => notified = true,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(notified),
            Err(error) => return Err(error.into()),
        }
    }
}
