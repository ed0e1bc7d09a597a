//! MAC addresses.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

/// A 48-bit MAC address (EUI-48, IEEE 802), with its octets in transmission order.
///
/// `Display` writes six pairs of lower-case hexadecimal digits, separated by colons (`52:54:00:12:34:56`). The parser
/// accepts both cases, and colons or hyphens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MacAddr([u8; 6]);

/// A string that is not a MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address; write six pairs of hexadecimal digits, such as 52:54:00:12:34:56")]
pub struct BadMacAddr(String);

impl MacAddr {
    /// The address with these octets.
    #[must_use]
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// The octets in transmission order.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// The octets in transmission order, as a slice.
    #[must_use]
    pub const fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// Whether a single network card can own this address.
    ///
    /// Group addresses, including the broadcast address, do not belong to a single card: the lowest bit of their first
    /// octet is set (IEEE 802-2014 8.2.2). The all-zero address does not belong to any card.
    #[must_use]
    pub const fn is_unicast(self) -> bool {
        let [first, ..] = self.0;
        first & 1 == 0 && !matches!(self.0, [0, 0, 0, 0, 0, 0])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = BadMacAddr;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadMacAddr(text.to_owned());
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut octets = [0; 6];
        let mut pairs = text.split(separator);
        for octet in &mut octets {
            let pair = pairs.next().filter(|pair| pair.len() == 2).ok_or_else(bad)?;
            // from_str_radix would accept a sign.
            if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *octet = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        if pairs.next().is_some() {
            return Err(bad());
        }
        Ok(Self(octets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_its_own_and_other_notations() {
        let mac = MacAddr::new([0x52, 0x54, 0, 0x12, 0xab, 0xff]);
        assert_eq!(mac.to_string(), "52:54:00:12:ab:ff");
        for text in ["52:54:00:12:ab:ff", "52:54:00:12:AB:FF", "52-54-00-12-ab-ff"] {
            assert_eq!(text.parse(), Ok(mac), "{text}");
        }
    }

    #[test]
    fn rejects_invalid_addresses() {
        for text in [
            "",
            "52:54:00:12:ab",
            "52:54:00:12:ab:ff:00",
            "52:54:00:12:ab:f",
            "52:54:00:12:ab:fff",
            "52:54:00:12:ab:+f",
            "52:54:00:12:ab:gg",
            "52:54-00:12:ab:ff",
            "525400:12:ab:ff",
            " 52:54:00:12:ab:ff",
        ] {
            assert!(text.parse::<MacAddr>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn distinguishes_unicast_addresses() {
        for (text, unicast) in [
            ("52:54:00:00:00:01", true),
            ("00:00:00:00:00:01", true),
            ("00:00:00:00:00:00", false),
            ("ff:ff:ff:ff:ff:ff", false),
            ("01:00:5e:00:00:01", false),
            ("33:33:00:00:00:01", false),
        ] {
            assert_eq!(text.parse::<MacAddr>().unwrap().is_unicast(), unicast, "{text}");
        }
    }
}
