//! SecureOn passwords.

use core::fmt;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The SecureOn password at the end of a magic packet: 4 or 6 bytes (AMD publication 20213 leaves the length to the
/// card; etherwake and wakeonlan send either).
///
/// Its memory is wiped when it is dropped. Its `Debug` output shows only the length.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub enum Password {
    /// Four bytes, often written like an IPv4 address.
    Four([u8; 4]),
    /// Six bytes, often written like a MAC address.
    Six([u8; 6]),
}

impl Password {
    /// The bytes in transmission order.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Four(bytes) => bytes,
            Self::Six(bytes) => bytes,
        }
    }

    /// Whether this is the expected password. The time of the comparison reveals only whether the lengths are equal.
    #[must_use]
    pub fn matches(&self, expected: &Self) -> bool {
        self.as_bytes().ct_eq(expected.as_bytes()).into()
    }
}

impl TryFrom<&[u8]> for Password {
    type Error = BadPassword;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        if let Ok(four) = bytes.try_into() {
            return Ok(Self::Four(four));
        }
        bytes.try_into().map(Self::Six).map_err(|_| BadPassword(bytes.len()))
    }
}

/// A password of a length that SecureOn does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a SecureOn password must have 4 or 6 bytes; this one has {0}")]
pub struct BadPassword(usize);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Password({} bytes)", self.as_bytes().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_four_or_six_bytes() {
        for length in 0..9_usize {
            let bytes = vec![7; length];
            let password = Password::try_from(bytes.as_slice());
            match length {
                4 | 6 => assert_eq!(password.unwrap().as_bytes(), bytes),
                _ => assert_eq!(password, Err(BadPassword(length))),
            }
        }
    }

    #[test]
    fn matches_only_an_equal_password() {
        let password = Password::Six(*b"secret");
        assert!(password.matches(&Password::Six(*b"secret")));
        assert!(!password.matches(&Password::Six(*b"Secret")));
        assert!(!password.matches(&Password::Four(*b"secr")));
    }

    #[test]
    fn is_never_printed() {
        assert_eq!(format!("{:?}", Password::Six(*b"secret")), "Password(6 bytes)");
    }
}
