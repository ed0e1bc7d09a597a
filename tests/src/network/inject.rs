//! The `wakevirt-test-wire` program: sends the frames that it reads from standard input.
//!
//! `wakevirt-test-wire send|tap|tun NAME`: `send` transmits through an existing interface. `tap` and `tun` create a
//! device on which the frames are received. The device exists until the program exits. Each line is one frame in
//! hexadecimal digits; spaces are allowed. The program prints `ready` once, and `sent` after each frame.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

use crate::host::PROGRAMS;
use crate::network::ffi::{self, DeviceKind};
use crate::process::lines::Lines;

/// The destination of the frames.
enum Output {
    /// They are transmitted through an interface: packet(7).
    Interface(OwnedFd, LinkAddr),
    /// They are received on a tap or tun device.
    Device(File),
}

impl Output {
    fn open(mode: &str, name: &str) -> io::Result<Self> {
        let kind = match mode {
            "send" => return Self::interface(name),
            "tap" => DeviceKind::Tap,
            "tun" => DeviceKind::Tun,
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
        // With protocol 0, the socket does not receive frames.
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
        Ok(Self::Interface(socket, address))
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        match self {
            Self::Interface(socket, address) => {
                match sendto(socket.as_raw_fd(), frame, address, MsgFlags::empty()) {
                    // The other end of a veth pair dropped the frame, for example because it is down (`veth_xmit` in
                    // drivers/net/veth.c). As on a cable, the frame is lost.
                    Ok(_) | Err(Errno::ENOBUFS) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
            Self::Device(device) => device.write_all(frame),
        }
    }
}

/// Runs the program until the end of its standard input.
///
/// # Errors
/// If the interface cannot be opened, a line is not a frame, or the kernel rejects a frame.
pub fn run(arguments: &[String]) -> io::Result<()> {
    let [mode, name] = arguments else { return Err(usage()) };
    let mut output = Output::open(mode, name)?;
    let mut stdout = io::stdout();
    writeln!(stdout, "ready")?;
    for line in io::stdin().lines() {
        let line = line?;
        let frame = from_hex(&line).ok_or_else(|| io::Error::other(format!("{line:?} is not a frame")))?;
        output.send(&frame)?;
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

/// A running `wakevirt-test-wire`.
#[derive(Debug)]
pub struct Injector {
    child: Child,
    frames: Option<ChildStdin>,
    stdout: Lines,
    stderr: Lines,
    sent: usize,
}

impl Injector {
    /// Starts `wakevirt-test-wire`. `command` runs a program in the namespace of the interface.
    ///
    /// # Panics
    /// If it does not start.
    pub(crate) fn start(command: impl Fn(&str) -> Command, mode: &str, name: &str) -> Self {
        let mut child = command(&format!("{PROGRAMS}/wakevirt-test-wire"))
            .args([mode, name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("wakevirt-test-wire starts");
        let frames = child.stdin.take();
        let stdout = Lines::of(child.stdout.take().expect("it is piped"));
        let stderr = Lines::of(child.stderr.take().expect("it is piped"));
        let injector = Self { child, frames, stdout, stderr, sent: 0 };
        injector.wait_for("ready", 1);
        injector
    }

    /// Sends one frame, and returns when the kernel has accepted or dropped it.
    ///
    /// # Panics
    /// If the kernel rejects it.
    pub fn send(&mut self, frame: &[u8]) {
        let frames = self.frames.as_mut().expect("the pipe is open until the injector is dropped");
        // After an error, wait_for reports the cause.
        let _ = writeln!(frames, "{}", to_hex(frame));
        self.sent += 1;
        self.wait_for("sent", self.sent);
    }

    fn wait_for(&self, word: &str, nth: usize) {
        let result = crate::wait::until("wakevirt-test-wire to reply", || {
            let replied = self.stdout.count(word) >= nth;
            let error = self.stderr.all().first().cloned();
            if replied { Some(Ok(())) } else { error.map(Err) }
        });
        if let Err(error) = result {
            panic!("{error}");
        }
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        // The program exits at the end of its input, and its device is removed.
        self.frames = None;
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_frames_in_hexadecimal() {
        assert_eq!(from_hex("00 ff7F"), Some(vec![0, 255, 127]));
        assert_eq!(from_hex(&to_hex(&[1, 2, 254])), Some(vec![1, 2, 254]));
        for bad in ["0", "0x00", "gg"] {
            assert_eq!(from_hex(bad), None, "{bad}");
        }
    }
}
