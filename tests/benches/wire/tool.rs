//! A tool that works like other implementations of Wake-on-LAN for libvirt: for each packet, it lists all domains,
//! searches the XML of each for the address, and starts the domain that has it.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use virt::connect::Connect;
use wakevirt_protocol::MacAddr;
use wakevirt_tests::network::frames::WAKE_ON_LAN;

use crate::packets::{PacketSocket, Reading};

/// The running tool.
pub struct Tool {
    wire: PacketSocket,
    reading: Reading,
    started: Receiver<Instant>,
}

impl Tool {
    /// Starts the tool in a thread. It reads packets from `socket`; `wire` sends packets to it.
    pub fn start(socket: PacketSocket, wire: PacketSocket, libvirt: Connect) -> Self {
        let (sender, started) = channel();
        let reading = socket.read(move |frame, _| {
            let Some(mac) = address_in(frame) else { return };
            let wanted = format!("<mac address='{mac}'/>");
            for domain in libvirt.list_all_domains(0).expect("a list of domains") {
                let xml = domain.xml_desc(0).expect("a domain's XML");
                if xml.contains(&wanted) {
                    domain.create().expect("a domain that starts");
                    let _ = sender.send(Instant::now());
                    // Reading the other domains would delay the next measurement.
                    return;
                }
            }
        });
        Self { wire, reading, started }
    }

    /// Sends a packet, and returns the time until the tool has started the domain.
    pub fn wake(&self, frame: &[u8]) -> Duration {
        let start = Instant::now();
        self.wire.send(frame);
        self.started.recv().expect("the tool is running") - start
    }

    pub fn stop(self) {
        let _ = self.reading.stop();
    }
}

/// The target address in a Wake-on-LAN frame.
fn address_in(frame: &[u8]) -> Option<MacAddr> {
    if frame.get(12..14)? != WAKE_ON_LAN.to_be_bytes() {
        return None;
    }
    Some(MacAddr::new(frame.get(20..26)?.try_into().ok()?))
}
