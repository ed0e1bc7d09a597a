//! The `monitor` key.

use core::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use wakevirt_service::config::{self, toml_string};
use wakevirt_service::logs::quoted;

/// The default VCP feature: the input source (VESA MCCS 2.2, feature 60).
const INPUT_SOURCE: u8 = 0x60;
/// The maximum length of a serial number or a model, in bytes. EDID has 13 bytes for each.
const MAX_TEXT: usize = 64;

/// Identifies a monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MonitorId {
    /// The serial number in its EDID.
    Serial(String),
    /// The model in its EDID.
    Model(String),
    /// The number of its I2C bus: 3 for `/dev/i2c-3`.
    Bus(u32),
}

/// A monitor that shows a domain while the domain runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Monitor {
    /// Which monitor.
    pub id: MonitorId,
    /// The value of the feature while the domain runs.
    pub vm: u16,
    /// The value of the feature afterwards.
    pub host: u16,
    /// The VCP feature that selects the input.
    pub feature: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMonitor {
    serial: Option<String>,
    model: Option<String>,
    #[serde(default, deserialize_with = "bus")]
    bus: Option<u32>,
    #[serde(default, deserialize_with = "value")]
    vm: Option<u16>,
    #[serde(default, deserialize_with = "value")]
    host: Option<u16>,
    #[serde(default, deserialize_with = "feature")]
    feature: Option<u8>,
}

fn bus<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
    config::number(input, 0..=255).map(Some)
}

fn value<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u16>, D::Error> {
    let value = config::number(input, 0..=u16::MAX.into())?;
    u16::try_from(value).map(Some).map_err(D::Error::custom)
}

fn feature<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u8>, D::Error> {
    let value = config::number(input, 0..=u8::MAX.into())?;
    u8::try_from(value).map(Some).map_err(D::Error::custom)
}

impl<'de> Deserialize<'de> for Monitor {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Self::try_from(RawMonitor::deserialize(input)?).map_err(D::Error::custom)
    }
}

impl TryFrom<RawMonitor> for Monitor {
    type Error = String;

    fn try_from(raw: RawMonitor) -> Result<Self, String> {
        let id = match (raw.serial, raw.model, raw.bus) {
            (Some(serial), None, None) => MonitorId::Serial(text(serial)?),
            (None, Some(model), None) => MonitorId::Model(text(model)?),
            (None, None, Some(bus)) => MonitorId::Bus(bus),
            _ => {
                return Err(
                    "a monitor needs exactly one of serial, model and bus; \"ddcutil detect\" shows them"
                        .to_owned(),
                );
            }
        };
        let (Some(vm), Some(host)) = (raw.vm, raw.host) else {
            return Err(
                "a monitor needs the two inputs: vm = … and host = …; \"ddcutil capabilities\" shows them"
                    .to_owned(),
            );
        };
        Ok(Self { id, vm, host, feature: raw.feature.unwrap_or(INPUT_SOURCE) })
    }
}

/// Checks a serial number or a model.
fn text(text: String) -> Result<String, String> {
    config::check_text(&text, MAX_TEXT)?;
    if text.is_empty() || text.starts_with('-') {
        return Err(format!(
            "{} is not a serial number or a model; copy it from \"ddcutil detect\"",
            quoted(&text)
        ));
    }
    Ok(text)
}

impl fmt::Display for MonitorId {
    /// Writes the key in the format of `host.toml`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial(serial) => write!(f, "serial = {}", toml_string(serial)),
            Self::Model(model) => write!(f, "model = {}", toml_string(model)),
            Self::Bus(bus) => write!(f, "bus = {bus}"),
        }
    }
}

impl fmt::Display for Monitor {
    /// Writes the value in the format of `host.toml`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, vm, host, feature } = self;
        write!(f, "{{ {id}, vm = {vm:#04x}, host = {host:#04x}, feature = {feature:#04x} }}")
    }
}
