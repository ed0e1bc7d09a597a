//! Clients on the bus of a host.

use core::future::poll_fn;
use core::pin::Pin;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_core::Stream as _;
use tokio::runtime::{Builder, Runtime};
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::{Actor1Proxy, Capture1Proxy, Dict};
use wakevirt_tests::bus::Bus;
use wakevirt_tests::network::frames::WAKE_ON_LAN;
use zbus::Variant;
use zbus::message::Type;
use zbus::{Connection, MatchRule, Message, MessageStream};

/// The time after which the benchmark fails if no signal arrives.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Receives the signals with one name, in the order in which the bus delivers them.
pub struct Subscriber {
    runtime: Runtime,
    stream: MessageStream,
}

impl Subscriber {
    /// Subscribes to signals with this interface and name, from any sender.
    pub fn new(bus: &Bus<'_>, interface: &'static str, signal: &'static str) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let stream = runtime.block_on(async {
            let connection = bus.connect().await;
            let rule = MatchRule::builder().msg_type(Type::Signal).interface(interface).member(signal);
            let rule = rule.build().expect("a match rule");
            let stream = MessageStream::for_match_rule(rule, &connection, None).await;
            stream.expect("a subscription")
        });
        Self { runtime, stream }
    }

    /// Waits for the next signal.
    pub fn next(&mut self) -> Message {
        self.next_within(TIMEOUT).expect("a signal before the timeout")
    }

    /// Waits for the next signal for at most this time.
    pub fn next_within(&mut self, timeout: Duration) -> Option<Message> {
        let stream = &mut self.stream;
        let next = poll_fn(|context| Pin::new(&mut *stream).poll_next(context));
        let next = self.runtime.block_on(async { tokio::time::timeout(timeout, next).await });
        Some(next.ok()?.expect("a connection").expect("a message"))
    }

    /// Waits for the `WakeFinished` for a MAC address, and returns its outcome and its details.
    pub fn wait_for_wake(&mut self, mac: &str) -> (String, Dict) {
        loop {
            let (woken, outcome, details) = finished(&self.next());
            if woken == mac {
                return (outcome, details);
            }
        }
    }
}

/// The MAC address, the outcome and the details of a `WakeFinished`.
pub fn finished(message: &Message) -> (String, String, Dict) {
    let body = message.body().deserialize::<(String, String, String, Dict)>();
    let (mac, _, outcome, details) = body.expect("the body of a WakeFinished");
    (mac, outcome, details)
}

/// A signal between two connections that no service receives: a baseline for each time that includes the bus. It is as
/// long as a `MagicPacket`.
pub struct LoneSignal {
    subscriber: Subscriber,
    sender: Connection,
}

impl LoneSignal {
    const INTERFACE: &'static str = "org.wakevirt.Bench1";
    const SIGNAL: &'static str = "Lone";

    pub fn new(bus: &Bus<'_>) -> Self {
        let subscriber = Subscriber::new(bus, Self::INTERFACE, Self::SIGNAL);
        let sender = subscriber.runtime.block_on(bus.connect());
        Self { subscriber, sender }
    }

    /// Sends the signal, and returns the time until it arrives.
    pub fn measure(&mut self) -> Duration {
        let text = |text: &'static str| Variant::from(text);
        let details = HashMap::from([
            ("epoch", text("0123456789abcdef0123456789abcdef")),
            ("interface", text("lan0")),
            ("transport", text("ethernet")),
            ("source-mac", text("02:00:00:00:00:07")),
            ("ethertype", Variant::from(WAKE_ON_LAN)),
            ("boottime", Variant::from(1_u64)),
        ]);
        let body = (1_u64, "52:54:00:00:00:01", details);
        let start = Instant::now();
        let send = self.sender.emit_signal(
            None::<&str>,
            "/org/wakevirt/Bench1",
            Self::INTERFACE,
            Self::SIGNAL,
            &body,
        );
        self.subscriber.runtime.block_on(send).expect("the bus accepts the signal");
        let _ = self.subscriber.next();
        start.elapsed()
    }
}

/// Capture's counters of lost packets.
#[derive(Debug, Clone, Copy)]
pub struct Counters {
    /// Packets that the kernel dropped before the sniffer received them.
    pub kernel_dropped: u64,
    /// Packets that were dropped between the sniffer and the announcer.
    pub channel_dropped: u64,
}

/// Waits until the sniffer has reported its counters, which it does every second.
pub fn wait_for_report() {
    std::thread::sleep(Duration::from_millis(1200));
}

/// Calls the actor's methods.
pub struct ActorClient {
    runtime: Runtime,
    actor: Actor1Proxy<'static>,
}

impl ActorClient {
    /// Connects to the bus.
    pub fn open(bus: &Bus<'_>) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let actor = runtime.block_on(async { Actor1Proxy::new(&bus.connect().await).await });
        Self { runtime, actor: actor.expect("the actor is on the bus") }
    }

    /// Whether a packet for this MAC address would wake a domain.
    pub fn would_wake(&self, mac: &str) -> bool {
        self.runtime.block_on(self.actor.explain(mac, HashMap::new())).expect("the actor replies").0
    }
}

/// Calls capture's methods.
pub struct CaptureClient {
    runtime: Runtime,
    capture: Capture1Proxy<'static>,
}

impl CaptureClient {
    /// Connects to the bus. The connection has no subscription, because signals that are not read would block the
    /// replies.
    pub fn open(bus: &Bus<'_>) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let capture = runtime.block_on(async { Capture1Proxy::new(&bus.connect().await).await });
        Self { runtime, capture: capture.expect("capture is on the bus") }
    }

    /// Sets the interest, as the actor does with the addresses of its domains.
    pub fn set_interest(&self, addresses: impl Iterator<Item = MacAddr>) {
        let addresses: Vec<MacAddr> = addresses.collect();
        let addresses: Vec<&[u8]> = addresses.iter().map(MacAddr::as_slice).collect();
        self.runtime.block_on(self.capture.set_interest(&addresses)).expect("capture accepts the addresses");
    }

    pub fn counters(&self) -> Counters {
        let read = async {
            Ok::<_, zbus::Error>(Counters {
                kernel_dropped: self.capture.kernel_dropped().await?,
                channel_dropped: self.capture.channel_dropped().await?,
            })
        };
        self.runtime.block_on(read).expect("capture replies")
    }
}
