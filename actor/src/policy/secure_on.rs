//! The SecureOn password that a rule requires.

use std::fs::Metadata;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use nix::unistd::{Gid, Group, Uid};
use serde::Deserialize;
use wakevirt_protocol::Password;
use wakevirt_protocol::password::BadNotation;
use wakevirt_service::config;
use wakevirt_service::logs::{quoted, shown};
use wakevirt_service::user::service_uid;

use crate::privilege::USER;

/// The maximum size of a password file, in bytes: a password and the white space around it.
const MAX_SIZE: u64 = 256;
/// The maximum length of a path, in bytes: PATH_MAX without the terminating zero (limits.h(0p)).
const MAX_PATH: usize = 4095;

/// The password that a rule requires.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SecureOn {
    text: String,
    location: Location,
    /// `None` until it is read; no password is correct until then.
    password: Option<Password>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Location {
    File(PathBuf),
    /// A credential of the service manager (systemd.exec(5), `LoadCredential=`).
    Credential(String),
}

/// Why a password cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SecureOnError {
    /// The service manager does not pass credentials.
    #[error(
        "secure-on = {}: the service manager does not pass any credentials; add \
         LoadCredential={}:FILE to the unit", quoted(&format!("credential:{_0}")), shown(Path::new(_0))
    )]
    NoCredentials(String),
    /// The file cannot be read.
    #[error(
        "{}: cannot read the SecureOn password: {source}; the file must belong to {USER}, with mode 0400",
        shown(path)
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// Other users can read or change it.
    #[error(
        "{}: other users can read or change this SecureOn password (owner {user}, mode {mode:04o}); \
         protect it: chown {USER} {}; chmod 0400 {}",
        shown(path),
        shown(path),
        shown(path)
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its owner.
        user: Uid,
        /// Its permission bits.
        mode: u32,
    },
    /// The file does not contain a password.
    #[error("{}: {BadNotation}", shown(path))]
    NoPassword {
        /// The file.
        path: PathBuf,
    },
}

impl TryFrom<String> for SecureOn {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        config::check_text(&text, MAX_PATH)?;
        let location = match text.strip_prefix("credential:") {
            Some(name) if is_file_name(name) => Location::Credential(name.to_owned()),
            Some(_) => {
                return Err("not the name of a credential; write one such as \"credential:win11\"".to_owned());
            }
            None if Path::new(&text).is_absolute() => Location::File(PathBuf::from(&text)),
            None => {
                return Err("not an absolute path; write one such as \"/etc/wakevirt/win11.secureon\", or \
                            \"credential:NAME\", but not the password itself"
                    .to_owned());
            }
        };
        Ok(Self { text, location, password: None })
    }
}

fn is_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
}

impl SecureOn {
    /// The value, as written in the configuration.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the service manager passes the password.
    #[must_use]
    pub const fn is_credential(&self) -> bool {
        matches!(self.location, Location::Credential(_))
    }

    /// Whether this is the password. The comparison takes constant time.
    #[must_use]
    pub fn accepts(&self, password: &Password) -> bool {
        self.password.as_ref().is_some_and(|expected| password.matches(expected))
    }

    /// Reads the password. `credentials` is the directory with the service manager's credentials.
    ///
    /// # Errors
    /// [`SecureOnError`] names the file, and says what to do.
    pub fn read(&mut self, credentials: Option<&Path>) -> Result<(), SecureOnError> {
        let (path, is_credential) = match &self.location {
            Location::File(path) => (path.clone(), false),
            Location::Credential(name) => {
                let directory = credentials.ok_or_else(|| SecureOnError::NoCredentials(name.clone()))?;
                (directory.join(name), true)
            }
        };
        let failed = |source| SecureOnError::Read { path: path.clone(), source };
        let file = config::open(&path, config::Links::Follow).map_err(failed)?;
        // The metadata of the open file, because another file can replace the one at the path.
        let metadata = file.metadata().map_err(failed)?;
        if !is_private(&metadata, is_credential) {
            let (user, mode) = (Uid::from_raw(metadata.uid()), metadata.mode() & 0o7777);
            return Err(SecureOnError::Exposed { path, user, mode });
        }
        let mut text = String::new();
        file.take(MAX_SIZE).read_to_string(&mut text).map_err(failed)?;
        self.password = Some(text.trim().parse().map_err(|_| SecureOnError::NoPassword { path })?);
        Ok(())
    }
}

/// Whether only root and the service can access the file. The service manager protects credentials by their directory,
/// and by an access control list, which appears as group permissions.
fn is_private(metadata: &Metadata, is_credential: bool) -> bool {
    let mode = metadata.mode();
    let owner = metadata.uid();
    let group = Gid::from_raw(metadata.gid());
    let is_own_group = || Group::from_name(USER).ok().flatten().is_some_and(|own| own.gid == group);
    metadata.is_file()
        && (owner == 0 || owner == service_uid(USER).as_raw())
        && mode & 0o027 == 0
        && (mode & 0o040 == 0 || is_credential || is_own_group())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(mode: u32, text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    fn secure_on(path: &Path) -> SecureOn {
        SecureOn::try_from(path.to_str().unwrap().to_owned()).unwrap()
    }

    #[test]
    fn reads_only_private_files() {
        for (mode, private) in
            [(0o400, true), (0o600, true), (0o640, false), (0o604, false), (0o660, false), (0o602, false)]
        {
            let file = file(mode, "01:02:03:04:05:06\n");
            let mut secure_on = secure_on(file.path());
            assert!(!secure_on.accepts(&Password::Six([1, 2, 3, 4, 5, 6])), "not read yet");
            let result = secure_on.read(None);
            assert_eq!(result.is_ok(), private, "{mode:o}: {result:?}");
            assert_eq!(secure_on.accepts(&Password::Six([1, 2, 3, 4, 5, 6])), private);
            assert!(!secure_on.accepts(&Password::Six([1, 2, 3, 4, 5, 7])));
        }
    }

    #[test]
    fn reads_a_credential() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("win11"), "1.2.3.4").unwrap();
        std::fs::set_permissions(directory.path().join("win11"), std::fs::Permissions::from_mode(0o440))
            .unwrap();
        let mut secure_on = SecureOn::try_from("credential:win11".to_owned()).unwrap();
        assert!(matches!(secure_on.read(None), Err(SecureOnError::NoCredentials(_))));
        secure_on.read(Some(directory.path())).unwrap();
        assert!(secure_on.accepts(&Password::Four([1, 2, 3, 4])));
    }

    #[test]
    fn errors_describe_the_problem() {
        let file = file(0o600, "secret");
        let error = secure_on(file.path()).read(None).unwrap_err().to_string();
        assert!(error.contains("4 or 6 bytes") && !error.contains("secret"), "{error}");
        assert!(matches!(secure_on(Path::new("/no/such")).read(None), Err(SecureOnError::Read { .. })));
        for text in ["", "relative", "credential:", "credential:../x", "credential:a/b", "01:02:03:04:05:06"]
        {
            assert!(SecureOn::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
