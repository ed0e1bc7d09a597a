//! A taken-over sniffer: a deliberately malicious program in the sniffer's own sandbox.
//!
//! The test runs itself again for each attack, as a program that goes through the stages of
//! `sniffer::sandbox` and then attacks. Each attack is run three times:
//!
//! * free, with everything but the sandbox: it succeeds, so that its refusal means something;
//! * behind every stage but seccomp: where another layer is to refuse it, it does, with the error that
//!   the layer gives;
//! * behind all of them: the kernel kills the program with SIGSYS.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test may stop where it stands")]
#![expect(unsafe_code, reason = "some attacks are system calls that no safe wrapper makes")]
#![expect(
    clippy::print_stdout,
    reason = "it reports as libtest does, which it cannot use: the stages want one thread"
)]

use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{LinkAddr, MsgFlags, UnixAddr, sendto};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::{Pid, Uid, dup2_stdin, setuid};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use wakevirt_protocol::sniffer::{FromSniffer, MAX_MESSAGE, Request, Start};
use wakevirt_sniffer::filter::{Direction, program};
use wakevirt_sniffer::sockets::Sockets;
use wakevirt_sniffer::{channel::Channel, exit_on_panic, ffi, sandbox};
use wakevirt_tests::host::guard;

/// The abstract name of a socket that hears whatever is sent to it.
const ACCOMPLICE: &[u8] = b"wakevirt-test-accomplice";

/// What the malicious program still holds, and what it aims at.
struct Loot {
    incoming: OwnedFd,
    outgoing: Vec<OwnedFd>,
    udp: UdpSocket,
    loopback: LinkAddr,
    listener: TcpListener,
    /// A process of the same user, as the announcer is.
    victim: Child,
    /// Who hears what is sent to the abstract name, and to the channel.
    _ears: [UnixDatagram; 2],
}

type Attack = fn(&Loot) -> io::Result<()>;

/// Each attack, and the error by which a layer other than seccomp refuses it, where one does on every
/// kernel since 5.13.
const ATTACKS: &[(&str, Attack, Option<i32>)] = &[
    ("open a file", open_file, Some(libc::EACCES)),
    ("write a file", write_file, Some(libc::EACCES)),
    ("list a folder", list_folder, Some(libc::EACCES)),
    ("make an IP socket", make_inet_socket, None),
    ("make a Unix socket", make_unix_socket, None),
    ("make a packet socket", make_packet_socket, Some(libc::EPERM)),
    ("connect by TCP", connect_tcp, None),
    ("execute a program", execute, Some(libc::EACCES)),
    ("fork", fork, None),
    ("start a thread", start_thread, None),
    ("trace another process", trace, Some(libc::EPERM)),
    ("read another process's memory", read_memory, Some(libc::EPERM)),
    ("kill another process", kill_victim, None),
    ("raise a capability", raise_capability, Some(libc::EPERM)),
    ("become root", become_root, Some(libc::EPERM)),
    ("become traceable again", become_traceable, None),
    ("replace the filter", replace_filter, Some(libc::EPERM)),
    ("detach the filter", detach_filter, Some(libc::EPERM)),
    ("unlock the filter", unlock_filter, Some(libc::EPERM)),
    ("hear outgoing packets", hear_outgoing, None),
    ("bind the socket for incoming frames", bind_incoming, None),
    ("send a frame", send_frame, None),
    ("send a datagram", send_datagram, None),
    ("send elsewhere by the channel", send_elsewhere, None),
    ("put a socket in the channel's place", replace_channel, None),
    ("ask for another socket option", ask_for_option, None),
    ("map executable memory", map_executable, None),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, flag, stages, attack] = arguments.as_slice()
        && flag == "--attack"
    {
        return act(stages, attack);
    }
    if !guard::privileged() {
        return ExitCode::SUCCESS;
    }
    let failures: Vec<String> = ATTACKS.iter().flat_map(|(name, _, layer)| judge(name, *layer)).collect();
    let failures =
        failures.into_iter().chain(what_is_allowed()).chain(what_a_panic_does()).collect::<Vec<_>>();
    for failure in &failures {
        println!("FAILED: {failure}");
    }
    println!("test result: {} attacks, {} failed", ATTACKS.len(), failures.len());
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one attack the three ways, and returns what is wrong.
fn judge(name: &str, layer: Option<i32>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut check = |how: &str, status: ExitStatus, right: bool| {
        if !right {
            wrong.push(format!("{name}, {how}: {status}"));
        }
    };
    let free = run("free", name);
    check("free", free, free.success());
    if let Some(errno) = layer {
        let layered = run("layers", name);
        check("behind every stage but seccomp", layered, layered.code() == Some(errno));
    }
    let all = run("all", name);
    check("behind all stages", all, all.signal() == Some(libc::SIGSYS));
    if wrong.is_empty() {
        println!("{name} ... refused");
    }
    wrong
}

/// What the sniffer needs is not refused: else every attack would seem to be.
fn what_is_allowed() -> Option<String> {
    let status = run("all", "behave");
    (!status.success()).then(|| format!("what the sniffer does is refused: {status}"))
}

/// A panic under the sandbox is told to the announcer, and ends the process as any other failure does.
fn what_a_panic_does() -> Option<String> {
    let (announcer, channel) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let status = command("all", PANIC).stdin(Stdio::from(channel)).status().unwrap();
    let mut buffer = [0; MAX_MESSAGE];
    let length = recv(&announcer, &mut buffer, RecvFlags::DONTWAIT).map_or(0, |(length, _)| length);
    let said = FromSniffer::decode(buffer.get(..length).unwrap());
    let right = status.code() == Some(1)
        && matches!(&said, Ok(FromSniffer::Failed { reason }) if reason.contains("a test of panics"));
    (!right).then(|| format!("a panic ends with {status} and says {said:?}"))
}

/// Runs this program again: in a network namespace of its own, as a user without rights but for the
/// sniffer's capability and one more.
fn run(stages: &str, attack: &str) -> ExitStatus {
    command(stages, attack).status().unwrap()
}

fn command(stages: &str, attack: &str) -> Command {
    let capabilities = ["--inh-caps=+net_raw,+setuid", "--ambient-caps=+net_raw,+setuid"];
    // None of these forks, so the status is that of the attack.
    let mut command = Command::new("unshare");
    command
        .args(["--net", "sh", "-euc", "ip link set lo up; exec setpriv \"$@\"", "sh"])
        .args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"])
        .args(capabilities)
        .arg(std::env::current_exe().unwrap())
        .args(["--attack", stages, attack]);
    command
}

/// The malicious program. Its exit code is 0, or the number of the error that it met.
fn act(stages: &str, name: &str) -> ExitCode {
    let attack = ATTACKS.iter().find_map(|(attack, run, _)| (*attack == name).then_some(*run));
    let attack = attack.unwrap_or(if name == PANIC { fail_with_a_panic } else { behave });
    let channel = Channel::on_standard_input();
    let mut loot = prepare(stages != "free");
    if stages != "free" {
        sandbox::hide().unwrap();
        sandbox::drop_capabilities().unwrap();
        assert!(sandbox::forbid_files(true).unwrap());
    }
    if let Ok(channel) = channel {
        exit_on_panic(channel);
    }
    if stages == "all" {
        sandbox::forbid_system_calls(&loot.outgoing).unwrap();
    }
    let code = code(attack(&loot));
    if stages == "free" {
        // Whoever was traced is stopped, and would stay so.
        let _ = loot.victim.kill();
    }
    ffi::exit(code)
}

fn code(result: io::Result<()>) -> i32 {
    result.map_or_else(|error| error.raw_os_error().unwrap_or(255), |()| 0)
}

/// The sockets of the sniffer, locked as it locks them or not; and the targets.
fn prepare(locked: bool) -> Loot {
    let start = Start { request: Request::Raw, ports: vec![9], outgoing: 1, require_landlock: true };
    let sockets = Sockets::open(&start, Vec::new()).unwrap();
    let incoming = if locked {
        sockets.incoming.unwrap()
    } else {
        let open = ffi::packet_socket().unwrap();
        ffi::attach_filter(&open, &program(&[9], Direction::Any).unwrap()).unwrap();
        open
    };
    let loopback = nix::ifaddrs::getifaddrs()
        .unwrap()
        .find_map(|interface| interface.address?.as_link_addr().copied())
        .unwrap();
    let accomplice = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(ACCOMPLICE).unwrap()).unwrap();
    let (announcer, channel) = UnixDatagram::pair().unwrap();
    // Else it is the socketpair that the test reads.
    if Channel::on_standard_input().is_err() {
        dup2_stdin(&channel).unwrap();
    }
    Loot {
        incoming,
        outgoing: sockets.outgoing,
        udp: UdpSocket::bind("127.0.0.1:0").unwrap(),
        loopback,
        listener: TcpListener::bind("127.0.0.1:0").unwrap(),
        // It ends with this program, however that ends: nobody else could write to it.
        victim: Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap(),
        _ears: [accomplice, announcer],
    }
}

fn open_file(_: &Loot) -> io::Result<()> {
    File::open("/etc/passwd").map(drop)
}

fn write_file(_: &Loot) -> io::Result<()> {
    File::options().write(true).open("/dev/null").map(drop)
}

fn list_folder(_: &Loot) -> io::Result<()> {
    fs::read_dir("/").map(drop)
}

fn make_inet_socket(_: &Loot) -> io::Result<()> {
    UdpSocket::bind("127.0.0.1:0").map(drop)
}

fn make_unix_socket(_: &Loot) -> io::Result<()> {
    UnixDatagram::unbound().map(drop)
}

fn make_packet_socket(_: &Loot) -> io::Result<()> {
    ffi::packet_socket().map(drop)
}

fn connect_tcp(loot: &Loot) -> io::Result<()> {
    TcpStream::connect(loot.listener.local_addr()?).map(drop)
}

fn execute(_: &Loot) -> io::Result<()> {
    Err(Command::new("/bin/true").exec())
}

fn fork(_: &Loot) -> io::Result<()> {
    // SAFETY: there is one thread, and the child ends at once.
    match unsafe { libc::fork() } {
        0 => ffi::exit(0),
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn start_thread(_: &Loot) -> io::Result<()> {
    std::thread::Builder::new().spawn(|| ()).map(drop)
}

fn victim(loot: &Loot) -> Pid {
    Pid::from_raw(loot.victim.id().try_into().unwrap())
}

fn trace(loot: &Loot) -> io::Result<()> {
    ptrace::attach(victim(loot))?;
    Ok(())
}

fn read_memory(loot: &Loot) -> io::Result<()> {
    // The victim is this program until it has become another, so what lies here lies there, too.
    let (mut bytes, base) = ([0; 8], std::ptr::from_ref(ATTACKS).addr());
    let remote = [RemoteIoVec { base, len: bytes.len() }];
    match process_vm_readv(victim(loot), &mut [IoSliceMut::new(&mut bytes)], &remote) {
        // It has: the access was allowed, and the address is not there any more.
        Ok(_) | Err(nix::errno::Errno::EFAULT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn kill_victim(loot: &Loot) -> io::Result<()> {
    Ok(kill(victim(loot), Signal::SIGTERM)?)
}

fn raise_capability(_: &Loot) -> io::Result<()> {
    let mut sets = capabilities(None)?;
    sets.effective |= CapabilitySet::NET_RAW;
    Ok(set_capabilities(None, sets)?)
}

fn become_root(_: &Loot) -> io::Result<()> {
    Ok(setuid(Uid::from_raw(0))?)
}

fn become_traceable(_: &Loot) -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(true)?)
}

fn replace_filter(loot: &Loot) -> io::Result<()> {
    ffi::attach_filter(&loot.incoming, &program(&[], Direction::Any).unwrap())
}

fn detach_filter(loot: &Loot) -> io::Result<()> {
    ffi::set_int_option(&loot.incoming, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0)
}

fn unlock_filter(loot: &Loot) -> io::Result<()> {
    ffi::set_int_option(&loot.incoming, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 0)
}

fn hear_outgoing(loot: &Loot) -> io::Result<()> {
    ffi::set_int_option(&loot.incoming, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 0)
}

fn bind_incoming(loot: &Loot) -> io::Result<()> {
    ffi::bind_packet_socket(&loot.incoming, 0)
}

fn send_frame(loot: &Loot) -> io::Result<()> {
    sendto(loot.incoming.as_raw_fd(), b"a frame", &loot.loopback, MsgFlags::empty())?;
    Ok(())
}

fn send_datagram(loot: &Loot) -> io::Result<()> {
    loot.udp.send_to(b"a datagram", loot.udp.local_addr()?).map(drop)
}

fn send_elsewhere(_: &Loot) -> io::Result<()> {
    sendto(0, b"a message", &UnixAddr::new_abstract(ACCOMPLICE)?, MsgFlags::empty())?;
    Ok(())
}

fn replace_channel(loot: &Loot) -> io::Result<()> {
    Ok(dup2_stdin(&loot.incoming)?)
}

fn ask_for_option(loot: &Loot) -> io::Result<()> {
    rustix::net::sockopt::socket_type(&loot.incoming)?;
    Ok(())
}

fn map_executable(_: &Loot) -> io::Result<()> {
    let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: the kernel chooses where, and nothing is there.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The name under which the program panics.
const PANIC: &str = "panic";

fn fail_with_a_panic(_: &Loot) -> io::Result<()> {
    panic!("a test of panics")
}

/// What the sniffer does all its life.
fn behave(loot: &Loot) -> io::Result<()> {
    let mut poll = [rustix::event::PollFd::new(&loot.incoming, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut poll, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 1 }))?;
    match ffi::receive(&loot.incoming, &mut [0; 64]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        other => return other.map(drop),
    }
    ffi::take_packet_drops(&loot.incoming)?;
    ffi::drops(&loot.udp)?;
    for socket in &loot.outgoing {
        ffi::bind_packet_socket(socket, 1)?;
    }
    rustix::net::send(rustix::stdio::stdin(), b"a message", rustix::net::SendFlags::DONTWAIT)?;
    Ok(())
}
