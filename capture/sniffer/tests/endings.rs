//! Every way in which the sniffer ends: its exit status, its last words, and what the kernel logs.
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
    recv, send, sendmsg, socketpair,
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

    fn say(&self, bytes: &[u8]) {
        send(&self.channel, bytes, SendFlags::empty()).unwrap();
    }

    /// What it says next; `None` where it has closed its end.
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

    /// Everything that it still says about failures, and its exit status.
    fn end(mut self) -> Ending {
        let mut last_words = Vec::new();
        while let Some(message) = self.next() {
            if let FromSniffer::Failed { reason } = message {
                last_words.push(reason);
            }
        }
        Ending { pid: self.process.id(), status: self.process.wait().unwrap(), last_words }
    }

    /// How it ends once the announcer has closed its end.
    fn end_without_announcer(mut self) -> Ending {
        drop(self.channel);
        Ending { pid: self.process.id(), status: self.process.wait().unwrap(), last_words: Vec::new() }
    }
}

struct Ending {
    pid: u32,
    status: ExitStatus,
    last_words: Vec<String>,
}

fn announcer_closes_its_end() -> Ending {
    Sniffer::start().end_without_announcer()
}

/// It may have said something that is not read any more: then its end reads as an error.
fn announcer_ends_with_messages_unread() -> Ending {
    let sniffer = Sniffer::start();
    sniffer.wake();
    let waiting = || {
        let mut fds = [rustix::event::PollFd::new(&sniffer.channel, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, None).unwrap() == 1
    };
    wait::until_true("the packet", waiting);
    sniffer.say(&encoded(&ToSniffer::Report));
    sniffer.end_without_announcer()
}

fn bad_message() -> Ending {
    let sniffer = Sniffer::start();
    sniffer.say(&[0xee; 40]);
    sniffer.end()
}

fn message_out_of_turn() -> Ending {
    let sniffer = Sniffer::start();
    sniffer.say(&encoded(&ToSniffer::Outgoing { slot: 3, interface: 1 }));
    sniffer.end()
}

/// A connected UDP socket is told that nobody listens at the other end (udp(7)).
fn socket_error() -> Ending {
    let sniffer = Sniffer::start();
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    sniffer.socket.connect(nobody).unwrap();
    sniffer.socket.send(b"anybody?").unwrap();
    sniffer.end()
}

/// The socketpair is full: the last words wait for room.
fn failure_while_the_announcer_is_behind() -> Ending {
    let mut sniffer = Sniffer::start();
    // Far more than the socketpair holds.
    for _ in 0..100 {
        (0..50).for_each(|_| sniffer.wake());
        let unread = || rustix::io::ioctl_fionread(&sniffer.socket).unwrap();
        wait::until_true("the sniffer to read its socket", || unread() == 0);
    }
    sniffer.say(&[0xee; 40]);
    assert!(matches!(sniffer.next(), Some(FromSniffer::Packet(_))));
    sniffer.end()
}

/// By a terminal or a service manager that stops the whole group: the announcer decides.
fn group_is_stopped() -> Ending {
    let mut sniffer = Sniffer::start();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        sniffer.signal(signal);
    }
    sniffer.wake();
    assert!(matches!(sniffer.next(), Some(FromSniffer::Packet(_))), "it goes on");
    sniffer.end_without_announcer()
}

fn killed() -> Ending {
    let sniffer = Sniffer::start();
    sniffer.signal(Signal::SIGKILL);
    sniffer.end()
}

/// A fault of memory, as far as a signal can stand for one.
fn memory_fault() -> Ending {
    let sniffer = Sniffer::start();
    sniffer.signal(Signal::SIGSEGV);
    sniffer.end()
}

fn encoded(message: &ToSniffer) -> Vec<u8> {
    message.encode(&mut [0; MAX_MESSAGE]).unwrap().to_vec()
}

#[test]
fn say_why_and_look_like_no_attack() {
    let endings = [
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
            "a message out of turn",
            message_out_of_turn(),
            "exit status: 1",
            Some("the announcer sent a message out of turn"),
        ),
        (
            "a socket fails",
            socket_error(),
            "exit status: 1",
            Some("cannot read a socket: Connection refused"),
        ),
        (
            "the announcer is behind",
            failure_while_the_announcer_is_behind(),
            "exit status: 1",
            Some("the announcer sent a message of version 238"),
        ),
        ("a kill", killed(), "signal: 9", None),
        ("a memory fault", memory_fault(), "signal: 11", None),
    ];
    for (how, ending, status, last_words) in &endings {
        let found = ending.status.to_string();
        assert!(found.starts_with(status), "{how}: {found}, with {:?}", ending.last_words);
        match (last_words, ending.last_words.as_slice()) {
            (None, []) => {}
            (Some(expected), [said]) => assert!(said.starts_with(expected), "{how}: {said}"),
            (_, said) => panic!("{how}: {said:?} instead of {last_words:?}"),
        }
        assert_ne!(ending.status.signal(), Some(libc::SIGSYS), "{how}");
    }
    let Some(killed) = kernel_log::killed_by_seccomp() else {
        eprintln!("the kernel's log was not looked at: it cannot be read, or has no such records");
        return;
    };
    for (how, ending, ..) in endings {
        assert!(!killed.contains(&ending.pid), "{how}: the kernel's log calls it an attack");
    }
}
