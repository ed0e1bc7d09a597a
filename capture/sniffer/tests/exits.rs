//! The sniffer's exit status and failure report in each situation, and the kernel log.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

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

/// A sandboxed sniffer that reads one UDP socket, and the announcer's end of its socketpair.
struct Sniffer {
    process: Child,
    channel: OwnedFd,
    socket: UdpSocket,
}

impl Sniffer {
    /// Starts the sniffer as the announcer does, and waits until it is ready.
    fn start() -> Self {
        let mut sniffer = Self::start_with(&Start {
            request: Request::Udp,
            ports: vec![9],
            outgoing: 0,
            require_landlock: false,
        });
        assert!(matches!(sniffer.receive(), Some(FromSniffer::Ready { mode: Mode::Udp, .. })));
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

    /// Receives the next message; `None` after the sniffer has closed its end.
    fn receive(&mut self) -> Option<FromSniffer> {
        let mut buffer = [0; MAX_MESSAGE];
        match recv(&self.channel, &mut buffer, RecvFlags::empty()).unwrap() {
            (0, _) => None,
            (length, _) => Some(FromSniffer::decode(buffer.get(..length).unwrap()).unwrap()),
        }
    }

    /// Sends a magic packet to the UDP socket.
    fn send_magic_packet(&self) {
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(&magic(MAC, &[]), self.socket.local_addr().unwrap()).unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for the exit, and collects the failure reports.
    fn wait(mut self) -> Exit {
        let mut reports = Vec::new();
        while let Some(message) = self.receive() {
            if let FromSniffer::Failed { reason } = message {
                reports.push(reason);
            }
        }
        Exit { pid: self.process.id(), status: self.process.wait().unwrap(), reports }
    }

    /// Closes the announcer's end, and waits for the exit.
    fn close_and_wait(mut self) -> Exit {
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
    Sniffer::start().close_and_wait()
}

/// If the announcer exits with unread messages, the sniffer receives an error instead of an end of file.
fn announcer_exits_with_unread_messages() -> Exit {
    let sniffer = Sniffer::start();
    sniffer.send_magic_packet();
    let is_pending = || {
        let mut fds = [rustix::event::PollFd::new(&sniffer.channel, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, None).unwrap() == 1
    };
    wait::until_true("the packet", is_pending);
    sniffer.send(&encoded(&ToSniffer::Report));
    sniffer.close_and_wait()
}

fn bad_message() -> Exit {
    let sniffer = Sniffer::start();
    sniffer.send(&[0xee; 40]);
    sniffer.wait()
}

fn unexpected_message() -> Exit {
    let sniffer = Sniffer::start();
    sniffer.send(&encoded(&ToSniffer::Outgoing { slot: 3, interface: 1 }));
    sniffer.wait()
}

/// A connected UDP socket reports an error if its peer is closed (udp(7)).
fn socket_error() -> Exit {
    let sniffer = Sniffer::start();
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    sniffer.socket.connect(closed).unwrap();
    sniffer.socket.send(b"x").unwrap();
    sniffer.wait()
}

/// If the socketpair is full, the failure report waits for space.
fn failure_while_the_socketpair_is_full() -> Exit {
    let mut sniffer = Sniffer::start();
    // Many more packets than fit in the socketpair.
    for _ in 0..100 {
        (0..50).for_each(|_| sniffer.send_magic_packet());
        let unread = || rustix::io::ioctl_fionread(&sniffer.socket).unwrap();
        wait::until_true("the sniffer to read its socket", || unread() == 0);
    }
    sniffer.send(&[0xee; 40]);
    assert!(matches!(sniffer.receive(), Some(FromSniffer::Packet(_))));
    sniffer.wait()
}

/// A terminal or service manager sends these signals to the whole process group. The announcer handles them.
fn process_group_is_stopped() -> Exit {
    let mut sniffer = Sniffer::start();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        sniffer.signal(signal);
    }
    sniffer.send_magic_packet();
    assert!(matches!(sniffer.receive(), Some(FromSniffer::Packet(_))), "the sniffer exited");
    sniffer.close_and_wait()
}

fn killed() -> Exit {
    let sniffer = Sniffer::start();
    sniffer.signal(Signal::SIGKILL);
    sniffer.wait()
}

/// The signal simulates a memory fault.
fn memory_fault() -> Exit {
    let sniffer = Sniffer::start();
    sniffer.signal(Signal::SIGSEGV);
    sniffer.wait()
}

fn encoded(message: &ToSniffer) -> Vec<u8> {
    message.encode(&mut [0; MAX_MESSAGE]).unwrap().to_vec()
}

#[test]
fn reports_the_reason_and_does_not_cause_a_sigsys() {
    let exits = [
        ("the announcer closes its end", announcer_closes_its_end(), "exit status: 0", None),
        ("the announcer exits", announcer_exits_with_unread_messages(), "exit status: 0", None),
        ("the process group is stopped", process_group_is_stopped(), "exit status: 0", None),
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
        ("the sniffer is killed", killed(), "signal: 9", None),
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
        eprintln!("the kernel log was not checked: it cannot be read, or contains no seccomp records");
        return;
    };
    for (how, exit, ..) in exits {
        assert!(!killed.contains(&exit.pid), "{how}: the kernel log contains a seccomp record");
    }
}
