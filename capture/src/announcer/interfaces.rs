//! The names of the interfaces, kept as they come, go and are renamed (rtnetlink(7)).
//!
//! The kernel says when something about the interfaces changed; what there is now is then asked
//! for anew, so that no message has to be understood and none that was lost is missed. Neither
//! takes a privilege.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::libc::RTMGRP_LINK;
use nix::net::if_::if_nameindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;

use super::ffi;

/// The names of the interfaces by their index.
pub type Names = HashMap<u32, Arc<str>>;

/// Watches the interfaces.
#[derive(Debug)]
pub struct Interfaces {
    socket: AsyncFd<OwnedFd>,
    names: Names,
}

impl Interfaces {
    /// Begins to watch.
    ///
    /// # Errors
    /// Where no netlink socket can be had.
    pub fn watch() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        // RTMGRP_LINK is the first group's bit.
        let groups = u32::try_from(RTMGRP_LINK).map_err(io::Error::other)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        // Subscribed first, asked second: nothing can change unnoticed in between.
        Ok(Self { socket: ffi::readable(socket)?, names: names()? })
    }

    /// The interfaces that there are.
    #[must_use]
    pub const fn names(&self) -> &Names {
        &self.names
    }

    /// Waits until the interfaces have changed.
    ///
    /// # Errors
    /// Where the kernel does not tell them any more.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            drain(self.socket.get_ref())?;
            ready.clear_ready();
            let now = names()?;
            if now != self.names {
                self.names = now;
                return Ok(());
            }
        }
    }
}

/// Takes every message that is waiting, and reads none: that there are some is the news.
fn drain(socket: &OwnedFd) -> io::Result<()> {
    let mut buffer = [0; 8192];
    loop {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            // Some were lost, which is news as well.
            Ok(_) | Err(Errno::EINTR | Errno::ENOBUFS) => {}
            Err(Errno::EAGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn names() -> io::Result<Names> {
    let interfaces = if_nameindex()?;
    Ok(interfaces
        .iter()
        .map(|interface| (interface.index(), interface.name().to_string_lossy().as_ref().into()))
        .collect())
}
