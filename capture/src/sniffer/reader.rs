//! What the sniffer says, and what the kernel says about interfaces, on the way into the ledger.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use wakevirt_protocol::sniffer::{Counters, FromSniffer, MAX_REASON, Mode, Request};
use wakevirt_protocol::{CapturedPacket, Stamp};
use wakevirt_service::clock;
use wakevirt_service::lifecycle::{self, Signal, Signals, Warning, Watchdog};
use wakevirt_service::logs::{Logs, plain, quoted};

use crate::config::Settings;
use crate::config::options::Options;
use crate::error::Error;
use crate::network::interfaces::Interfaces;
use crate::network::links::Interface;
use crate::packets::ledger::Verdict;
use crate::packets::log::PacketLog;
use crate::shared::Shared;
use crate::sniffer::child::Channel;

/// How long the sniffer may take to get ready, in seconds.
const READY: u64 = 10;

/// Waits until the sniffer is ready, and says how it hears.
pub async fn ready(channel: &Channel, request: Request) -> Result<Mode, Error> {
    let first = timeout(Duration::from_secs(READY), channel.next()).await;
    match first.map_err(|_| Error::SnifferSlow(READY))?? {
        Some(FromSniffer::Ready { mode, landlock }) => {
            report(request, mode, landlock);
            Ok(mode)
        }
        Some(FromSniffer::Failed { reason }) => Err(failed(&reason)),
        Some(FromSniffer::Packet(_) | FromSniffer::Counters(_)) => {
            Err(Error::Contradiction("something else before it was ready"))
        }
        None => Err(Error::SnifferGone(String::new())),
    }
}

fn report(request: Request, mode: Mode, landlock: bool) {
    match (mode, request) {
        (Mode::Raw, _) => tracing::info!("receiving on every interface through packet sockets"),
        (Mode::Udp, Request::Udp) => tracing::info!(
            "receiving UDP only, as mode = \"udp\" says: no frames of routers and etherwake, and no datagrams to other \
             ports or other hosts"
        ),
        (Mode::Udp, Request::Auto | Request::Raw) => tracing::warn!(
            "capture receives UDP only: the service lacks CAP_NET_RAW. Frames of routers and etherwake, and datagrams to \
             other ports or other hosts, are not received. To receive everything, start the service by its unit or as root"
        ),
    }
    if !landlock {
        tracing::warn!(
            "Landlock is not in force: the kernel lacks it or has it switched off, or a container's seccomp filter \
             refuses it. The sniffer runs without that layer of its sandbox, as require-landlock = false allows"
        );
    }
}

/// The sniffer's own words may be an enemy's, so nothing in them can forge a line. They are shown to their end,
/// where they say what to do.
fn failed(reason: &str) -> Error {
    Error::SnifferFailed(plain(reason, MAX_REASON).to_string())
}

/// Hears, for as long as the service runs.
pub struct Reader<'a> {
    channel: Channel,
    interfaces: Interfaces,
    shared: Arc<Shared>,
    settings: Settings,
    options: Options,
    logs: &'a Logs,
    /// The interface that each of the sniffer's sockets for outgoing frames is bound to.
    outgoing: HashMap<u8, u32>,
    /// Whether the sniffer has said anything since it was asked to.
    sniffer_lives: bool,
    lines: PacketLog,
}

impl<'a> Reader<'a> {
    /// Begins with the interfaces that there are.
    pub fn new(
        channel: Channel,
        interfaces: Interfaces,
        shared: Arc<Shared>,
        settings: Settings,
        options: Options,
        logs: &'a Logs,
    ) -> Result<Self, Error> {
        let mut hearing = Self {
            channel,
            interfaces,
            shared,
            settings,
            options,
            logs,
            outgoing: HashMap::new(),
            // It has just said that it is ready.
            sniffer_lives: true,
            lines: PacketLog::default(),
        };
        hearing.warn_of_absent_interfaces();
        hearing.follow_interfaces()?;
        Ok(hearing)
    }

    /// Hears until something fails.
    pub async fn hear(&mut self, signals: &mut Signals) -> Result<(), Error> {
        let mut watchdog = Watchdog::from_env();
        loop {
            // In this order: a packet's interface is to be known under its present name.
            tokio::select! {
                biased;
                () = watchdog.due() => self.sign(&watchdog),
                signal = signals.next() => if signal == Signal::Reload { self.reload()?; },
                changed = self.interfaces.changed() => {
                    changed.map_err(Error::Interfaces)?;
                    self.follow_interfaces()?;
                }
                message = self.channel.next() => {
                    self.take(message?.ok_or_else(|| Error::SnifferGone(String::new()))?)?;
                }
            }
        }
    }

    fn take(&mut self, message: FromSniffer) -> Result<(), Error> {
        self.sniffer_lives = true;
        match message {
            FromSniffer::Packet(sighting) => self.packet(sighting),
            FromSniffer::Counters(counters) => self.count(counters)?,
            FromSniffer::Failed { reason } => return Err(failed(&reason)),
            FromSniffer::Ready { .. } => return Err(Error::Contradiction("that it is ready, twice")),
        }
        Ok(())
    }

    /// Gives a sign of life where the sniffer has given one since the last time, and asks it for the next.
    fn sign(&mut self, watchdog: &Watchdog) {
        if std::mem::take(&mut self.sniffer_lives) {
            watchdog.alive();
            // That the channel is broken shows when it is read.
            let _told_there = self.channel.ask();
        }
    }

    fn packet(&mut self, mut sighting: CapturedPacket) {
        let interface = self.interfaces.links().get(&sighting.interface).map(Arc::clone);
        if interface.is_none() {
            // It has gone, or a sniffer that was taken over has invented it.
            sighting.interface = 0;
        }
        let heard_on = match &interface {
            Some(interface) => self.settings.interfaces.include(interface),
            None => self.settings.interfaces.include_everything(),
        };
        if !heard_on {
            return;
        }
        let mac = sighting.packet.magic.target();
        let stamp = Stamp { timestamp: clock::realtime(), boottime: Some(clock::boottime()) };
        let verdict = self.shared.ledger().hear(sighting, interface.clone(), stamp, Instant::now());
        match verdict {
            Verdict::Announce { announcement, of_interest } => {
                self.shared.announced.send_replace(announcement.sequence);
                self.lines.announced(&announcement, of_interest);
            }
            Verdict::Limited => self.lines.limited(mac, interface.as_deref()),
            Verdict::Duplicate => {}
        }
    }

    /// Takes over the sniffer's counters.
    fn count(&mut self, counters: Counters) -> Result<(), Error> {
        let earlier = std::mem::replace(&mut *self.shared.counters(), counters);
        if !counters.follow(&earlier) {
            return Err(Error::Contradiction("counters that fall"));
        }
        self.lines.losses(&earlier, &counters);
        Ok(())
    }

    fn reload(&mut self) -> Result<(), Error> {
        let settings = match Settings::load(&self.options) {
            Ok(settings) => settings,
            Err(error) => {
                tracing::error!("the old configuration stays in force: {error}");
                lifecycle::set_warning(Warning::Reload, &format!("the last reload failed: {error}"));
                return Ok(());
            }
        };
        let later = settings.need_restart(&self.settings);
        if !later.is_empty() {
            tracing::warn!(
                "{} changed, and stays as it was until wakevirt-capture is restarted",
                later.join(", ")
            );
        }
        self.logs.set_level(settings.log);
        self.shared.ledger().set_rules(settings.rules);
        // What is fixed stays as it is, and is compared with again.
        self.settings = Settings {
            start: self.settings.start.clone(),
            outgoing: self.settings.outgoing.clone(),
            listen: self.settings.listen.clone(),
            ..settings
        };
        tracing::info!("the configuration was read again");
        lifecycle::clear_warning(Warning::Reload);
        self.warn_of_absent_interfaces();
        self.follow_interfaces()
    }

    /// Tells the bus which interfaces are heard on, and the sniffer which outgoing frames to hear.
    fn follow_interfaces(&mut self) -> Result<(), Error> {
        let links = self.interfaces.links();
        let mut heard_on: Vec<Arc<Interface>> =
            links.values().filter(|interface| self.settings.interfaces.include(interface)).cloned().collect();
        heard_on.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        self.shared.interfaces.send_if_modified(|now| {
            let differs = *now != heard_on;
            *now = heard_on;
            differs
        });
        if self.shared.mode == Mode::Udp {
            return Ok(());
        }
        for (slot, wanted) in (0_u8..).zip(&self.settings.outgoing) {
            let called = |interface: &Interface| interface.names().any(|name| name == wanted);
            let found = links.iter().find(|(_, interface)| called(interface));
            let Some(index) = found.map(|(index, _)| *index) else {
                // It may come back under the same index, from another network namespace.
                self.outgoing.remove(&slot);
                continue;
            };
            if self.outgoing.insert(slot, index) != Some(index) {
                self.channel.hear_outgoing(slot, index)?;
                tracing::info!("hearing what leaves through {} as well", quoted(wanted));
            }
        }
        Ok(())
    }

    fn warn_of_absent_interfaces(&self) {
        let wanted =
            self.settings.interfaces.plain_names().chain(self.settings.outgoing.iter().map(String::as_str));
        for name in wanted {
            let called = |interface: &Arc<Interface>| interface.names().any(|there| there == name);
            if !self.interfaces.links().values().any(called) {
                tracing::warn!(
                    "there is no interface {} now; it will be heard on when it appears",
                    quoted(name)
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_the_sniffer_is_told_to_its_end_in_one_line() {
        let reason = format!("{}\nset require-landlock = false", "x".repeat(MAX_REASON - 30));
        let told = failed(&reason).to_string();
        assert!(told.ends_with("x\\nset require-landlock = false"), "{told}");
    }
}
