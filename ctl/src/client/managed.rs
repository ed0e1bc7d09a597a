//! How to control a service and read its log, depending on the init system and on whether it belongs to a user.

use nix::unistd::{User, geteuid};
use wakevirt_service::bus::Address;
use wakevirt_service::init::Init;

use super::Service;

/// How the names of a user's own services begin, without systemd: docs/SESSION.md.
const SESSION: &str = "wakevirt-session.";

/// A service of the system, or a user's own actor.
#[derive(Debug)]
pub struct Managed<'a> {
    init: &'a Init,
    /// The name of the service, or of the user's unit.
    name: String,
    is_user_unit: bool,
}

impl<'a> Managed<'a> {
    /// The service that owns a name on this bus. Only the actor runs on a session bus.
    #[must_use]
    pub fn new(init: &'a Init, address: &Address, service: Service) -> Self {
        let is_own = service == Service::Actor && *address == Address::Session;
        let name = match User::from_uid(geteuid()) {
            Ok(Some(user)) if is_own && !init.is_systemd() => format!("{SESSION}{}.actor", user.name),
            _ => service.unit().to_owned(),
        };
        Self { init, name, is_user_unit: is_own && init.is_systemd() }
    }

    /// Whether only root can run the commands.
    #[must_use]
    pub const fn needs_root(&self) -> bool {
        !self.is_user_unit
    }

    /// The command that starts it now and at each boot. `None` if the init system is unknown, as for the others, or if the
    /// user's own services are not defined yet.
    #[must_use]
    pub fn enable(&self) -> Option<String> {
        if self.name.starts_with(SESSION) && self.init.has_definitions() && !self.init.defines(&self.name) {
            return None;
        }
        let command = self.init.enable(&self.name)?;
        Some(if self.is_user_unit { format!("systemctl --user enable --now {}", self.name) } else { command })
    }

    /// The command that restarts it.
    #[must_use]
    pub fn restart(&self) -> Option<String> {
        let command = self.init.restart(&self.name)?;
        Some(if self.is_user_unit { format!("systemctl --user restart {}", self.name) } else { command })
    }

    /// The command that applies its configuration, although it is not known to be running.
    #[must_use]
    pub fn reload(&self) -> Option<String> {
        if self.is_user_unit {
            return Some(format!("systemctl --user reload-or-restart {}", self.name));
        }
        if self.init.is_systemd() { self.init.reload(&self.name) } else { self.init.restart(&self.name) }
    }

    /// Where it logs: a command or a file.
    #[must_use]
    pub fn log(&self) -> Option<String> {
        let log = self.init.log(&self.name)?;
        Some(if self.is_user_unit { format!("journalctl --user -u {}", self.name) } else { log })
    }
}
