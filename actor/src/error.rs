//! What can go wrong in the actor.

use virt::error::ErrorNumber;
use wakevirt_service::logs::{quoted, shown};
use wakevirt_service::{bus, config, logs, user};

/// What can go wrong in the actor.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// A SecureOn password cannot be read.
    #[error(transparent)]
    SecureOn(#[from] crate::policy::secure_on::Error),
    /// There is no log.
    #[error(transparent)]
    Logs(#[from] logs::Error),
    /// The user was not changed, or the capabilities were not given up.
    #[error(transparent)]
    User(#[from] user::Error),
    /// Something that every program needs: signals, time, standard output.
    #[error("cannot start: {0}")]
    Start(std::io::Error),
    /// Another process keeps what is under way in the same folder.
    #[error("another process uses {}; does the service run already? Stop it, or set RUNTIME_DIRECTORY to another folder", shown(.0))]
    Locked(std::path::PathBuf),
    /// The bus does not give the name.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// libvirt.
    #[error("cannot {doing}: {}{}", quoted(message), cure(*code, message))]
    Libvirt {
        /// What was to be done.
        doing: &'static str,
        /// libvirt's code, as far as it is known.
        code: Option<ErrorNumber>,
        /// What libvirt says.
        message: String,
    },
    /// libvirt's XML.
    #[error("cannot read the domain's definition: {0}")]
    DomainXml(roxmltree::Error),
    /// A call on a connection that is lost, or was never there.
    #[error("there is no connection")]
    NotConnected,
    /// The hypervisor tells what there is, and opens no connection for wakes.
    #[error("its domains are known, but it opens no connection for wakes: {}", quoted(.0))]
    NoSession(String),
    /// A thread that has ended.
    #[error("the call to the hypervisor was not done to its end")]
    Interrupted,
}

/// What to do where libvirt's access driver has refused a call. libvirt's message names the driver that was
/// asked, such as `secret`, and neither the permission nor the object.
fn cure(code: Option<ErrorNumber>, message: &str) -> &'static str {
    match code {
        Some(ErrorNumber::AccessDenied) if message.contains("secret") => {
            "; the domain uses a secret of libvirt that the actor may not read: see \"Encrypted disks and TPMs\" in \
             docs/RESTRICTED.md"
        }
        Some(ErrorNumber::AccessDenied) => {
            "; libvirt's access driver is on, and polkit does not grant this to the actor's user: see docs/RESTRICTED.md"
        }
        _ => "",
    }
}
