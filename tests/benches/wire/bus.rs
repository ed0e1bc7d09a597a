//! Clients on the bus of a host.

use core::future::poll_fn;
use core::pin::Pin;
use std::time::Duration;

use futures_core::Stream as _;
use tokio::runtime::{Builder, Runtime};
use wakevirt_protocol::MacAddr;
use wakevirt_protocol::bus::{Capture1Proxy, Dict};
use wakevirt_tests::bus::Bus;
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
        let stream = &mut self.stream;
        let next = poll_fn(|context| Pin::new(&mut *stream).poll_next(context));
        let next = self.runtime.block_on(async { tokio::time::timeout(TIMEOUT, next).await });
        next.expect("a signal before the timeout").expect("a connection").expect("a message")
    }

    /// Emits a signal from another connection, with the body of a `MagicPacket`.
    pub fn send(&self, from: &Connection, interface: &str, signal: &str, body: &(u64, String, Dict)) {
        let path = "/org/wakevirt/Bench";
        let sent = self.runtime.block_on(from.emit_signal(None::<&str>, path, interface, signal, body));
        sent.expect("the bus accepts the signal");
    }

    /// Opens another connection to the bus.
    pub fn connect(&self, bus: &Bus<'_>) -> Connection {
        self.runtime.block_on(bus.connect())
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
        let addresses: Vec<Vec<u8>> = addresses.map(|address| address.octets().to_vec()).collect();
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
