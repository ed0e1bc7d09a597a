//! SecureOn passwords.

use core::fmt;
use core::net::Ipv4Addr;
use core::str::FromStr;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The SecureOn password at the end of a magic packet: 4 or 6 bytes (AMD publication 20213 leaves the length to the
/// card; etherwake and wakeonlan send both lengths).
///
/// Its memory is wiped when the value is dropped. Its `Debug` output shows only the length.
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

/// A password with a length that SecureOn does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a SecureOn password must have 4 or 6 bytes; this one has {0}")]
pub struct BadPassword(usize);

/// A string that is not a password in one of the common notations. The error does not contain the string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a SecureOn password; write 4 or 6 bytes, such as 192.168.1.2, 01:02:03:04:05:06 or 010203040506"
)]
pub struct BadNotation;

impl FromStr for Password {
    type Err = BadNotation;

    /// Parses hexadecimal digits, with or without separators between octets, or a dotted quad.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(quad) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Four(quad.octets()));
        }
        let digits: String = match text.contains([':', '-']) {
            true => {
                let pairs: Vec<&str> = text.split(if text.contains('-') { '-' } else { ':' }).collect();
                pairs.iter().all(|pair| pair.len() == 2).then(|| pairs.concat()).ok_or(BadNotation)?
            }
            false => text.to_owned(),
        };
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) || !digits.len().is_multiple_of(2) {
            return Err(BadNotation);
        }
        let pairs = digits.as_bytes().chunks(2).filter_map(|pair| core::str::from_utf8(pair).ok());
        let bytes: Vec<u8> = pairs.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect();
        Self::try_from(bytes.as_slice()).map_err(|_| BadNotation)
    }
}

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
    fn parses_the_common_notations() {
        let six = Password::Six([1, 2, 3, 4, 5, 0xfa]);
        for text in ["01:02:03:04:05:fa", "01-02-03-04-05-FA", "0102030405fa"] {
            assert_eq!(text.parse(), Ok(six.clone()), "{text}");
        }
        let four = Password::Four([192, 168, 1, 2]);
        for text in ["192.168.1.2", "c0:a8:01:02", "c0a80102"] {
            assert_eq!(text.parse(), Ok(four.clone()), "{text}");
        }
        for text in
            ["", "1:2:3:4:5:6", "0102030405", "secret", "0102-0304", "+1020304", "192.168.1", "é1é1é1"]
        {
            assert_eq!(text.parse::<Password>(), Err(BadNotation), "{text}");
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
