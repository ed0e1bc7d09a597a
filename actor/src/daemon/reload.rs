//! Reloads the configuration after a signal or a call.

use tokio::sync::{mpsc, watch};
use wakevirt_service::lifecycle::{self, Signal, Signals, Warning};
use wakevirt_service::logs::{Logs, kind};

use crate::Options;
use crate::announcer::{NamedInterfaces, named_interfaces};
use crate::api::Reload;
use crate::config::Config;
use crate::engine::request::Requests;
use crate::model::Program;

/// Reloads the configuration.
pub(super) struct Reloader {
    /// The program.
    pub program: &'static Program,
    /// Sends the policy to the engine.
    pub requests: Requests,
    /// Calls to `Reload`.
    pub reloads: mpsc::Receiver<Reload>,
    /// Receives the interfaces that rules name.
    pub named: watch::Sender<NamedInterfaces>,
    /// Receives whether the configuration was valid.
    pub valid: watch::Sender<bool>,
}

impl Reloader {
    /// Reloads on signals and calls until a signal stops the process.
    pub async fn run(mut self, mut signals: Signals, options: &Options, mut config: Config, logs: &Logs) {
        loop {
            let caller = tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Stop => return,
                    Signal::Reload => None,
                },
                Some(caller) = self.reloads.recv() => Some(caller),
            };
            let loaded = Config::load(options, self.program);
            self.valid.send_replace(loaded.is_ok());
            let result = match loaded {
                Ok(new) => {
                    config = self.apply(new, config, logs).await;
                    lifecycle::clear_warning(Warning::Reload);
                    Ok(())
                }
                Err(error) => {
                    tracing::error!(
                        MESSAGE_ID = kind::RELOAD_FAILED,
                        "reload failed: {error}; the old configuration remains in use"
                    );
                    lifecycle::set_warning(Warning::Reload, &format!("the last reload failed: {error}"));
                    Err(error.to_string())
                }
            };
            if let Some(caller) = caller {
                // The caller may have disconnected.
                let _ = caller.send(result);
            }
        }
    }

    async fn apply(&self, new: Config, old: Config, logs: &Logs) -> Config {
        tracing::info!(MESSAGE_ID = kind::CONFIGURATION_RELOADED, "configuration reloaded");
        if new.connections != old.connections {
            let connections = new.connections.join(", ");
            tracing::warn!(
                MESSAGE_ID = kind::RESTART_NEEDED,
                "connections changed; restart the service to connect to {connections}"
            );
        }
        if new.scope != old.scope {
            tracing::warn!(
                MESSAGE_ID = kind::RESTART_NEEDED,
                "namespace-selector or vm-selector changed; restart the service to use the new selectors"
            );
        }
        logs.set_filter(&new.log);
        self.named.send_replace(named_interfaces(&new.policy.rules));
        self.requests.set_policy(new.policy.clone()).await;
        Config { connections: old.connections, scope: old.scope, ..new }
    }
}
