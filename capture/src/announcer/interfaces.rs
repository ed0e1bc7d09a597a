//! The names of the interfaces, kept as they come, go and are renamed (rtnetlink(7)).
//!
//! The kernel says when something about the interfaces changed; what there is now is then asked
//! for anew, so that no message has to be understood and none that was lost is missed. Neither
//! takes a privilege, and asking takes no netlink socket: under its unit the announcer may open none.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::{fs, io};

use nix::errno::Errno;
use nix::libc::RTMGRP_LINK;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;

use super::ffi;

/// The names of the interfaces by their index.
pub type Names = HashMap<u32, Arc<str>>;

/// The interfaces of the network that this process is in, with addresses or without: proc_net(5). What is
/// in `/sys/class/net` is of the network of whoever mounted that; SIOCGIFCONF leaves interfaces without an
/// address out; if_nameindex(3) opens a netlink socket.
const TABLE: &str = "/proc/self/net/dev";

/// Watches the interfaces.
#[derive(Debug)]
pub struct Interfaces {
    socket: AsyncFd<OwnedFd>,
    names: Names,
}

impl Interfaces {
    /// Begins to watch by this socket, which is subscribed to the links. Needs the runtime.
    ///
    /// # Errors
    /// Where the runtime does not take it, or the names cannot be read.
    pub fn watch(links: OwnedFd) -> io::Result<Self> {
        // Subscribed first, asked second: nothing can change unnoticed in between.
        Ok(Self { socket: ffi::readable(links)?, names: names()? })
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
    let table = fs::read(TABLE).map_err(|error| io::Error::new(error.kind(), format!("{TABLE}: {error}")))?;
    // Two lines say what the columns are. Neither a space nor a colon can be in a name.
    let names = table.split(|byte| *byte == b'\n').skip(2).filter_map(|line| {
        let name = line.split(|byte| *byte == b':').next()?.trim_ascii();
        // One that has gone or was renamed meanwhile has no index; there is news of it.
        let index = if_nametoindex(name).ok()?;
        Some((index, String::from_utf8_lossy(name).as_ref().into()))
    });
    Ok(names.collect())
}
