//! The sniffer's exit status and failure report in each situation, and the kernel log.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod announcer;

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wakevirt_protocol::sniffer::{FromSniffer, Mode, ToSniffer};
use wakevirt_tests::process::kernel_log;
use wakevirt_tests::wait;

use announcer::{Exit, Sniffer, encoded};

/// Starts the sniffer in UDP mode.
fn start() -> Sniffer {
    Sniffer::start(Command::new(env!("CARGO_BIN_EXE_wakevirt-sniffer")), Mode::Udp)
}

fn send_signal(sniffer: &Sniffer, signal: Signal) {
    kill(Pid::from_raw(sniffer.process.id().try_into().unwrap()), signal).unwrap();
}

fn announcer_closes_its_end() -> Exit {
    start().close_and_wait()
}

/// If the announcer exits with unread messages, the sniffer receives an error instead of an end of file.
fn announcer_exits_with_unread_messages() -> Exit {
    let sniffer = start();
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
    let sniffer = start();
    sniffer.send(&[0xee; 40]);
    sniffer.wait()
}

fn unexpected_message() -> Exit {
    let sniffer = start();
    sniffer.send(&encoded(&ToSniffer::Outgoing { slot: 3, interface: 1 }));
    sniffer.wait()
}

fn socket_error() -> Exit {
    let sniffer = start();
    sniffer.cause_socket_error();
    sniffer.wait()
}

/// If the socketpair is full, the failure report waits for space.
fn failure_while_the_socketpair_is_full() -> Exit {
    let mut sniffer = start();
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
    let mut sniffer = start();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        send_signal(&sniffer, signal);
    }
    sniffer.send_magic_packet();
    assert!(matches!(sniffer.receive(), Some(FromSniffer::Packet(_))), "the sniffer exited");
    sniffer.close_and_wait()
}

fn killed() -> Exit {
    let sniffer = start();
    send_signal(&sniffer, Signal::SIGKILL);
    sniffer.wait()
}

/// The signal simulates a memory fault.
fn memory_fault() -> Exit {
    let sniffer = start();
    send_signal(&sniffer, Signal::SIGSEGV);
    sniffer.wait()
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
    let Some(killed) = kernel_log::sniffers_killed_by_seccomp() else {
        eprintln!("the kernel log was not checked: it cannot be read, or contains no seccomp records");
        return;
    };
    for (how, exit, ..) in exits {
        assert!(!killed.contains(&exit.pid), "{how}: the kernel log contains a seccomp record");
    }
}
