//! The names of the interfaces, kept as they come, go and are renamed (rtnetlink(7)).
//!
//! The kernel says when something about the interfaces changed; what there is now is then asked
//! for anew ([`crate::network::links`]), so that no news has to be understood and none that was lost is missed.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::RTMGRP_LINK;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use crate::network::ffi;
use crate::network::links::{self, Links};

/// How long to wait where the interfaces change faster than they can be listed.
const PAUSE: Duration = Duration::from_millis(100);

/// Watches the interfaces.
#[derive(Debug)]
pub struct Interfaces {
    socket: AsyncFd<OwnedFd>,
    links: Links,
    /// The number of the last request.
    sequence: u32,
    /// When to ask again, without news: they changed while they were listed.
    again: Option<Instant>,
}

impl Interfaces {
    /// Begins to watch by this socket, which is subscribed to the links. Needs the runtime.
    ///
    /// # Errors
    /// Where the runtime does not take it, or the interfaces cannot be listed.
    pub fn watch(links: OwnedFd) -> io::Result<Self> {
        // Subscribed first, asked second: nothing can change unnoticed in between.
        drain(&links)?;
        let socket = ffi::readable(links)?;
        let mut interfaces = Self { socket, links: Links::new(), sequence: 0, again: None };
        interfaces.list()?;
        Ok(interfaces)
    }

    /// Lists them anew, and returns whether they have changed.
    fn list(&mut self) -> io::Result<bool> {
        let (now, settled) = links::list(self.socket.get_ref(), &mut self.sequence)?;
        self.again = (!settled).then(|| Instant::now() + PAUSE);
        let Some(now) = now.filter(|now| *now != self.links) else { return Ok(false) };
        self.links = now;
        Ok(true)
    }

    /// The interfaces that there are.
    #[must_use]
    pub const fn links(&self) -> &Links {
        &self.links
    }

    /// Waits until the interfaces have changed.
    ///
    /// # Errors
    /// Where the kernel does not tell them any more.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            if let Some(again) = self.again {
                // A point in time, because this is cancelled at each packet.
                sleep_until(again).await;
            } else {
                let mut ready = self.socket.readable().await?;
                let news = drain(self.socket.get_ref())?;
                ready.clear_ready();
                if !news {
                    continue;
                }
            }
            if self.list()? {
                return Ok(());
            }
        }
    }
}

/// Asks the kernel to tell when a link changes.
///
/// # Errors
/// Where no netlink socket can be had.
pub fn subscribe() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute);
    let socket = socket.map_err(|error| match error {
        Errno::EAFNOSUPPORT => io::Error::other(format!(
            "{error}: it may open no netlink socket; let wakevirt-capture-links.socket hand one over"
        )),
        error => error.into(),
    })?;
    // RTMGRP_LINK is the first group's bit.
    let groups = u32::try_from(RTMGRP_LINK).map_err(io::Error::other)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

/// Takes every message that is waiting, and reads none: returns whether there were any, which is the news.
fn drain(socket: &OwnedFd) -> io::Result<bool> {
    let mut buffer = [0; 8192];
    let mut news = false;
    loop {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            // Some were lost, which is news as well.
            Ok(_) | Err(Errno::ENOBUFS) => news = true,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(news),
            Err(error) => return Err(error.into()),
        }
    }
}
