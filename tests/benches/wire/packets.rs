//! Packet sockets of this process in other network namespaces. A socket remains in the namespace in which it was
//! opened.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockProtocol, SockType, bind, recv, send,
    sendmmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use nix::time::{ClockId, clock_gettime};

/// The number of frames in one system call.
const BATCH: usize = 64;

/// A raw packet socket on one interface: packet(7).
pub struct PacketSocket {
    socket: OwnedFd,
}

impl PacketSocket {
    /// A socket that only sends. `network` is the file of a network namespace.
    pub fn sender(network: &Path, interface: &str) -> Self {
        Self::open(network, interface, None)
    }

    /// A socket that receives all frames of the interface.
    pub fn reader(network: &Path, interface: &str) -> Self {
        Self::open(network, interface, Some(SockProtocol::EthAll))
    }

    fn open(network: &Path, interface: &str, protocol: Option<SockProtocol>) -> Self {
        let network = File::open(network).expect("the file of a network namespace");
        // setns(2) affects only the calling thread.
        let open = || {
            setns(&network, CloneFlags::CLONE_NEWNET).expect("root can enter a network namespace");
            let address = getifaddrs()
                .expect("the interfaces")
                .filter(|found| found.interface_name == interface)
                .find_map(|found| found.address?.as_link_addr().copied())
                .expect("an interface with this name");
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol);
            let socket = socket.expect("root can open packet sockets");
            bind(socket.as_raw_fd(), &address).expect("the interface exists");
            socket
        };
        let socket = std::thread::scope(|scope| scope.spawn(open).join()).expect("a socket");
        Self { socket }
    }

    pub fn send(&self, frame: &[u8]) {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).expect("the kernel accepts the frame");
    }

    /// Sends `count` frames by repeating these in order, and returns the elapsed time. `pace` is the maximum number of
    /// frames per second.
    pub fn flood(&self, frames: &[Vec<u8>], count: usize, pace: Option<f64>) -> Duration {
        let slices: Vec<[IoSlice<'_>; 1]> =
            frames.iter().cycle().take(frames.len().max(BATCH)).map(|frame| [IoSlice::new(frame)]).collect();
        let mut headers = MultiHeaders::<LinkAddr>::preallocate(BATCH, None);
        let mut sent = 0;
        let start = Instant::now();
        while sent < count {
            let rest = slices.get(sent % slices.len()..).unwrap_or_default();
            let batch = rest.iter().take(BATCH.min(count - sent));
            let to = [None; BATCH];
            match sendmmsg(self.socket.as_raw_fd(), &mut headers, batch, to, [], MsgFlags::empty()) {
                Ok(taken) => sent += taken.count(),
                Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => std::thread::yield_now(),
                Err(error) => panic!("the kernel rejected a frame: {error}"),
            }
            if let Some(pace) = pace {
                let due = Duration::from_secs_f64(sent as f64 / pace);
                std::thread::sleep(due.saturating_sub(start.elapsed()));
            }
        }
        start.elapsed()
    }

    /// Reads all frames in a new thread, and passes each to `handle`.
    pub fn read(self, mut handle: impl FnMut(&[u8], Instant) + Send + 'static) -> Reading {
        // This is the buffer size that the sniffer requests.
        setsockopt(&self.socket, sockopt::RcvBuf, &(4 << 20)).expect("a buffer size");
        let timeout = TimeVal::new(0, 100_000);
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &timeout).expect("a timeout");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut buffer, mut frames) = (vec![0; 2048], 0);
            loop {
                match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    Ok(length) => {
                        frames += 1;
                        handle(buffer.get(..length).unwrap_or_default(), Instant::now());
                    }
                    Err(Errno::EAGAIN) if stopped.load(Ordering::Relaxed) => break,
                    Err(Errno::EAGAIN | Errno::EINTR) => {}
                    Err(error) => panic!("cannot read from a packet socket: {error}"),
                }
            }
            (frames, thread_time())
        });
        Reading { thread, stop }
    }

    /// Reads in a new thread, and sends the time of arrival of each frame that starts with `prefix`.
    pub fn arrivals(self, prefix: Vec<u8>) -> (Reading, Receiver<Instant>) {
        let (sender, arrivals) = channel();
        let reading = self.read(move |frame, now| {
            if frame.starts_with(&prefix) {
                let _ = sender.send(now);
            }
        });
        (reading, arrivals)
    }
}

/// A thread that reads frames from a packet socket.
pub struct Reading {
    thread: JoinHandle<(u64, Duration)>,
    stop: Arc<AtomicBool>,
}

impl Reading {
    /// Stops reading when no frames are left, and returns the number of frames and the CPU time.
    pub fn stop(self) -> (u64, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the reader did not panic")
    }
}

fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has this clock").into()
}
