//! A subscriber on the bus of a host, in this process.

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

/// How long a signal may take before the benchmark gives up.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Hears the signals of one name, in the order in which they come.
pub struct Subscriber {
    runtime: Runtime,
    stream: MessageStream,
}

impl Subscriber {
    /// Listens from now on to signals of this interface and name, whoever sends them.
    pub fn new(bus: &Bus<'_>, interface: &'static str, signal: &'static str) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let stream = runtime.block_on(async {
            let connection = bus.connect().await;
            let rule = MatchRule::builder().msg_type(Type::Signal).interface(interface).member(signal);
            let rule = rule.build().expect("a rule");
            let stream = MessageStream::for_match_rule(rule, &connection, None).await;
            stream.expect("a subscription")
        });
        Self { runtime, stream }
    }

    /// The next signal.
    pub fn next(&mut self) -> Message {
        let stream = &mut self.stream;
        let next = poll_fn(|context| Pin::new(&mut *stream).poll_next(context));
        let next = self.runtime.block_on(async { tokio::time::timeout(TIMEOUT, next).await });
        next.expect("a signal in time").expect("a bus that lives").expect("a message")
    }

    /// Sends this `MagicPacket` on another connection to the same bus, as any program might.
    pub fn repeat(&self, from: &Connection, interface: &str, signal: &str, body: &(u64, String, Dict)) {
        let path = "/org/wakevirt/Bench";
        let sent = self.runtime.block_on(from.emit_signal(None::<&str>, path, interface, signal, body));
        sent.expect("the bus takes the signal");
    }

    /// Another connection to the same bus.
    pub fn another(&self, bus: &Bus<'_>) -> Connection {
        self.runtime.block_on(bus.connect())
    }
}

/// What capture counts as lost.
#[derive(Debug, Clone, Copy)]
pub struct Counters {
    /// What the kernel dropped before the sniffer.
    pub kernel_dropped: u64,
    /// What was dropped before the announcer.
    pub channel_dropped: u64,
}

/// Asks capture what it has counted.
pub struct Accounts {
    runtime: Runtime,
    capture: Capture1Proxy<'static>,
}

impl Accounts {
    /// Connects. It does not listen to signals: those that nobody takes would block the replies.
    pub fn open(bus: &Bus<'_>) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let capture = runtime.block_on(async { Capture1Proxy::new(&bus.connect().await).await });
        Self { runtime, capture: capture.expect("capture is on the bus") }
    }

    /// Names addresses of interest, as the actor names those of its domains.
    pub fn name_interest(&self, addresses: impl Iterator<Item = MacAddr>) {
        let addresses: Vec<Vec<u8>> = addresses.map(|address| address.octets().to_vec()).collect();
        self.runtime.block_on(self.capture.set_interest(&addresses)).expect("capture takes them");
    }

    /// What capture has counted.
    pub fn read(&self) -> Counters {
        let read = async {
            Ok::<_, zbus::Error>(Counters {
                kernel_dropped: self.capture.kernel_dropped().await?,
                channel_dropped: self.capture.channel_dropped().await?,
            })
        };
        self.runtime.block_on(read).expect("capture answers")
    }
}
