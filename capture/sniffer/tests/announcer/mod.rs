//! The announcer's side of a sniffer: it starts a sniffer, and exchanges messages with it.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    recv, sendmsg, socketpair,
};
use wakevirt_protocol::sniffer::{FromSniffer, MAX_MESSAGE, Mode, Request, Start, ToSniffer};
use wakevirt_tests::network::frames::magic;

/// The target of the magic packets.
const MAC: &str = "52:54:00:01:02:03";

/// A sandboxed sniffer that reads one UDP socket, and the announcer's end of its socketpair.
pub struct Sniffer {
    pub process: Child,
    pub channel: OwnedFd,
    pub socket: UdpSocket,
}

impl Sniffer {
    /// Starts the program as the announcer does, and waits until it is ready. In raw mode, it has two
    /// sockets for incoming frames and one for outgoing frames.
    pub fn start(mut program: Command, mode: Mode) -> Self {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let process = program
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let sockets = [socket.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&sockets)));
        let (request, bound, outgoing) = match mode {
            Mode::Raw => (Request::Raw, 2, 1),
            Mode::Udp => (Request::Udp, 0, 0),
        };
        let ports = vec![socket.local_addr().unwrap().port()];
        let (limit, require_landlock) = (100, false);
        let start = Start { request, ports, bound, outgoing, limit, require_landlock };
        let start = encoded(&ToSniffer::Start(start));
        sendmsg(&ours, &[IoSlice::new(&start)], &mut control, SendFlags::empty()).unwrap();
        let mut sniffer = Self { process, channel: ours, socket };
        assert!(matches!(sniffer.receive(), Some(FromSniffer::Ready { mode: found, .. }) if found == mode));
        sniffer
    }

    pub fn send(&self, bytes: &[u8]) {
        rustix::net::send(&self.channel, bytes, SendFlags::empty()).unwrap();
    }

    /// Receives the next message; `None` after the sniffer has closed its end.
    pub fn receive(&mut self) -> Option<FromSniffer> {
        let mut buffer = [0; MAX_MESSAGE];
        match recv(&self.channel, &mut buffer, RecvFlags::empty()).unwrap() {
            (0, _) => None,
            (length, _) => Some(FromSniffer::decode(buffer.get(..length).unwrap()).unwrap()),
        }
    }

    /// Sends a magic packet to the UDP socket.
    pub fn send_magic_packet(&self) {
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(&magic(MAC, &[]), self.socket.local_addr().unwrap()).unwrap();
    }

    /// Causes an error of the UDP socket: a connected socket reports an error if its peer is closed (udp(7)).
    pub fn cause_socket_error(&self) {
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        self.socket.connect(closed).unwrap();
        self.socket.send(b"x").unwrap();
    }

    /// Waits for the exit, and collects the failure reports.
    pub fn wait(mut self) -> Exit {
        let mut reports = Vec::new();
        while let Some(message) = self.receive() {
            if let FromSniffer::Failed { reason } = message {
                reports.push(reason);
            }
        }
        Exit { pid: self.process.id(), status: self.process.wait().unwrap(), reports }
    }

    /// Closes the announcer's end, and waits for the exit.
    pub fn close_and_wait(mut self) -> Exit {
        drop(self.channel);
        Exit { pid: self.process.id(), status: self.process.wait().unwrap(), reports: Vec::new() }
    }
}

/// How a sniffer exited.
pub struct Exit {
    pub pid: u32,
    pub status: ExitStatus,
    pub reports: Vec<String>,
}

/// A message as a datagram.
pub fn encoded(message: &ToSniffer) -> Vec<u8> {
    message.encode(&mut [0; MAX_MESSAGE]).unwrap().to_vec()
}
