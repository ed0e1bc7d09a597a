//! Packets that are sent once each, and the wakes that they cause.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wakevirt_protocol::bus::ACTOR_INTERFACE;
use wakevirt_tests::bus::Bus;

use crate::bus::{Subscriber, finished};
use crate::packets::PacketSocket;

/// The time after the last packet until which a wake counts as done.
const PATIENCE: Duration = Duration::from_secs(1);

/// A packet for a domain.
pub struct Packet {
    pub mac: String,
    pub frame: Vec<u8>,
}

/// Reads the results of wakes in a thread.
pub struct Results {
    started: Receiver<(String, Instant)>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Results {
    /// Subscribes to the results of the actor on this bus.
    pub fn new(bus: &Bus<'_>) -> Self {
        let mut subscriber = Subscriber::new(bus, ACTOR_INTERFACE, "WakeFinished");
        let (sender, started) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Some(message) = subscriber.next_within(Duration::from_millis(100)) else { continue };
                let now = Instant::now();
                let (mac, outcome, _) = finished(&message);
                if outcome == "started" {
                    let _ = sender.send((mac, now));
                }
            }
        });
        Self { started, stop, thread: Some(thread) }
    }

    /// Sends each packet once, at this interval, and returns the times in ms until the domains were started. Wakes that
    /// were not done in time are missing.
    pub fn of_all(&self, wire: &PacketSocket, packets: &[Packet], interval: Duration) -> Vec<f64> {
        let _ = self.started.try_iter().count();
        let mut sent = HashMap::new();
        let start = Instant::now();
        for (packet, number) in packets.iter().zip(0..) {
            std::thread::sleep((interval * number).saturating_sub(start.elapsed()));
            sent.insert(packet.mac.as_str(), Instant::now());
            wire.send(&packet.frame);
        }
        let deadline = Instant::now() + PATIENCE;
        let mut times = vec![];
        while times.len() < packets.len()
            && let Some((mac, started)) = self.next_until(deadline)
        {
            times.extend(sent.remove(mac.as_str()).map(|sent| (started - sent).as_secs_f64() * 1e3));
        }
        times
    }

    /// Sends packets for one domain. After each of them, `stop` stops the domain. Returns the same as [`Self::of_all`].
    pub fn of_one(
        &self,
        wire: &PacketSocket,
        packets: &[Packet],
        interval: Duration,
        stop: impl Fn(),
    ) -> Vec<f64> {
        let mut times = vec![];
        for packet in packets {
            let _ = self.started.try_iter().count();
            let sent = Instant::now();
            wire.send(&packet.frame);
            let next = sent + interval;
            let mut started = self.next_until(next);
            while started.as_ref().is_some_and(|(mac, _)| *mac != packet.mac) {
                started = self.next_until(next);
            }
            times.extend(started.map(|(_, started)| (started - sent).as_secs_f64() * 1e3));
            stop();
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        times
    }

    fn next_until(&self, deadline: Instant) -> Option<(String, Instant)> {
        self.started.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }
}

impl Drop for Results {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
