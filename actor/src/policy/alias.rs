//! Additional MAC addresses of domains.

use serde::Deserialize;
use wakevirt_protocol::MacAddr;
use wakevirt_service::config::DomainPattern;

use super::origin::Origin;

/// An `[[alias]]` table: a MAC address that belongs to a domain but is not in its definition.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alias {
    #[serde(deserialize_with = "mac")]
    pub(crate) mac: MacAddr,
    pub(crate) domain: DomainPattern,
    #[serde(skip)]
    origin: Option<Origin>,
}

impl Alias {
    /// Whether the value of `domain` is a glob.
    #[must_use]
    pub const fn is_glob(&self) -> bool {
        self.domain.is_glob()
    }

    /// The location of the alias in the configuration, if it is from a file.
    #[must_use]
    pub const fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// The same alias, with this location in the configuration.
    #[must_use]
    pub(crate) fn at(self, origin: Origin) -> Self {
        Self { origin: Some(origin), ..self }
    }
}

fn mac<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<MacAddr, D::Error> {
    wakevirt_service::config::from_text(deserializer, "a MAC address such as \"52:54:00:12:34:56\"")
}

impl core::fmt::Display for Alias {
    /// Writes the keys in the format of `actor.toml`.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let domain = wakevirt_service::config::toml_string(self.domain.text());
        write!(f, "mac = \"{}\"\ndomain = {domain}", self.mac)
    }
}
