//! The value of `--secure-on`.

use core::str::FromStr;
use std::io::{self, Read};
use std::path::PathBuf;

use wakevirt_protocol::Password;
use wakevirt_protocol::password::BadNotation;
use wakevirt_service::config::{self, Links};
use wakevirt_service::logs::shown;

/// The maximum size of a password file, in bytes: a password and the white space around it.
const MAX_SIZE: u64 = 256;

/// Where the SecureOn password is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// On the command line, which other users can read.
    Given(Password),
    /// In this file.
    File(PathBuf),
    /// On standard input.
    Stdin,
}

/// Why there is no password.
#[derive(Debug, thiserror::Error)]
pub enum NoSecret {
    /// It cannot be read.
    #[error("cannot read the SecureOn password from {0}: {1}")]
    Read(String, io::Error),
    /// It is not a password.
    #[error("{0}: {1}")]
    Notation(String, BadNotation),
}

impl FromStr for Secret {
    type Err = BadNotation;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix('@') {
            Some(path) => Ok(Self::File(path.into())),
            None if text == "-" => Ok(Self::Stdin),
            None => text.parse().map(Self::Given),
        }
    }
}

impl Secret {
    /// Reads the password.
    ///
    /// # Errors
    /// [`NoSecret`], whose message does not contain the password.
    pub fn read(self) -> Result<Password, NoSecret> {
        match self {
            Self::Given(password) => Ok(password),
            Self::File(path) => {
                let name = shown(&path).to_string();
                let file = config::open(&path, Links::Follow);
                parse(name, file.and_then(read))
            }
            Self::Stdin => parse("standard input".to_owned(), read(io::stdin().lock())),
        }
    }
}

fn read(input: impl Read) -> io::Result<String> {
    let mut text = String::new();
    input.take(MAX_SIZE).read_to_string(&mut text)?;
    Ok(text)
}

fn parse(name: String, text: io::Result<String>) -> Result<Password, NoSecret> {
    match text {
        Ok(text) => text.trim().parse().map_err(|error| NoSecret::Notation(name, error)),
        Err(error) => Err(NoSecret::Read(name, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinguishes_passwords_and_files() {
        assert_eq!("1.2.3.4".parse(), Ok(Secret::Given(Password::Four([1, 2, 3, 4]))));
        assert_eq!("@/etc/x".parse(), Ok(Secret::File("/etc/x".into())));
        assert_eq!("-".parse(), Ok(Secret::Stdin));
        assert_eq!("secret".parse::<Secret>(), Err(BadNotation));
    }

    #[test]
    fn reads_a_file_and_never_shows_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "01:02:03:04:05:06\n").unwrap();
        let secret = || Secret::File(file.path().to_owned());
        assert_eq!(secret().read().unwrap(), Password::Six([1, 2, 3, 4, 5, 6]));
        std::fs::write(file.path(), "geheim").unwrap();
        let error = secret().read().unwrap_err().to_string();
        assert!(error.contains("4 or 6 bytes") && !error.contains("geheim"), "{error}");
        let error = Secret::File("/no/such".into()).read().unwrap_err().to_string();
        assert!(error.contains("/no/such"), "{error}");
    }
}
