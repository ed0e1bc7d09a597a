use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use wakevirt_protocol::bus::{CAPTURE_INTERFACE, CAPTURE_PATH, MAGIC_PACKET};
use wakevirt_service::bus::Address;
use zbus::Variant;
use zbus::message::Type;

use super::filter::tests::{OWNER, serial, subscription};
use super::*;

/// As many as may wait in the service.
const ROOM: usize = 1024;
const MAC: &str = "52:54:00:00:00:01";

struct Bench {
    packets: mpsc::Sender<NewPacket>,
    taken: mpsc::Receiver<NewPacket>,
    owner: watch::Sender<Option<OwnedUniqueName>>,
    caught_up: watch::Sender<bool>,
    lost: LostPackets,
}

impl Bench {
    fn new(room: usize) -> Self {
        let (packets, taken) = mpsc::channel(room);
        let (owner, caught_up) = (watch::Sender::new(None), watch::Sender::new(false));
        Self { packets, taken, owner, caught_up, lost: LostPackets::default() }
    }

    fn outlets(&self) -> Outlets<'_> {
        let Self { packets, owner, caught_up, .. } = self;
        Outlets { packets, owner, caught_up, lost: self.lost.clone() }
    }

    /// One that has asked for a replay, by a call with the serial 7.
    fn asking<'a>(&'a self, merge: &'a mut Merge) -> Listener<'a> {
        merge.ask();
        let mut listener = Listener::new(subscription(Some(Some(OWNER))), self.outlets(), merge);
        listener.subscription.expect_replay(serial(7));
        let room = self.packets.try_reserve_many(self.packets.capacity().min(REPLAY_PAGE)).unwrap();
        listener.replay = Replay::Asked(room, Instant::now() + REPLAY_TIMEOUT);
        listener
    }

    fn sequences(&mut self) -> Vec<u64> {
        std::iter::from_fn(|| self.taken.try_recv().ok()).map(|taken| taken.packet.sequence).collect()
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
async fn what_is_announced_does_not_wait_for_the_answer() {
    let mut bench = Bench::new(ROOM);
    let mut merge = Merge::default();
    let mut listener = bench.asking(&mut merge);
    listener.handle(&announced(9)).unwrap();
    listener.handle(&announced(10)).unwrap();
    assert!(!*bench.caught_up.borrow());
    drop(listener);
    assert_eq!(bench.sequences(), [9, 10]);
}

#[tokio::test]
async fn page_after_page_is_asked_for() {
    let mut bench = Bench::new(ROOM);
    let mut merge = Merge::default();
    let mut listener = bench.asking(&mut merge);
    listener.handle(&reply(true, 1..=128)).unwrap();
    assert!(matches!(listener.replay, Replay::Due));
    assert!(!*bench.caught_up.borrow());
    drop(listener);
    assert_eq!(bench.sequences(), (1..=128).collect::<Vec<_>>());
    let mut listener = bench.asking(&mut merge);
    listener.handle(&reply(false, 129..=130)).unwrap();
    assert!(matches!(listener.replay, Replay::Idle));
    assert!(*bench.caught_up.borrow());
    drop(listener);
    assert_eq!(bench.sequences(), [129, 130]);
}

#[tokio::test]
async fn one_that_does_not_answer_is_asked_again_later() {
    let bench = Bench::new(ROOM);
    let mut merge = Merge::default();
    let mut listener = bench.asking(&mut merge);
    listener.replay_timed_out();
    assert!(matches!(listener.replay, Replay::Later(_)));
    assert!(*bench.caught_up.borrow(), "nobody waits for it any more");
    assert_eq!(bench.packets.capacity(), ROOM, "its room is free");
    // What it says afterwards is no answer.
    listener.handle(&reply(false, 1..=2)).unwrap();
    assert!(matches!(listener.replay, Replay::Later(_)));
    listener.replay_timed_out();
    assert!(matches!(listener.replay, Replay::Due));
}

#[tokio::test]
async fn what_finds_no_room_is_asked_for_again() {
    let mut bench = Bench::new(2);
    let mut merge = Merge::default();
    let mut listener = Listener::new(subscription(Some(Some(OWNER))), bench.outlets(), &mut merge);
    for sequence in 1..=4 {
        listener.handle(&announced(sequence)).unwrap();
    }
    assert!(matches!(listener.replay, Replay::Due));
    drop(listener);
    assert_eq!(bench.sequences(), [1, 2]);
    let mut listener = bench.asking(&mut merge);
    listener.handle(&reply(false, 3..=4)).unwrap();
    assert!(matches!(listener.replay, Replay::Idle));
    drop(listener);
    assert_eq!(bench.sequences(), [3, 4]);
    assert_eq!(bench.lost.count(), 0);
}

#[tokio::test]
async fn what_nobody_remembers_is_counted() {
    let bench = Bench::new(ROOM);
    let mut merge = Merge::default();
    let mut listener = bench.asking(&mut merge);
    listener.handle(&reply(false, 5..=6)).unwrap();
    assert_eq!(bench.lost.count(), 4);
}

/// A bus of its own.
struct Bus {
    daemon: Child,
    address: Address,
    _folder: tempfile::TempDir,
}

impl Bus {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = format!("unix:path={}", folder.path().join("bus").display());
        let mut daemon = Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--nopidfile", "--nosyslog", "--print-address=1"])
            .arg(format!("--address={socket}"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { daemon, address: address.trim().parse().unwrap(), _folder: folder }
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }
}

/// An announcer that remembers so many packets, and replays them by pages.
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
async fn more_than_may_wait_are_all_replayed() {
    const COUNT: u64 = 3000;
    let bus = Bus::start();
    let announcer =
        zbus::connection::Builder::address(bus.address.to_string().as_str()).build().await.unwrap();
    let here = bus.address.connect(None).await.unwrap();
    let mut bench = Bench::new(ROOM);
    let mut merge = Merge::default();
    let outlets = Outlets {
        packets: &bench.packets,
        owner: &bench.owner,
        caught_up: &bench.caught_up,
        lost: bench.lost.clone(),
    };
    let mut caught_up = bench.caught_up.subscribe();
    let take = async {
        // All wait, as far as there is room, before the first one is decided about.
        while bench.packets.capacity() >= REPLAY_PAGE {
            tokio::task::yield_now().await;
        }
        for sequence in 1..=COUNT {
            assert_eq!(bench.taken.recv().await.unwrap().packet.sequence, sequence);
        }
        caught_up.wait_for(|it| *it).await.unwrap();
    };
    tokio::select! {
        () = take => {}
        ended = listen(&here, outlets, &mut merge) => panic!("{ended:?}"),
        () = announce(&announcer, COUNT) => {}
    }
    assert_eq!(bench.lost.count(), 0);
}
