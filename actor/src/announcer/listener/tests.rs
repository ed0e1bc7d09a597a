use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use wakevirt_protocol::bus::{CAPTURE_INTERFACE, CAPTURE_PATH, MAGIC_PACKET};
use wakevirt_service::bus::Address;
use zbus::Variant;
use zbus::message::Type;

use super::filter::tests::{OWNER, filter_for, serial};
use super::*;

/// The capacity of the service's packet queue.
const CAPACITY: usize = 1024;
const MAC: &str = "52:54:00:00:00:01";

struct Fixture {
    packets: mpsc::Sender<NewPacket>,
    received: mpsc::Receiver<NewPacket>,
    owner: watch::Sender<Option<OwnedUniqueName>>,
    caught_up: watch::Sender<bool>,
    lost: LostPackets,
}

impl Fixture {
    fn new(capacity: usize) -> Self {
        let (packets, received) = mpsc::channel(capacity);
        let (owner, caught_up) = (watch::Sender::new(None), watch::Sender::new(false));
        Self { packets, received, owner, caught_up, lost: LostPackets::default() }
    }

    fn output(&self) -> Output<'_> {
        let Self { packets, owner, caught_up, .. } = self;
        Output { packets, owner, caught_up, lost: self.lost.clone() }
    }

    /// A listener that has called `Replay` with serial 7.
    fn replaying<'a>(&'a self, merge: &'a mut Merge) -> PacketListener<'a> {
        merge.start_replay();
        let mut listener = PacketListener::new(filter_for(Some(Some(OWNER))), self.output(), merge);
        listener.filter.expect_replay(serial(7));
        let permits = self.packets.try_reserve_many(self.packets.capacity().min(REPLAY_PAGE)).unwrap();
        listener.replay = Replay::Requested(permits, Instant::now() + REPLAY_TIMEOUT);
        listener
    }

    fn sequences(&mut self) -> Vec<u64> {
        std::iter::from_fn(|| self.received.try_recv().ok()).map(|new| new.packet.sequence).collect()
    }
}

type Body<'a> = (u64, &'a str, HashMap<&'a str, Variant<'a>>);

fn body(sequence: u64) -> Body<'static> {
    (sequence, MAC, HashMap::from([("epoch", Variant::from("e"))]))
}

fn announced(sequence: u64) -> Message {
    let signal = Message::signal(CAPTURE_PATH, CAPTURE_INTERFACE, MAGIC_PACKET);
    signal.sender(OWNER).build(&body(sequence)).unwrap()
}

fn reply(more: bool, sequences: core::ops::RangeInclusive<u64>) -> Message {
    let call = Message::method_call("/", "Any").serial(serial(7)).build(&()).unwrap();
    let packets: Vec<Body<'_>> = sequences.map(body).collect();
    Message::method_return(&call.header()).build(&("e", false, more, packets)).unwrap()
}

#[tokio::test]
async fn passes_on_announced_packets_before_the_reply() {
    let mut fixture = Fixture::new(CAPACITY);
    let mut merge = Merge::default();
    let mut listener = fixture.replaying(&mut merge);
    listener.handle(&announced(9)).unwrap();
    listener.handle(&announced(10)).unwrap();
    assert!(!*fixture.caught_up.borrow());
    drop(listener);
    assert_eq!(fixture.sequences(), [9, 10]);
}

#[tokio::test]
async fn requests_pages_one_after_another() {
    let mut fixture = Fixture::new(CAPACITY);
    let mut merge = Merge::default();
    let mut listener = fixture.replaying(&mut merge);
    listener.handle(&reply(true, 1..=128)).unwrap();
    assert!(matches!(listener.replay, Replay::Due));
    assert!(!*fixture.caught_up.borrow());
    drop(listener);
    assert_eq!(fixture.sequences(), (1..=128).collect::<Vec<_>>());
    let mut listener = fixture.replaying(&mut merge);
    listener.handle(&reply(false, 129..=130)).unwrap();
    assert!(matches!(listener.replay, Replay::Idle));
    assert!(*fixture.caught_up.borrow());
    drop(listener);
    assert_eq!(fixture.sequences(), [129, 130]);
}

#[tokio::test]
async fn retries_a_replay_without_a_reply() {
    let fixture = Fixture::new(CAPACITY);
    let mut merge = Merge::default();
    let mut listener = fixture.replaying(&mut merge);
    listener.handle_replay_timer();
    assert!(matches!(listener.replay, Replay::Later(_)));
    assert!(*fixture.caught_up.borrow(), "nothing waits for the replay");
    assert_eq!(fixture.packets.capacity(), CAPACITY, "the permits are returned");
    // A late reply is ignored.
    listener.handle(&reply(false, 1..=2)).unwrap();
    assert!(matches!(listener.replay, Replay::Later(_)));
    listener.handle_replay_timer();
    assert!(matches!(listener.replay, Replay::Due));
}

#[tokio::test]
async fn requests_packets_that_did_not_fit_into_the_queue_again() {
    let mut fixture = Fixture::new(2);
    let mut merge = Merge::default();
    let mut listener = PacketListener::new(filter_for(Some(Some(OWNER))), fixture.output(), &mut merge);
    for sequence in 1..=4 {
        listener.handle(&announced(sequence)).unwrap();
    }
    assert!(matches!(listener.replay, Replay::Due));
    drop(listener);
    assert_eq!(fixture.sequences(), [1, 2]);
    let mut listener = fixture.replaying(&mut merge);
    listener.handle(&reply(false, 3..=4)).unwrap();
    assert!(matches!(listener.replay, Replay::Idle));
    drop(listener);
    assert_eq!(fixture.sequences(), [3, 4]);
    assert_eq!(fixture.lost.count(), 0);
}

#[tokio::test]
async fn counts_packets_that_the_announcer_no_longer_stores() {
    let fixture = Fixture::new(CAPACITY);
    let mut merge = Merge::default();
    let mut listener = fixture.replaying(&mut merge);
    listener.handle(&reply(false, 5..=6)).unwrap();
    assert_eq!(fixture.lost.count(), 4);
}

/// A private bus.
struct Bus {
    daemon: Child,
    address: Address,
    _directory: tempfile::TempDir,
}

impl Bus {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = format!("unix:path={}", directory.path().join("bus").display());
        let mut daemon = Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--nopidfile", "--nosyslog", "--print-address=1"])
            .arg(format!("--address={socket}"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { daemon, address: address.trim().parse().unwrap(), _directory: directory }
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }
}

/// An announcer that stores `count` packets and replays them in pages.
async fn announce(connection: &Connection, count: u64) {
    let mut calls = MessageStream::from(connection);
    connection.request_name(CAPTURE_NAME).await.unwrap();
    loop {
        let call = poll_fn(|context| Pin::new(&mut calls).poll_next(context)).await.unwrap().unwrap();
        if call.message_type() != Type::MethodCall {
            continue;
        }
        let (_, after) = call.body().deserialize::<(String, u64)>().unwrap();
        let page = u64::try_from(REPLAY_PAGE).unwrap();
        let last = count.min(after + page);
        let packets: Vec<Body<'_>> = (after + 1..=last).map(body).collect();
        connection.reply(&call.header(), &("e", false, last < count, packets)).await.unwrap();
    }
}

#[tokio::test]
async fn replays_more_packets_than_fit_into_the_queue() {
    const COUNT: u64 = 3000;
    let bus = Bus::start();
    let announcer =
        zbus::connection::Builder::address(bus.address.to_string().as_str()).build().await.unwrap();
    let connection = bus.address.connect(None).await.unwrap();
    let mut fixture = Fixture::new(CAPACITY);
    let mut merge = Merge::default();
    let output = Output {
        packets: &fixture.packets,
        owner: &fixture.owner,
        caught_up: &fixture.caught_up,
        lost: fixture.lost.clone(),
    };
    let mut caught_up = fixture.caught_up.subscribe();
    let receive = async {
        // The queue fills up before the first packet is received.
        while fixture.packets.capacity() >= REPLAY_PAGE {
            tokio::task::yield_now().await;
        }
        for sequence in 1..=COUNT {
            assert_eq!(fixture.received.recv().await.unwrap().packet.sequence, sequence);
        }
        caught_up.wait_for(|it| *it).await.unwrap();
    };
    tokio::select! {
        () = receive => {}
        result = listen(&connection, output, &mut merge) => panic!("{result:?}"),
        () = announce(&announcer, COUNT) => {}
    }
    assert_eq!(fixture.lost.count(), 0);
}
