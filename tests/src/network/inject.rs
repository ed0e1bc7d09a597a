//! What `wakevirt-test-wire` does: it puts frames, read from standard input, on an interface.
//!
//! `wakevirt-test-wire send|tap|tun NAME`: `send` lets them leave through an interface that exists;
//! `tap` and `tun` make a device, as which the frames arrive, and which goes when the program ends.
//! Each line is one frame in hexadecimal, blanks allowed; `ready` is said once, `sent` after each frame.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

use crate::host::PROGRAMS;
use crate::network::ffi::{self, Kind};
use crate::process::lines::Lines;

/// Where frames go.
enum Way {
    /// Out of an interface: packet(7).
    Interface(OwnedFd, LinkAddr),
    /// In by a device.
    Device(File),
}

impl Way {
    fn open(how: &str, name: &str) -> io::Result<Self> {
        let kind = match how {
            "send" => return Self::interface(name),
            "tap" => Kind::Tap,
            "tun" => Kind::Tun,
            _ => return Err(usage()),
        };
        let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        ffi::set_interface(&device, kind, name)?;
        Ok(Self::Device(device))
    }

    fn interface(name: &str) -> io::Result<Self> {
        let address = getifaddrs()?
            .filter(|interface| interface.interface_name == name)
            .find_map(|interface| interface.address?.as_link_addr().copied())
            .ok_or_else(|| io::Error::other(format!("there is no interface {name}")))?;
        // Protocol 0: the socket hears nothing, it only sends.
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
        Ok(Self::Interface(socket, address))
    }

    fn put(&mut self, frame: &[u8]) -> io::Result<()> {
        match self {
            Self::Interface(socket, address) => {
                sendto(socket.as_raw_fd(), frame, address, MsgFlags::empty()).map(drop)?;
                Ok(())
            }
            Self::Device(device) => device.write_all(frame),
        }
    }
}

/// Runs the program with these arguments, until its standard input ends.
///
/// # Errors
/// If the interface cannot be opened, a line is no frame, or the kernel refuses one.
pub fn run(arguments: &[String]) -> io::Result<()> {
    let [how, name] = arguments else { return Err(usage()) };
    let mut way = Way::open(how, name)?;
    let mut stdout = io::stdout();
    writeln!(stdout, "ready")?;
    for line in io::stdin().lines() {
        let line = line?;
        let frame = from_hex(&line).ok_or_else(|| io::Error::other(format!("{line:?} is no frame")))?;
        way.put(&frame)?;
        writeln!(stdout, "sent")?;
    }
    Ok(())
}

fn usage() -> io::Error {
    io::Error::other("usage: wakevirt-test-wire send|tap|tun NAME, frames in hexadecimal on standard input")
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<_>> =
        text.chars().filter(|char| !char.is_whitespace()).map(|char| char.to_digit(16)).collect();
    let digits = digits?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| u8::try_from(high * 16 + low).ok()).collect()
}

fn to_hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A `wakevirt-test-wire` that runs, and the frames to give it.
#[derive(Debug)]
pub struct Injector {
    child: Child,
    frames: Option<ChildStdin>,
    said: Lines,
    complaints: Lines,
    sent: usize,
}

impl Injector {
    /// Starts `wakevirt-test-wire`; `command` makes a program ready to run where the interface is.
    ///
    /// # Panics
    /// If it does not start.
    pub(crate) fn start(command: impl Fn(&str) -> Command, how: &str, name: &str) -> Self {
        let mut child = command(&format!("{PROGRAMS}/wakevirt-test-wire"))
            .args([how, name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("wakevirt-test-wire starts");
        let frames = child.stdin.take();
        let said = Lines::of(child.stdout.take().expect("it is piped"));
        let complaints = Lines::of(child.stderr.take().expect("it is piped"));
        let injector = Self { child, frames, said, complaints, sent: 0 };
        injector.wait_for("ready", 1);
        injector
    }

    /// Puts one frame on the wire, and returns when the kernel has taken it.
    ///
    /// # Panics
    /// If the kernel refuses it.
    pub fn send(&mut self, frame: &[u8]) {
        let frames = self.frames.as_mut().expect("open while the injector lives");
        // A broken pipe shows below, with the reason.
        let _ = writeln!(frames, "{}", to_hex(frame));
        self.sent += 1;
        self.wait_for("sent", self.sent);
    }

    fn wait_for(&self, word: &str, nth: usize) {
        let seen = crate::wait::until("wakevirt-test-wire to answer", || {
            let answered = self.said.count(word) >= nth;
            let complaint = self.complaints.all().first().cloned();
            if answered { Some(Ok(())) } else { complaint.map(Err) }
        });
        if let Err(complaint) = seen {
            panic!("{complaint}");
        }
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        // At the end of its input it ends by itself, and a device goes with it.
        self.frames = None;
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_frames_in_hexadecimal() {
        assert_eq!(from_hex("00 ff7F"), Some(vec![0, 255, 127]));
        assert_eq!(from_hex(&to_hex(&[1, 2, 254])), Some(vec![1, 2, 254]));
        for bad in ["0", "0x00", "gg"] {
            assert_eq!(from_hex(bad), None, "{bad}");
        }
    }
}
