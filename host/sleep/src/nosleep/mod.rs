//! Keeps the host awake while a domain with `nosleep` runs.

mod domains;
mod inhibitor;
mod logind;

use tokio::sync::watch;
use wakevirt_host::config::{Config, Inhibit};
use wakevirt_service::lifecycle::{self, Signal, Signals, Warning, Watchdog};
use wakevirt_service::logs::{Logs, kind, quoted};

use crate::USER;
use crate::error::Error;
use crate::options::Options;
use domains::{Domains, Follower};

/// The maximum length of the reason that logind shows, in bytes.
const MAX_REASON: usize = 200;

/// An inhibitor lock that the running domains need.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lock {
    /// The strongest kind that one of them needs.
    kind: Inhibit,
    /// Whether closing the lid must not suspend the host either.
    lid: bool,
    /// Their names, for logind's list of inhibitors.
    reason: String,
}

impl Lock {
    /// The lock that these domains need together; `None` if they need none.
    fn of(config: &Config, domains: &Domains) -> Option<Self> {
        let mut lock: Option<Self> = None;
        for (name, uuid) in domains {
            let Some(settings) = config.settings_for(name, Some(*uuid)) else { continue };
            let Some(kind) = settings.nosleep else { continue };
            let lock = lock.get_or_insert_with(|| Self { kind, lid: false, reason: String::new() });
            if kind == Inhibit::Block {
                lock.kind = kind;
            }
            lock.lid |= settings.lid;
            if lock.reason.len() > MAX_REASON {
                continue;
            }
            let separator = if lock.reason.is_empty() { "running: " } else { ", " };
            lock.reason = format!("{}{separator}{}", lock.reason, quoted(name));
        }
        lock.map(|mut lock| {
            lock.reason.truncate(lock.reason.floor_char_boundary(MAX_REASON));
            lock
        })
    }
}

/// Runs until a signal stops the process.
pub(crate) async fn run(options: &Options, config: Config, logs: &Logs) -> Result<(), Error> {
    let mut signals = Signals::new().map_err(Error::Start)?;
    let mut watchdog = Watchdog::from_env();
    let (mut config, mut follower) = (config, None::<Follower>);
    let (lock, wanted) = watch::channel(None);
    let inhibitor = inhibitor::run(&options.bus, wanted);
    tokio::pin!(inhibitor);
    lifecycle::ready("");
    loop {
        if follower.is_none() && config.any(|settings| settings.nosleep.is_some()) {
            follower = Some(Follower::start(&options.connect).map_err(Error::Start)?);
        }
        let changed = async {
            match &mut follower {
                Some(follower) => follower.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Stop => return Ok(()),
                Signal::Reload => reload(options, &mut config, logs),
            },
            () = watchdog.due() => watchdog.notify(),
            () = changed => {}
            result = &mut inhibitor => return result.map_err(Error::from),
        }
        // Until the domains are known, the lock does not change: they run on while libvirt is unavailable.
        if let Some(domains) = follower.as_ref().and_then(Follower::domains) {
            let new = Lock::of(&config, &domains);
            lock.send_if_modified(|old| std::mem::replace(old, new.clone()) != new);
        }
    }
}

fn reload(options: &Options, config: &mut Config, logs: &Logs) {
    match Config::load(options.config.as_deref(), USER) {
        Ok(new) => {
            logs.set_filter(&new.log);
            *config = new;
            lifecycle::clear_warning(Warning::Reload);
            tracing::info!(MESSAGE_ID = kind::CONFIGURATION_RELOADED, "configuration reloaded");
        }
        Err(error) => {
            tracing::error!(
                MESSAGE_ID = kind::RELOAD_FAILED,
                "reload failed: {error}; the old configuration remains in use"
            );
            lifecycle::set_warning(Warning::Reload, &format!("the last reload failed: {error}"));
        }
    }
}
