//! Every way in which the sniffer exits: its exit status, its failure report, and the kernel's log.
#![expect(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    recv, sendmsg, socketpair,
};
use wakevirt_protocol::sniffer::{FromSniffer, MAX_MESSAGE, Mode, Request, Start, ToSniffer};
use wakevirt_tests::network::frames::magic;
use wakevirt_tests::process::kernel_log;
use wakevirt_tests::wait;

const MAC: &str = "52:54:00:01:02:03";

/// A sniffer in its sandbox, which reads one UDP socket, and the announcer's end of its socketpair.
struct Sniffer {
    process: Child,
    channel: OwnedFd,
    socket: UdpSocket,
}

impl Sniffer {
    /// Starts it as the announcer does, and waits until it is ready.
    fn start() -> Self {
        let mut sniffer = Self::start_with(&Start {
            request: Request::Udp,
            ports: vec![9],
            outgoing: 0,
            require_landlock: false,
        });
        assert!(matches!(sniffer.next(), Some(FromSniffer::Ready { mode: Mode::Udp, .. })));
        sniffer
    }

    fn start_with(start: &Start) -> Self {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_wakevirt-sniffer"))
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
        let mut buffer = [0; MAX_MESSAGE];
        let message = ToSniffer::Start(start.clone());
        let bytes = IoSlice::new(message.encode(&mut buffer).unwrap());
        sendmsg(&ours, &[bytes], &mut control, SendFlags::empty()).unwrap();
        Self { process, channel: ours, socket }
    }

    fn send(&self, bytes: &[u8]) {
        rustix::net::send(&self.channel, bytes, SendFlags::empty()).unwrap();
    }

    /// Its next message; `None` after it closed its end.
    fn next(&mut self) -> Option<FromSniffer> {
        let mut buffer = [0; MAX_MESSAGE];
        match recv(&self.channel, &mut buffer, RecvFlags::empty()).unwrap() {
            (0, _) => None,
            (length, _) => Some(FromSniffer::decode(buffer.get(..length).unwrap()).unwrap()),
        }
    }

    /// Sends a magic packet to its socket.
    fn wake(&self) {
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(&magic(MAC, &[]), self.socket.local_addr().unwrap()).unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().try_into().unwrap()), signal).unwrap();
    }

    /// Its failure reports, and its exit status.
    fn exit(mut self) -> Exit {
        let mut reports = Vec::new();
        while let Some(message) = self.next() {
            if let FromSniffer::Failed { reason } = message {
                reports.push(reason);
            }
        }
        Exit { pid: self.process.id(), status: self.process.wait().unwrap(), reports }
    }

    /// Its exit after the announcer closed its end.
    fn exit_without_announcer(mut self) -> Exit {
        drop(self.channel);
        Exit { pid: self.process.id(), status: self.process.wait().unwrap(), reports: Vec::new() }
    }
}

struct Exit {
    pid: u32,
    status: ExitStatus,
    reports: Vec<String>,
}

fn announcer_closes_its_end() -> Exit {
    Sniffer::start().exit_without_announcer()
}

/// With unread messages of the sniffer, the sniffer gets an error instead of the end of the connection.
fn announcer_ends_with_messages_unread() -> Exit {
    let sniffer = Sniffer::start();
    sniffer.wake();
    let waiting = || {
        let mut fds = [rustix::event::PollFd::new(&sniffer.channel, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, None).unwrap() == 1
    };
    wait::until_true("the packet", waiting);
    sniffer.send(&encoded(&ToSniffer::Report));
    sniffer.exit_without_announcer()
}

fn bad_message() -> Exit {
    let sniffer = Sniffer::start();
    sniffer.send(&[0xee; 40]);
    sniffer.exit()
}

fn unexpected_message() -> Exit {
    let sniffer = Sniffer::start();
    sniffer.send(&encoded(&ToSniffer::Outgoing { slot: 3, interface: 1 }));
    sniffer.exit()
}

/// A connected UDP socket reports an error if its peer is closed (udp(7)).
fn socket_error() -> Exit {
    let sniffer = Sniffer::start();
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    sniffer.socket.connect(closed).unwrap();
    sniffer.socket.send(b"x").unwrap();
    sniffer.exit()
}

/// The socketpair is full: the failure report waits for space.
fn failure_while_the_socketpair_is_full() -> Exit {
    let mut sniffer = Sniffer::start();
    // Far more than the socketpair holds.
    for _ in 0..100 {
        (0..50).for_each(|_| sniffer.wake());
        let unread = || rustix::io::ioctl_fionread(&sniffer.socket).unwrap();
        wait::until_true("the sniffer to read its socket", || unread() == 0);
    }
    sniffer.send(&[0xee; 40]);
    assert!(matches!(sniffer.next(), Some(FromSniffer::Packet(_))));
    sniffer.exit()
}

/// A terminal or a service manager stops the whole group: the announcer decides.
fn group_is_stopped() -> Exit {
    let mut sniffer = Sniffer::start();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        sniffer.signal(signal);
    }
    sniffer.wake();
    assert!(matches!(sniffer.next(), Some(FromSniffer::Packet(_))), "the sniffer continues");
    sniffer.exit_without_announcer()
}

fn killed() -> Exit {
    let sniffer = Sniffer::start();
    sniffer.signal(Signal::SIGKILL);
    sniffer.exit()
}

/// A memory fault, simulated by its signal.
fn memory_fault() -> Exit {
    let sniffer = Sniffer::start();
    sniffer.signal(Signal::SIGSEGV);
    sniffer.exit()
}

fn encoded(message: &ToSniffer) -> Vec<u8> {
    message.encode(&mut [0; MAX_MESSAGE]).unwrap().to_vec()
}

#[test]
fn reports_the_reason_and_causes_no_sigsys() {
    let exits = [
        ("the announcer closes its end", announcer_closes_its_end(), "exit status: 0", None),
        ("the announcer ends", announcer_ends_with_messages_unread(), "exit status: 0", None),
        ("the group is stopped", group_is_stopped(), "exit status: 0", None),
        (
            "a bad message",
            bad_message(),
            "exit status: 1",
            Some("the announcer sent a message of version 238"),
        ),
        (
            "an unexpected message",
            unexpected_message(),
            "exit status: 1",
            Some("the announcer sent an unexpected message"),
        ),
        (
            "a socket fails",
            socket_error(),
            "exit status: 1",
            Some("cannot read a socket: Connection refused"),
        ),
        (
            "the socketpair is full",
            failure_while_the_socketpair_is_full(),
            "exit status: 1",
            Some("the announcer sent a message of version 238"),
        ),
        ("a kill", killed(), "signal: 9", None),
        ("a memory fault", memory_fault(), "signal: 11", None),
    ];
    for (how, exit, status, reports) in &exits {
        let found = exit.status.to_string();
        assert!(found.starts_with(status), "{how}: {found}, with {:?}", exit.reports);
        match (reports, exit.reports.as_slice()) {
            (None, []) => {}
            (Some(expected), [report]) => assert!(report.starts_with(expected), "{how}: {report}"),
            (_, others) => panic!("{how}: {others:?} instead of {reports:?}"),
        }
        assert_ne!(exit.status.signal(), Some(libc::SIGSYS), "{how}");
    }
    let Some(killed) = kernel_log::killed_by_seccomp() else {
        eprintln!("the kernel's log was not checked: it cannot be read, or has no such records");
        return;
    };
    for (how, exit, ..) in exits {
        assert!(!killed.contains(&exit.pid), "{how}: the kernel's log calls it an attack");
    }
}
