//! The errors of calls. Their messages say how to get a missing permission or service.

use core::fmt;
use std::time::Duration;

use nix::unistd::{User, geteuid};
use wakevirt_protocol::bus::Error as BusError;
use wakevirt_service::bus::Address;
use wakevirt_service::init::Init;
use zbus::fdo;

use super::{Managed, Service};
use crate::exit::Exit;

/// Why a call failed. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bus is unavailable.
    #[error("cannot connect to {}: {reason}; {}", description(.address), bus_advice(.address))]
    NoBus {
        /// The bus.
        address: Box<Address>,
        /// The cause.
        reason: String,
    },
    /// The service is not on the bus.
    #[error("{} is not running; start it{}", .service.unit(), start_command(.address, *.service))]
    NotRunning {
        /// The service.
        service: Service,
        /// The bus.
        address: Box<Address>,
    },
    /// The bus policy denied the call.
    #[error("{}", Denial(*.service, .method))]
    Denied {
        /// The service.
        service: Service,
        /// The method.
        method: String,
    },
    /// The service denied the call. The message names the missing permission.
    #[error("{0}")]
    NotAuthorized(String),
    /// The service replied with a different error. The message says what to do.
    #[error("{0}")]
    Refused(Box<BusError>),
    /// The service did not reply in time.
    #[error("{} did not reply to {method} within {}; see its log{}", .service.unit(), humantime::format_duration(*.time), log(.address, *.service))]
    NoReply {
        /// The service.
        service: Service,
        /// The bus.
        address: Box<Address>,
        /// The method.
        method: String,
        /// The timeout.
        time: Duration,
    },
    /// The bus closed the connection.
    #[error("the bus closed the connection")]
    Closed,
    /// The call did not reach the service, or the reply cannot be read.
    #[error("cannot call {method} on {}: {reason}", .service.unit())]
    Failed {
        /// The service.
        service: Service,
        /// The method.
        method: String,
        /// The cause.
        reason: String,
    },
}

impl Error {
    /// The error of a call.
    pub(super) fn of_call(address: &Address, service: Service, method: &str, error: zbus::Error) -> Self {
        let method = method.to_owned();
        match BusError::from(error) {
            BusError::ZBus(zbus::Error::FDO(error)) => match *error {
                fdo::Error::ServiceUnknown(_)
                | fdo::Error::NameHasNoOwner(_)
                // Without systemd, the bus cannot start the actor (dbus/org.wakevirt.Actor1.service).
                | fdo::Error::SpawnChildExited(_) => {
                    Self::NotRunning { service, address: Box::new(address.clone()) }
                }
                fdo::Error::AccessDenied(_) => Self::Denied { service, method },
                error => Self::Failed { service, method, reason: error.to_string() },
            },
            BusError::ZBus(error) => Self::Failed { service, method, reason: error.to_string() },
            BusError::NotAuthorized(message) => Self::NotAuthorized(message),
            error => Self::Refused(Box::new(error)),
        }
    }

    /// The exit status.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Refused(error) if matches!(**error, BusError::HypervisorUnavailable(_)) => {
                Exit::Unavailable
            }
            Self::NoBus { .. } | Self::Closed | Self::NotRunning { .. } | Self::NoReply { .. } => {
                Exit::Unavailable
            }
            Self::Denied { .. } | Self::NotAuthorized(_) => Exit::Denied,
            Self::Refused(_) | Self::Failed { .. } => Exit::Failure,
        }
    }
}

fn description(address: &Address) -> String {
    match address {
        Address::System | Address::Session => format!("the {address} bus"),
        Address::At(address) => format!("the bus at {address}"),
    }
}

fn bus_advice(address: &Address) -> String {
    let init = Init::running();
    match address {
        Address::System => match init.start("dbus") {
            Some(command) if init.is_systemd() || init.defines("dbus") => format!("start it: {command}"),
            _ => "start it".to_owned(),
        },
        Address::Session => "log in to a session, or select a different bus with --bus".to_owned(),
        Address::At(_) => "check the address".to_owned(),
    }
}

/// Where the service logs, as the end of a sentence. Empty if this is unknown.
fn log(address: &Address, service: Service) -> String {
    let init = Init::running();
    let log = Managed::new(&init, address, service).log().filter(|_| !matches!(address, Address::At(_)));
    log.map(|log| format!(": {log}")).unwrap_or_default()
}

/// The command that starts the service, as the end of a sentence. Empty for a bus without a service manager.
fn start_command(address: &Address, service: Service) -> String {
    if matches!(address, Address::At(_)) {
        return String::new();
    }
    let init = Init::running();
    let managed = Managed::new(&init, address, service);
    match managed.enable() {
        Some(command) if managed.needs_root() => format!(", as root: {command}"),
        Some(command) => format!(": {command}"),
        None => " with the service manager of this host".to_owned(),
    }
}

/// A call that the bus policy denied.
struct Denial<'a>(Service, &'a str);

impl fmt::Display for Denial<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(service, method) = self;
        let user =
            User::from_uid(geteuid()).ok().flatten().map_or_else(|| geteuid().to_string(), |user| user.name);
        write!(
            f,
            "user {user} is not allowed to call {method} on {}: only root and members of the wakevirt and libvirt groups \
             are; as root, run \"usermod --append --groups wakevirt {user}\", and log in again",
            service.unit(),
        )
    }
}
