//! Reads the sniffer's messages, passes packets to the ledger, and monitors the network interfaces.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use wakevirt_protocol::sniffer::{Counters, FromSniffer, MAX_REASON, Mode, Request, Start};
use wakevirt_protocol::{CapturedPacket, Stamp};
use wakevirt_service::clock;
use wakevirt_service::lifecycle::{self, Signal, Signals, Warning, Watchdog};
use wakevirt_service::logs::{Logs, kind, plain, quoted};

use crate::config::Settings;
use crate::config::options::Options;
use crate::error::Error;
use crate::network::interfaces::Interfaces;
use crate::network::links::Interface;
use crate::packets::ledger::Verdict;
use crate::packets::log::PacketLog;
use crate::shared::Shared;
use crate::sniffer::child::Channel;
use crate::sniffer::control::{Control, index_of};

/// How long the announcer waits for `Ready`, in seconds.
const READY_TIMEOUT: u64 = 10;

/// Waits until the sniffer is ready, and logs how it receives packets.
///
/// # Errors
/// [`Error`] if the sniffer exits, fails, takes too long or sends a different message.
pub async fn wait_ready(channel: &Channel, start: &Start) -> Result<Mode, Error> {
    let first = timeout(Duration::from_secs(READY_TIMEOUT), channel.receive()).await;
    match first.map_err(|_| Error::SnifferTimeout(READY_TIMEOUT))?? {
        Some(FromSniffer::Ready { mode, landlock }) => {
            log_mode(start, mode, landlock);
            Ok(mode)
        }
        Some(FromSniffer::Failed { reason }) => Err(sniffer_failed(&reason)),
        Some(FromSniffer::Packet(_) | FromSniffer::Counters(_) | FromSniffer::Applied) => {
            Err(Error::UnexpectedMessage("a message before Ready"))
        }
        None => Err(Error::SnifferExited(String::new())),
    }
}

fn log_mode(start: &Start, mode: Mode, landlock: bool) {
    match (mode, start.request) {
        (Mode::Raw, _) if start.bound > 0 => tracing::info!(
            MESSAGE_ID = kind::RECEIVING_FRAMES,
            "receiving on the interfaces named in `interfaces`, each with a packet socket: {}",
            start.bound
        ),
        (Mode::Raw, _) => tracing::info!(
            MESSAGE_ID = kind::RECEIVING_FRAMES,
            "receiving on all interfaces with packet sockets"
        ),
        (Mode::Udp, Request::Udp) => tracing::info!(
            MESSAGE_ID = kind::RECEIVING_UDP,
            "receiving only UDP, because of mode = \"udp\": Ethernet frames, and datagrams to other ports or other \
             hosts, are not received"
        ),
        (Mode::Udp, Request::Auto | Request::Raw) => tracing::warn!(
            MESSAGE_ID = kind::NO_NET_RAW,
            "capture receives UDP only: the service does not have CAP_NET_RAW. Ethernet frames, and datagrams to other \
             ports or other hosts, are not received. To receive everything, start the service with its unit or as root"
        ),
    }
    if !landlock {
        tracing::warn!(
            MESSAGE_ID = kind::NO_LANDLOCK,
            "Landlock is not enforced: the kernel does not support it, it is disabled, or a container's seccomp filter \
             denies it. The sniffer runs without this layer of its sandbox, because of require-landlock = false"
        );
    }
}

/// Converts a failure report. A compromised sniffer could have written it, so it is escaped to prevent forged log
/// lines. It is not shortened, because it ends with the solution.
fn sniffer_failed(reason: &str) -> Error {
    Error::SnifferFailed(plain(reason, MAX_REASON).to_string())
}

/// Reads the sniffer's messages while the service is running.
pub struct Reader<'a> {
    channel: Channel,
    interfaces: Interfaces,
    shared: Arc<Shared>,
    settings: Settings,
    options: Options,
    logs: &'a Logs,
    control: Control,
    /// Whether the sniffer has sent a message since the last keep-alive message.
    sniffer_alive: bool,
    log: PacketLog,
}

impl<'a> Reader<'a> {
    /// Creates a reader, which starts with the current interfaces.
    ///
    /// # Errors
    /// [`Error::Channel`].
    pub fn new(
        channel: Channel,
        interfaces: Interfaces,
        shared: Arc<Shared>,
        settings: Settings,
        options: Options,
        logs: &'a Logs,
    ) -> Result<Self, Error> {
        let control = Control::new(&settings.start, shared.mode);
        let mut reader = Self {
            channel,
            interfaces,
            shared,
            settings,
            options,
            logs,
            control,
            // It has just sent `Ready`.
            sniffer_alive: true,
            log: PacketLog::default(),
        };
        reader.warn_missing_interfaces();
        reader.update_interfaces()?;
        Ok(reader)
    }

    /// Handles messages, changes to interfaces, reloads and the watchdog.
    ///
    /// # Errors
    /// [`Error`] if the sniffer exits or violates the protocol, or if the interfaces cannot be monitored.
    pub async fn run(&mut self, signals: &mut Signals) -> Result<(), Error> {
        let mut watchdog = Watchdog::from_env();
        loop {
            // Changes to interfaces are handled before packets, so that a packet gets the current name of its
            // interface.
            tokio::select! {
                biased;
                () = watchdog.due() => self.keep_alive(&watchdog),
                signal = signals.next() => if signal == Signal::Reload { self.reload()?; },
                changed = self.interfaces.changed() => {
                    changed.map_err(Error::Interfaces)?;
                    self.update_interfaces()?;
                }
                () = self.shared.interest.notified() => self.send_change()?,
                message = self.channel.receive() => {
                    self.handle_message(message?.ok_or_else(|| Error::SnifferExited(String::new()))?).await?;
                }
            }
        }
    }

    async fn handle_message(&mut self, message: FromSniffer) -> Result<(), Error> {
        self.sniffer_alive = true;
        match message {
            FromSniffer::Packet(captured) => self.handle_packet(captured).await,
            FromSniffer::Counters(counters) => {
                self.update_counters(counters)?;
                // A retention may have expired, or the socketpair may have been full.
                self.send_change()?;
            }
            FromSniffer::Applied => {
                self.control.applied()?;
                self.send_change()?;
            }
            FromSniffer::Failed { reason } => return Err(sniffer_failed(&reason)),
            FromSniffer::Ready { .. } => return Err(Error::UnexpectedMessage("Ready twice")),
        }
        Ok(())
    }

    /// Sends a keep-alive message to the service manager if the sniffer has sent a message since the previous
    /// keep-alive message, and requests the next message from the sniffer.
    fn keep_alive(&mut self, watchdog: &Watchdog) {
        if std::mem::take(&mut self.sniffer_alive) {
            watchdog.notify();
            // If the channel is broken, reading from it returns the error.
            let _result = self.channel.request_counters();
        }
    }

    async fn handle_packet(&mut self, mut captured: CapturedPacket) {
        let interface = self.interfaces.links().get(&captured.interface).map(Arc::clone);
        if interface.is_none() {
            // The interface was removed, or a compromised sniffer invented it.
            captured.interface = 0;
        }
        let included = match &interface {
            Some(interface) => self.settings.interfaces.includes(interface),
            None => self.settings.interfaces.includes_all(),
        };
        if !included {
            return;
        }
        let mac = captured.packet.magic.target();
        let stamp = Stamp { timestamp: clock::realtime(), boottime: Some(clock::boottime()) };
        let verdict = self.shared.ledger().receive(captured, interface.clone(), stamp, Instant::now());
        match verdict {
            Verdict::Announce { announcement, of_interest } => {
                self.shared.announced.send_replace(announcement.sequence);
                // The signal is emitted before the line is logged: writing to the journal would delay each wake.
                tokio::task::yield_now().await;
                self.log.announced(&announcement, of_interest);
            }
            Verdict::Limited => self.log.limited(mac, interface.as_deref()),
            Verdict::Duplicate => {}
        }
    }

    fn update_counters(&mut self, counters: Counters) -> Result<(), Error> {
        let earlier = std::mem::replace(&mut *self.shared.counters(), counters);
        if !counters.can_follow(&earlier) {
            return Err(Error::UnexpectedMessage("counters that decrease"));
        }
        self.log.losses(&earlier, &counters);
        Ok(())
    }

    fn send_change(&mut self) -> Result<(), Error> {
        self.control.send_change(&self.channel, &self.shared)
    }

    fn reload(&mut self) -> Result<(), Error> {
        let settings = match Settings::load(&self.options) {
            Ok(settings) => settings,
            Err(error) => {
                tracing::error!(
                    MESSAGE_ID = kind::RELOAD_FAILED,
                    "reload failed: {error}; the old configuration remains in use"
                );
                lifecycle::set_warning(Warning::Reload, &format!("the last reload failed: {error}"));
                return Ok(());
            }
        };
        let changed = settings.keys_that_need_restart(&self.settings);
        if !changed.is_empty() {
            tracing::warn!(
                MESSAGE_ID = kind::RESTART_NEEDED,
                "{} changed; the change takes effect when wakevirt-capture is restarted",
                changed.join(", ")
            );
        }
        self.logs.set_filter(&settings.log);
        self.shared.ledger().reconfigure(settings.ledger);
        self.control.limit(settings.ledger.limit);
        // Retains the values that require a restart, for comparison at the next reload.
        self.settings = Settings {
            start: self.settings.start.clone(),
            outgoing: self.settings.outgoing.clone(),
            listen: self.settings.listen.clone(),
            ..settings
        };
        tracing::info!(MESSAGE_ID = kind::CONFIGURATION_RELOADED, "configuration reloaded");
        lifecycle::clear_warning(Warning::Reload);
        self.warn_missing_interfaces();
        self.update_interfaces()
    }

    /// Makes the sniffer capture on new interfaces, and publishes the interfaces on which packets are captured.
    fn update_interfaces(&mut self) -> Result<(), Error> {
        let removed = self.interfaces.take_removed();
        let links = self.interfaces.links();
        let Self { channel, control, settings, .. } = self;
        control.exclude(&settings.interfaces, links);
        if self.shared.mode == Mode::Raw {
            control.capture_incoming(channel, &settings.interfaces, links, &removed)?;
            control.capture_outgoing(channel, &settings.outgoing, links, &removed)?;
        }
        let mut captured: Vec<Arc<Interface>> =
            links.values().filter(|interface| settings.interfaces.includes(interface)).cloned().collect();
        captured.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        self.shared.interfaces.send_if_modified(|current| {
            let modified = *current != captured;
            *current = captured;
            modified
        });
        self.send_change()
    }

    fn warn_missing_interfaces(&self) {
        let wanted =
            self.settings.interfaces.names().chain(self.settings.outgoing.iter().map(String::as_str));
        for name in wanted {
            if index_of(name, self.interfaces.links()).is_none() {
                tracing::warn!(
                    MESSAGE_ID = kind::INTERFACE_MISSING,
                    WAKEVIRT_INTERFACE = name,
                    "interface {} does not exist; its packets will be captured once it appears",
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
    fn a_failure_report_is_escaped_and_not_shortened() {
        let reason = format!("{}\nset require-landlock = false", "x".repeat(MAX_REASON - 30));
        let error = sniffer_failed(&reason).to_string();
        assert!(error.ends_with("x\\nset require-landlock = false"), "{error}");
    }
}
