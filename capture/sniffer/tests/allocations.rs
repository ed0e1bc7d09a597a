//! The sniffer in its sandbox neither allocates nor frees memory, and does not seed a hash map.
//!
//! The test executes itself again as a sniffer whose allocator makes a system call that the sandbox forbids. The kernel
//! kills that sniffer with SIGSYS if it allocates or frees memory after the sandbox is complete. The function with which
//! the standard library seeds the first hash map of a thread makes the same call: in glibc 2.41 and later, it usually
//! makes none (vgetrandom in vdso(7)).
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test may panic")]
#![expect(unsafe_code, reason = "an allocator is unsafe code")]
#![expect(
    clippy::print_stdout,
    reason = "the test reports like libtest, which it cannot use because the sandbox applies to a single thread"
)]

mod announcer;

use std::alloc::{GlobalAlloc, Layout, System};
use std::hash::RandomState;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::sniffer::{
    BATCH, Change, FromSniffer, MAX_ADDRESSES, MAX_EXCLUDED, Mode, Source, ToSniffer,
};
use wakevirt_sniffer::{ffi, sandbox};
use wakevirt_tests::host::guard;

use announcer::{Exit, Sniffer, encoded};

/// The allocator of the standard library, with a system call that the sandbox forbids.
struct Forbidden;

#[global_allocator]
static ALLOCATOR: Forbidden = Forbidden;

// SAFETY: the system's allocator does everything.
unsafe impl GlobalAlloc for Forbidden {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        make_forbidden_call();
        // SAFETY: guaranteed by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        make_forbidden_call();
        // SAFETY: guaranteed by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn make_forbidden_call() {
    // SAFETY: getppid() takes no pointer.
    unsafe { libc::getppid() };
}

/// Replaces the C library's function.
// SAFETY: it has the signature and the effect of getrandom(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut libc::c_void, length: usize, flags: libc::c_uint) -> isize {
    make_forbidden_call();
    // SAFETY: guaranteed by the caller.
    let written = unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) };
    isize::try_from(written).unwrap_or(-1)
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("--sniffer") => wakevirt_sniffer::run(),
        Some("--allocate") => in_the_sandbox(|| drop(black_box(Box::new(1)))),
        Some("--seed") => in_the_sandbox(|| {
            black_box(RandomState::new());
        }),
        Some("--nothing") => in_the_sandbox(|| {}),
        _ => {}
    }
    for argument in ["--allocate", "--seed"] {
        let status = this_program(argument).status().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{argument} has no effect in the sandbox: {status}");
    }
    let status = this_program("--nothing").status().unwrap();
    assert!(status.success(), "the sandbox forbids more than this test checks: {status}");
    check_mode(Mode::Udp);
    if guard::is_root() {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        check_mode(Mode::Raw);
    }
    println!("test result: ok. the sniffer neither allocates memory nor seeds a hash map in its sandbox");
}

fn this_program(argument: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(argument);
    command
}

fn in_the_sandbox(act: fn()) -> ! {
    sandbox::forbid_system_calls(std::iter::empty()).unwrap();
    act();
    ffi::exit(0)
}

/// Checks each way in which a sniffer in this mode can exit.
fn check_mode(mode: Mode) {
    check(mode, "the announcer closes its end", receive_packets(mode).close_and_wait(), 0, None);

    let sniffer = receive_packets(mode);
    sniffer.send(&[0xee; 40]);
    check(mode, "a bad message", sniffer.wait(), 1, Some("the announcer sent a message of version 238"));

    let sniffer = receive_packets(mode);
    sniffer.cause_socket_error();
    check(mode, "a socket fails", sniffer.wait(), 1, Some("cannot read a socket: Connection refused"));
}

/// Starts a sniffer that receives packets, and reports its counters.
fn receive_packets(mode: Mode) -> Sniffer {
    let mut sniffer = Sniffer::start(this_program("--sniffer"), mode);
    if mode == Mode::Raw {
        // The loopback interface.
        let source = Source::Interface(NonZeroU32::MIN);
        sniffer.send(&encoded(&ToSniffer::Incoming { slot: 1, source }));
        sniffer.send(&encoded(&ToSniffer::Outgoing { slot: 0, interface: 1 }));
    }
    change_everything(&mut sniffer);
    sniffer.send(&encoded(&ToSniffer::Report));
    let mut counted = false;
    let mut packets = 0;
    while !counted || packets < 2 {
        sniffer.send_magic_packet();
        match sniffer.receive() {
            Some(FromSniffer::Counters(_)) => counted = true,
            Some(FromSniffer::Packet(_)) => packets += 1,
            other => panic!("{mode:?}: {other:?}; {:?}", sniffer.process.wait()),
        }
    }
    sniffer
}

/// Fills the sniffer's sets twice, with different items each time.
fn change_everything(sniffer: &mut Sniffer) {
    change(sniffer, Change::Limit(1000));
    for round in 0..2 {
        for added in [true, false] {
            for first in (0..u32::try_from(MAX_ADDRESSES).unwrap()).step_by(BATCH) {
                let address = |n: usize| {
                    let [a, b, c, d] = (first + u32::try_from(n).unwrap()).to_be_bytes();
                    MacAddr::new([2, round, a, b, c, d])
                };
                change(sniffer, Change::Interest { added, addresses: std::array::from_fn(address) });
            }
            for first in (0..u32::try_from(MAX_EXCLUDED).unwrap()).step_by(BATCH) {
                // No interface has such an index.
                let first = (u32::from(round) + 1) << 24 | first;
                let interfaces = std::array::from_fn(|n| first + u32::try_from(n).unwrap());
                change(sniffer, Change::Excluded { added, interfaces });
            }
        }
    }
}

/// Sends a change, and waits until the sniffer has made it.
fn change(sniffer: &mut Sniffer, change: Change) {
    sniffer.send(&encoded(&ToSniffer::Change(change)));
    while !matches!(sniffer.receive(), Some(FromSniffer::Applied)) {}
}

fn check(mode: Mode, how: &str, exit: Exit, code: i32, report: Option<&str>) {
    let Exit { pid, status, reports } = exit;
    assert_eq!(status.code(), Some(code), "{mode:?}, {how}: sniffer {pid}: {status}, with {reports:?}");
    let expected = match (report, reports.as_slice()) {
        (None, []) => true,
        (Some(report), [found]) => found.starts_with(report),
        _ => false,
    };
    assert!(expected, "{mode:?}, {how}: {reports:?} instead of {report:?}");
}
