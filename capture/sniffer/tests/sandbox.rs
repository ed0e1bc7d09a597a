//! A compromised sniffer, simulated by a malicious program in the sniffer's sandbox.
//!
//! For each attack, the test executes itself again, applies the stages of `sandbox`, and then attacks. Each attack runs
//! two or three times:
//!
//! * without the sandbox: it must succeed; otherwise, the other runs prove nothing;
//! * with all stages except seccomp, if another layer is expected to deny it: it must fail with that layer's error;
//! * with all stages: the kernel must kill the program with SIGSYS.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test may panic")]
#![expect(unsafe_code, reason = "some attacks are system calls that no safe wrapper makes")]
#![expect(
    clippy::print_stdout,
    reason = "the test reports like libtest, which it cannot use because the stages require a single thread"
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

/// The abstract name of a socket outside the sandbox.
const ACCOMPLICE: &[u8] = b"wakevirt-test-accomplice";

/// The sockets of the malicious program, and its targets.
struct Targets {
    incoming: OwnedFd,
    outgoing: Vec<OwnedFd>,
    /// A packet socket that the sniffer does not have.
    other: OwnedFd,
    udp: UdpSocket,
    loopback: LinkAddr,
    listener: TcpListener,
    /// A process of the same user, like the announcer.
    victim: Child,
    /// The receivers at the abstract name and at the other end of the channel.
    _receivers: [UnixDatagram; 2],
}

type Attack = fn(&Targets) -> io::Result<()>;

/// Each attack, and the error of the layer other than seccomp that denies it, if every kernel since Linux 5.13 has such
/// a layer. `EACCES` comes from Landlock, which older kernels do not have.
const ATTACKS: &[(&str, Attack, Option<i32>)] = &[
    ("open a file", open_file, Some(libc::EACCES)),
    ("write a file", write_file, Some(libc::EACCES)),
    ("list a directory", list_directory, Some(libc::EACCES)),
    ("open an IP socket", open_inet_socket, None),
    ("open a Unix socket", open_unix_socket, None),
    ("open a packet socket", open_packet_socket, Some(libc::EPERM)),
    ("open a TCP connection", connect_tcp, None),
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
    ("receive outgoing packets", receive_outgoing, None),
    ("add a ring for sending frames", add_send_ring, None),
    ("bind a socket that is not a packet socket of the sniffer", bind_other, None),
    ("send a frame", send_frame, None),
    ("send a datagram", send_datagram, None),
    ("send to another address through the channel", send_elsewhere, None),
    ("replace the channel with another socket", replace_channel, None),
    ("read another socket option", read_option, None),
    ("map executable memory", map_executable, None),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, flag, stages, attack] = arguments.as_slice()
        && flag == "--attack"
    {
        return run_attack(stages, attack);
    }
    if !guard::privileged() {
        return ExitCode::SUCCESS;
    }
    let failures: Vec<String> =
        ATTACKS.iter().flat_map(|(name, _, layer)| check_attack(name, *layer)).collect();
    let failures =
        failures.into_iter().chain(check_normal_operation()).chain(check_panic()).collect::<Vec<_>>();
    for failure in &failures {
        println!("FAILED: {failure}");
    }
    let landlock = if has_landlock() { "with" } else { "without" };
    println!(
        "test result: attacks tried {landlock} Landlock: {}, failed checks: {}",
        ATTACKS.len(),
        failures.len()
    );
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs an attack with different stages, and returns the failures.
fn check_attack(name: &str, layer: Option<i32>) -> Vec<String> {
    let mut failures = Vec::new();
    let mut check = |how: &str, status: ExitStatus, expected: bool| {
        if !expected {
            failures.push(format!("{name}, {how}: {status}"));
        }
    };
    let none = run("none", name);
    check("without the sandbox", none, none.success());
    if let Some(errno) = layer {
        let layered = run("layers", name);
        let expected = if errno == libc::EACCES && !has_landlock() { 0 } else { errno };
        check("with all stages except seccomp", layered, layered.code() == Some(expected));
    }
    let all = run("all", name);
    check("with all stages", all, all.signal() == Some(libc::SIGSYS));
    if failures.is_empty() {
        println!("{name} ... denied");
    }
    failures
}

/// Whether the kernel has Landlock. If Landlock is only disabled, the test fails.
fn has_landlock() -> bool {
    !matches!(ffi::probe_landlock(), Err(error) if error.raw_os_error() == Some(libc::ENOSYS))
}

/// Checks that the sandbox allows the sniffer's system calls.
fn check_normal_operation() -> Option<String> {
    let status = run("all", "operate normally");
    (!status.success()).then(|| format!("the sandbox denies normal operation: {status}"))
}

/// Checks that, after a panic in the sandbox, the process reports it to the announcer, and exits as after any other
/// failure.
fn check_panic() -> Option<String> {
    let (announcer, channel) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let status = command("all", PANIC).stdin(Stdio::from(channel)).status().unwrap();
    let mut buffer = [0; MAX_MESSAGE];
    let length = recv(&announcer, &mut buffer, RecvFlags::DONTWAIT).map_or(0, |(length, _)| length);
    let report = FromSniffer::decode(buffer.get(..length).unwrap());
    let expected = status.code() == Some(1)
        && matches!(&report, Ok(FromSniffer::Failed { reason }) if reason.contains("a test of panics"));
    (!expected).then(|| format!("a panic exits with {status} and reports {report:?}"))
}

/// Runs this program in a new network namespace, as an unprivileged user with the sniffer's capability and CAP_SETUID.
fn run(stages: &str, attack: &str) -> ExitStatus {
    command(stages, attack).status().unwrap()
}

fn command(stages: &str, attack: &str) -> Command {
    let capabilities = ["--inh-caps=+net_raw,+setuid", "--ambient-caps=+net_raw,+setuid"];
    // Each of these programs executes the next one, so the exit status is that of the attack.
    let mut command = Command::new("unshare");
    command
        .args(["--net", "sh", "-euc", "ip link set lo up; exec setpriv \"$@\"", "sh"])
        .args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"])
        .args(capabilities)
        .arg(std::env::current_exe().unwrap())
        .args(["--attack", stages, attack]);
    command
}

/// The malicious program. Its exit code is 0, or the error number of the attack.
fn run_attack(stages: &str, name: &str) -> ExitCode {
    let attack = ATTACKS.iter().find_map(|(attack, run, _)| (*attack == name).then_some(*run));
    let attack = attack.unwrap_or(if name == PANIC { cause_panic } else { operate_normally });
    let channel = Channel::on_standard_input();
    let mut targets = prepare(stages != "none");
    if stages != "none" {
        sandbox::hide().unwrap();
        sandbox::drop_capabilities().unwrap();
        assert_eq!(sandbox::forbid_files(false).unwrap(), has_landlock());
    }
    if let Ok(channel) = channel {
        exit_on_panic(channel);
    }
    if stages == "all" {
        sandbox::forbid_system_calls(targets.outgoing.iter().chain([&targets.incoming])).unwrap();
    }
    let code = exit_code(attack(&targets));
    if stages == "none" {
        // A traced process is stopped, and would not exit.
        let _ = targets.victim.kill();
    }
    ffi::exit(code)
}

fn exit_code(result: io::Result<()>) -> i32 {
    result.map_or_else(|error| error.raw_os_error().unwrap_or(255), |()| 0)
}

/// Opens the sniffer's sockets, with or without locked filters, and creates the targets.
fn prepare(locked: bool) -> Targets {
    let (request, ports) = (Request::Raw, vec![9]);
    let start = Start { request, ports, bound: 0, outgoing: 1, limit: 100, require_landlock: true };
    let mut sockets = Sockets::open(&start, Vec::new()).unwrap();
    let incoming = if locked {
        sockets.incoming.pop().unwrap()
    } else {
        let unlocked = ffi::packet_socket().unwrap();
        ffi::attach_filter(&unlocked, &program(&[9], Direction::Any).unwrap()).unwrap();
        unlocked
    };
    let loopback = nix::ifaddrs::getifaddrs()
        .unwrap()
        .find_map(|interface| interface.address?.as_link_addr().copied())
        .unwrap();
    let accomplice = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(ACCOMPLICE).unwrap()).unwrap();
    let (announcer, channel) = UnixDatagram::pair().unwrap();
    // Otherwise, standard input is the socketpair that the test reads.
    if Channel::on_standard_input().is_err() {
        dup2_stdin(&channel).unwrap();
    }
    Targets {
        incoming,
        outgoing: sockets.outgoing,
        other: ffi::packet_socket().unwrap(),
        udp: UdpSocket::bind("127.0.0.1:0").unwrap(),
        loopback,
        listener: TcpListener::bind("127.0.0.1:0").unwrap(),
        // It exits with this program, which holds the only write end of the pipe.
        victim: Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap(),
        _receivers: [accomplice, announcer],
    }
}

fn open_file(_: &Targets) -> io::Result<()> {
    File::open("/etc/passwd").map(drop)
}

fn write_file(_: &Targets) -> io::Result<()> {
    File::options().write(true).open("/dev/null").map(drop)
}

fn list_directory(_: &Targets) -> io::Result<()> {
    fs::read_dir("/").map(drop)
}

fn open_inet_socket(_: &Targets) -> io::Result<()> {
    UdpSocket::bind("127.0.0.1:0").map(drop)
}

fn open_unix_socket(_: &Targets) -> io::Result<()> {
    UnixDatagram::unbound().map(drop)
}

fn open_packet_socket(_: &Targets) -> io::Result<()> {
    ffi::packet_socket().map(drop)
}

fn connect_tcp(targets: &Targets) -> io::Result<()> {
    TcpStream::connect(targets.listener.local_addr()?).map(drop)
}

fn execute(_: &Targets) -> io::Result<()> {
    Err(Command::new("/bin/true").exec())
}

fn fork(_: &Targets) -> io::Result<()> {
    // SAFETY: there is one thread, and the child exits at once.
    match unsafe { libc::fork() } {
        0 => ffi::exit(0),
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn start_thread(_: &Targets) -> io::Result<()> {
    std::thread::Builder::new().spawn(|| ()).map(drop)
}

fn victim(targets: &Targets) -> Pid {
    Pid::from_raw(targets.victim.id().try_into().unwrap())
}

fn trace(targets: &Targets) -> io::Result<()> {
    ptrace::attach(victim(targets))?;
    Ok(())
}

fn read_memory(targets: &Targets) -> io::Result<()> {
    // The victim runs this program until it executes another program, so the address is valid in the victim.
    let (mut bytes, base) = ([0; 8], std::ptr::from_ref(ATTACKS).addr());
    let remote = [RemoteIoVec { base, len: bytes.len() }];
    match process_vm_readv(victim(targets), &mut [IoSliceMut::new(&mut bytes)], &remote) {
        // The victim has executed the other program: the access was allowed, but the address is not mapped.
        Ok(_) | Err(nix::errno::Errno::EFAULT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn kill_victim(targets: &Targets) -> io::Result<()> {
    Ok(kill(victim(targets), Signal::SIGTERM)?)
}

fn raise_capability(_: &Targets) -> io::Result<()> {
    let mut sets = capabilities(None)?;
    sets.effective |= CapabilitySet::NET_RAW;
    Ok(set_capabilities(None, sets)?)
}

fn become_root(_: &Targets) -> io::Result<()> {
    Ok(setuid(Uid::from_raw(0))?)
}

fn become_traceable(_: &Targets) -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(true)?)
}

fn replace_filter(targets: &Targets) -> io::Result<()> {
    ffi::attach_filter(&targets.incoming, &program(&[], Direction::Any).unwrap())
}

fn detach_filter(targets: &Targets) -> io::Result<()> {
    ffi::set_int_option(&targets.incoming, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0)
}

fn unlock_filter(targets: &Targets) -> io::Result<()> {
    ffi::set_int_option(&targets.incoming, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 0)
}

fn receive_outgoing(targets: &Targets) -> io::Result<()> {
    ffi::set_int_option(&targets.incoming, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 0)
}

fn add_send_ring(targets: &Targets) -> io::Result<()> {
    let ring =
        libc::tpacket_req { tp_block_size: 65_536, tp_block_nr: 1, tp_frame_size: 2048, tp_frame_nr: 32 };
    let fd = targets.outgoing.first().unwrap().as_raw_fd();
    let length = size_of_val(&ring).try_into().unwrap();
    // SAFETY: the value outlives the call, and its length is correct.
    let result = unsafe {
        libc::setsockopt(fd, libc::SOL_PACKET, libc::PACKET_TX_RING, (&raw const ring).cast(), length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn bind_other(targets: &Targets) -> io::Result<()> {
    ffi::bind_packet_socket(&targets.other, 0)
}

fn send_frame(targets: &Targets) -> io::Result<()> {
    sendto(targets.incoming.as_raw_fd(), b"a frame", &targets.loopback, MsgFlags::empty())?;
    Ok(())
}

fn send_datagram(targets: &Targets) -> io::Result<()> {
    targets.udp.send_to(b"a datagram", targets.udp.local_addr()?).map(drop)
}

fn send_elsewhere(_: &Targets) -> io::Result<()> {
    sendto(0, b"a message", &UnixAddr::new_abstract(ACCOMPLICE)?, MsgFlags::empty())?;
    Ok(())
}

fn replace_channel(targets: &Targets) -> io::Result<()> {
    Ok(dup2_stdin(&targets.incoming)?)
}

fn read_option(targets: &Targets) -> io::Result<()> {
    rustix::net::sockopt::socket_type(&targets.incoming)?;
    Ok(())
}

fn map_executable(_: &Targets) -> io::Result<()> {
    let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: the kernel chooses an unused address.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The name of the attack that panics.
const PANIC: &str = "panic";

fn cause_panic(_: &Targets) -> io::Result<()> {
    panic!("a test of panics")
}

/// Makes the system calls of the sniffer's main loop.
fn operate_normally(targets: &Targets) -> io::Result<()> {
    let mut poll = [rustix::event::PollFd::new(&targets.incoming, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut poll, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 1 }))?;
    match ffi::receive(&targets.incoming, &mut [0; 64]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        other => return other.map(drop),
    }
    ffi::take_packet_drops(&targets.incoming)?;
    ffi::drops(&targets.udp)?;
    for socket in targets.outgoing.iter().chain([&targets.incoming]) {
        ffi::bind_packet_socket(socket, 1)?;
    }
    rustix::net::send(rustix::stdio::stdin(), b"a message", rustix::net::SendFlags::DONTWAIT)?;
    Ok(())
}
