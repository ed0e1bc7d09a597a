//! The calls of ddcutil(1).

use std::io;
use std::process::{Command, ExitStatus};

use serde::{Deserialize, Serialize};
use wakevirt_service::logs::quoted;

/// How ddcutil(1) finds a monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Display {
    /// By the serial number in its EDID.
    Serial(String),
    /// By the model name in its EDID.
    Model(String),
    /// By the number of its bus: 5 is `/dev/i2c-5`.
    Bus(u32),
}

/// A monitor, and the input that it is switched to while the domain does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// The monitor.
    pub display: Display,
    /// The VCP feature that selects the input. VESA MCCS defines 0x60; some monitors use another feature.
    pub feature: u8,
    /// The value of the feature for the host's input.
    pub host: u16,
}

/// Why ddcutil(1) failed.
#[derive(Debug, thiserror::Error)]
pub enum DdcError {
    /// It cannot be started.
    #[error("cannot run ddcutil: {0}; install the ddcutil package")]
    Start(io::Error),
    /// It reported an error.
    #[error("{} failed ({status}); its own message is above. \"ddcutil detect\" lists the monitors", quoted(.command))]
    Failed {
        /// The command.
        command: String,
        /// Its exit status.
        status: ExitStatus,
    },
}

impl Switch {
    /// The arguments of ddcutil(1) that set the feature to this value.
    ///
    /// `--noverify`: after the switch, many monitors do not answer on the input that is no longer selected.
    #[must_use]
    pub fn arguments(&self, value: u16) -> Vec<String> {
        let (option, monitor) = match &self.display {
            Display::Serial(serial) => ("--sn", serial.clone()),
            Display::Model(model) => ("--model", model.clone()),
            Display::Bus(bus) => ("--bus", bus.to_string()),
        };
        let feature = format!("{:02x}", self.feature);
        let value = format!("{value:#04x}");
        ["--noverify", option, &monitor, "setvcp", &feature, &value].map(str::to_owned).into()
    }

    /// Sets the feature to this value. ddcutil(1) prints its own messages.
    ///
    /// # Errors
    /// If ddcutil(1) fails.
    pub fn set(&self, value: u16) -> Result<(), DdcError> {
        let arguments = self.arguments(value);
        let status = Command::new("ddcutil").args(&arguments).status().map_err(DdcError::Start)?;
        if status.success() {
            return Ok(());
        }
        Err(DdcError::Failed { command: format!("ddcutil {}", arguments.join(" ")), status })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_monitor_as_configured() {
        let line =
            |display, feature, value| Switch { display, feature, host: 0x0f }.arguments(value).join(" ");
        for (display, expected) in [
            (Display::Serial("XYZ123".to_owned()), "--noverify --sn XYZ123 setvcp 60 0x11"),
            (Display::Model("LG 4K".to_owned()), "--noverify --model LG 4K setvcp 60 0x11"),
            (Display::Bus(5), "--noverify --bus 5 setvcp 60 0x11"),
        ] {
            assert_eq!(line(display, 0x60, 0x11), expected);
        }
        assert_eq!(line(Display::Bus(0), 0x04, 0x1d0), "--noverify --bus 0 setvcp 04 0x1d0");
    }
}
