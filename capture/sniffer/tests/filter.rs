//! The kernel's filter passes all frames that the parser accepts, and few others; and the ring delivers the same frames
//! as recvmsg(2). All receive the same frames on a real interface: valid frames, and mutations of them.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "the test prints statistics, which --nocapture shows")]

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, CpuSet, sched_getcpu, sched_setaffinity, unshare};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, setsockopt, socket, sockopt,
};
use nix::unistd::Pid;
use wakevirt_protocol::frame::{Ports, SEARCHED};
use wakevirt_sniffer::delivery;
use wakevirt_sniffer::ffi::{self, Envelope, Ring};
use wakevirt_sniffer::filter::{Direction, program};
use wakevirt_tests::network::frames::{ethernet, magic, tagged, udp4, udp6};
use wakevirt_tests::{privileged, wait};

const MAC: &str = "52:54:00:01:02:03";
const SOURCE: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The address in the last frame of each batch.
const LAST_MAC: &str = "52:54:00:ff:ff:ff";

/// The number of batches, and the number of frames in each. A batch fits in the kernel's queue
/// (net.core.netdev_max_backlog) and in the buffers of the sockets, which are read after each batch.
const ROUNDS: usize = 2500;
const BATCH: usize = 80;

/// Frames with their metadata and their payloads.
type Frames<Metadata> = Vec<(Metadata, Vec<u8>)>;

/// A delivered frame: its metadata, formatted for comparison, and its payload.
type Delivered = (String, Vec<u8>);

#[test]
fn passes_all_accepted_frames_and_few_others() {
    privileged!();
    // The network namespace belongs to the thread, and is removed with it.
    thread::spawn(compare_with_the_parser).join().unwrap();
}

#[test]
fn the_ring_delivers_the_same_as_recvmsg() {
    privileged!();
    thread::spawn(compare_with_the_ring).join().unwrap();
}

fn compare_with_the_ring() {
    let mut wire = Wire::new();
    let socket = receiving_socket(None);
    let (_ring_socket, mut ring) = receiving_ring();
    let long = wire.frames.iter().map(|frame| [frame.as_slice(), &[0; 2000]].concat()).collect::<Vec<_>>();
    wire.frames.extend(long);
    let mut frames: Vec<Delivered> = Vec::new();
    for _ in 0..ROUNDS / 10 {
        let by_recvmsg =
            || deliveries(&socket).into_iter().map(comparable).filter(is_from_the_test).collect();
        let (received, from_the_ring) = wire.exchange(by_recvmsg, || from_ring(&mut ring));
        assert_eq!(received.len(), from_the_ring.len());
        for (one, other) in received.iter().zip(&from_the_ring) {
            assert!(one == other, "by recvmsg: {one:02x?}\nthrough the ring: {other:02x?}");
        }
        frames.extend(received);
    }
    assert!(frames.len() >= ROUNDS / 10 * BATCH * 9 / 10, "only {} frames arrived", frames.len());
    let count = |text: &str| frames.iter().filter(|(envelope, _)| envelope.contains(text)).count();
    let counts =
        [count("truncated: true"), count("truncated: false"), count("tag: None"), count("tag: Some")];
    assert!(counts.iter().all(|count| *count > 1000), "{counts:?}");
}

fn compare_with_the_parser() {
    let mut wire = Wire::new();
    let ports = Ports::default();
    let unfiltered = receiving_socket(None);
    let filtered = receiving_socket(Some(ports.as_slice()));

    let (mut seen, mut accepted, mut passed) = (0, 0, 0);
    for _ in 0..ROUNDS {
        let (all_frames, through) = wire.exchange(|| deliveries(&unfiltered), || deliveries(&filtered));
        let through: HashSet<Delivered> = through.into_iter().map(comparable).collect();
        for (envelope, payload) in all_frames {
            seen += 1;
            let parsed = delivery::frame(&envelope, &payload, &ports).map(Iterator::collect::<Vec<_>>);
            if let Ok(parsed) = parsed {
                accepted += 1;
                let delivered = comparable((envelope, payload));
                assert!(
                    through.contains(&delivered),
                    "the filter dropped an accepted frame: {parsed:?}\n{delivered:02x?}"
                );
            }
        }
        passed += through.len();
    }
    println!("{seen} frames: {accepted} accepted, {passed} distinct ones passed the filter");
    // Packets of other tests can fill the kernel's queue, which all network namespaces share.
    assert!(seen >= ROUNDS * BATCH * 9 / 10, "only {seen} of {} frames arrived", ROUNDS * BATCH);
    assert!(
        accepted > seen / 20,
        "only {accepted} of {seen} frames are accepted, too few for a meaningful test"
    );
    assert!(passed < seen * 3 / 4, "the filter drops too few frames: {passed} of {seen} passed");
}

/// The sending end of a pair of interfaces, in a network namespace that belongs to the thread.
struct Wire {
    socket: OwnedFd,
    address: LinkAddr,
    frames: Vec<Vec<u8>>,
    random: fastrand::Rng,
    /// The number of the current batch.
    batch: u32,
}

impl Wire {
    /// Creates the interfaces. Binds the thread to a CPU, because the kernel delivers the frames of one CPU in the order
    /// in which they were sent.
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        for line in [
            "link add name sender mtu 9000 type veth peer name receiver mtu 9000",
            "link set sender up",
            "link set receiver up",
        ] {
            assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success(), "ip {line}");
        }
        let mut cpu = CpuSet::new();
        cpu.set(sched_getcpu().unwrap()).unwrap();
        sched_setaffinity(Pid::from_raw(0), &cpu).unwrap();
        let (socket, address) = sending_socket("sender");
        Self { socket, address, frames: frames(), random: fastrand::Rng::with_seed(0x0842), batch: 0 }
    }

    fn send(&self, frame: &[u8]) {
        sendto(self.socket.as_raw_fd(), frame, &self.address, MsgFlags::empty()).unwrap();
    }

    /// Sends a batch of frames, and returns the frames that both receivers return until they have received the whole
    /// batch.
    ///
    /// A busy kernel delivers frames later. Therefore, each batch ends with a frame that both must receive, and that is
    /// not part of the result.
    fn exchange<A, B>(
        &mut self,
        mut first: impl FnMut() -> Frames<A>,
        mut second: impl FnMut() -> Frames<B>,
    ) -> (Frames<A>, Frames<B>) {
        for _ in 0..BATCH {
            let frame = mutated(self.random.choice(&self.frames).unwrap(), &mut self.random);
            self.send(&frame);
        }
        self.batch += 1;
        let last = magic(LAST_MAC, &self.batch.to_be_bytes());
        let (mut from_first, mut from_second) = (Vec::new(), Vec::new());
        wait::until_true("the last frame of the batch", || {
            // It can be lost too.
            self.send(&ethernet([0xff; 6], SOURCE, 0x0842, &last));
            from_first.extend(first());
            from_second.extend(second());
            from_first.iter().any(|(_, payload)| *payload == last)
                && from_second.iter().any(|(_, payload)| *payload == last)
        });
        // Copies of an earlier one can arrive late.
        let end = magic(LAST_MAC, &[]);
        from_first.retain(|(_, payload)| !payload.starts_with(&end));
        from_second.retain(|(_, payload)| !payload.starts_with(&end));
        (from_first, from_second)
    }
}

/// A packet socket for sending frames, and the address of the interface.
fn sending_socket(interface: &str) -> (OwnedFd, LinkAddr) {
    let address = nix::ifaddrs::getifaddrs()
        .unwrap()
        .filter(|address| address.interface_name == interface)
        .find_map(|address| address.address?.as_link_addr().copied())
        .unwrap();
    (socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap(), address)
}

/// A packet socket with the same options as the sniffer's, with or without the filter.
fn receiving_socket(ports: Option<&[u16]>) -> OwnedFd {
    let socket = ffi::packet_socket().unwrap();
    if let Some(ports) = ports {
        ffi::attach_filter(&socket, &program(ports, Direction::Any).unwrap()).unwrap();
    }
    ffi::set_int_option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1).unwrap();
    ffi::set_int_option(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1).unwrap();
    setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20)).unwrap();
    ffi::bind_packet_socket(&socket, 0).unwrap();
    socket
}

/// Receives all frames that are pending on a socket.
fn deliveries(socket: &OwnedFd) -> Frames<Envelope> {
    let mut buffer = [0; SEARCHED];
    let mut all = Vec::new();
    while let Ok(envelope) = ffi::receive(socket, &mut buffer) {
        let payload = buffer[..envelope.length].to_vec();
        all.push((envelope, payload));
    }
    all
}

/// A packet socket with a ring, like the sniffer's, but without a filter.
fn receiving_ring() -> (OwnedFd, Ring) {
    let socket = ffi::packet_socket().unwrap();
    ffi::set_int_option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1).unwrap();
    let ring = Ring::new(&socket, 1 << 20).unwrap();
    ffi::bind_packet_socket(&socket, 0).unwrap();
    (socket, ring)
}

/// Receives all frames that are in the ring.
fn from_ring(ring: &mut Ring) -> Vec<Delivered> {
    let receive = || ring.receive(|envelope, payload| (format!("{envelope:?}"), payload.to_vec()));
    std::iter::from_fn(receive).filter(is_from_the_test).collect()
}

/// Whether the test sent the frame. The kernel also sends frames, for IPv6, perhaps before both sockets are open.
fn is_from_the_test((envelope, _): &Delivered) -> bool {
    envelope.contains(&format!("address: {:?}", [&SOURCE[..], &[0, 0]].concat()))
}

fn comparable((envelope, payload): (Envelope, Vec<u8>)) -> Delivered {
    (format!("{envelope:?}"), payload)
}

/// Frames of all accepted kinds, and some frames that are almost valid.
fn frames() -> Vec<Vec<u8>> {
    let plain = magic(MAC, &[]);
    let late = [&[0x11; 40][..], &magic(MAC, b"secret")].concat();
    let mut payloads = Vec::new();
    for magic in [&plain, &late] {
        payloads.extend([(0x0842, magic.clone()), (0x4242, magic.clone())]);
        for port in [0, 7, 9, 40_000] {
            let v4 = udp4(Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::BROADCAST, port, magic);
            let v6 = udp6(Ipv6Addr::LOCALHOST, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), port, magic);
            payloads.push((0x0800, with_options(&v4)));
            payloads.push((0x0800, v4));
            for kinds in [&[][..], &[0], &[43, 60], &[44], &[51, 0], &[0, 43, 44, 60], &[0, 60, 60, 60, 60]] {
                payloads.push((0x86dd, with_extension_headers(&v6, kinds)));
            }
        }
    }
    let mut frames = Vec::new();
    for (ethertype, payload) in payloads {
        let untagged = ethernet([0xff; 6], SOURCE, ethertype, &payload);
        let once = tagged(&untagged, 0x8100, 10);
        let twice = tagged(&once, 0x88a8, 20);
        frames.extend([tagged(&untagged, 0x9100, 30), tagged(&twice, 0x8100, 40), untagged, once, twice]);
    }
    frames
}

/// Adds eight bytes of options (no operation, RFC 791) to an IPv4 packet.
fn with_options(packet: &[u8]) -> Vec<u8> {
    let mut packet = [&packet[..20], &[1; 8], &packet[20..]].concat();
    packet[0] = 0x47;
    let length = u16::try_from(packet.len()).unwrap().to_be_bytes();
    packet[2..4].copy_from_slice(&length);
    packet
}

/// Adds extension headers of these kinds, of various lengths, to an IPv6 packet.
fn with_extension_headers(packet: &[u8], kinds: &[u8]) -> Vec<u8> {
    let mut headers = Vec::new();
    for (n, kind) in kinds.iter().enumerate() {
        let next = kinds.get(n + 1).copied().unwrap_or(17);
        let length = match kind {
            44 => 0,
            51 => 4,
            _ => u8::try_from(n % 2).unwrap(),
        };
        let size = if *kind == 51 { (usize::from(length) + 2) * 4 } else { (usize::from(length) + 1) * 8 };
        headers.extend([next, length]);
        headers.extend(vec![0; size - 2]);
    }
    let mut packet = [&packet[..40], &headers, &packet[40..]].concat();
    let length = u16::try_from(packet.len() - 40).unwrap().to_be_bytes();
    packet[4..6].copy_from_slice(&length);
    if let Some(first) = kinds.first() {
        packet[6] = *first;
    }
    packet
}

/// Returns the frame unchanged, or with some bytes changed, removed or inserted, mostly in its headers.
fn mutated(frame: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for _ in 0..random.usize(0..3) {
        let headers = frame.len().min(if random.bool() { 40 } else { 150 });
        let at = random.usize(12..headers);
        match random.u8(0..6) {
            0 => frame[at] ^= 1 << random.u8(0..8),
            1 => frame[at] = random.u8(..),
            2 => frame[at] = *random.choice([0, 6, 17, 43, 44, 51, 60, 0xff].iter()).unwrap(),
            3 => frame.truncate(random.usize(60..=frame.len().max(61)).min(frame.len())),
            4 => frame.insert(at, random.u8(..)),
            _ => {
                frame.remove(at);
            }
        }
    }
    frame
}
