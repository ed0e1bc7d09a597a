//! The calls of ddcutil(1).

use std::io;
use std::process::{Command, ExitStatus};

use wakevirt_host::config::{Monitor, MonitorId};
use wakevirt_service::logs::quoted;

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

/// Sets the monitor's feature to this value. ddcutil(1) prints its own messages.
///
/// # Errors
/// If ddcutil(1) fails.
pub fn set(monitor: &Monitor, value: u16) -> Result<(), DdcError> {
    let arguments = arguments(monitor, value);
    let status = Command::new("ddcutil").args(&arguments).status().map_err(DdcError::Start)?;
    if status.success() {
        return Ok(());
    }
    Err(DdcError::Failed { command: format!("ddcutil {}", arguments.join(" ")), status })
}

/// The arguments of ddcutil(1) that set the feature to this value.
///
/// `--noverify`: after the switch, a monitor might not answer on the input that is no longer selected.
fn arguments(monitor: &Monitor, value: u16) -> Vec<String> {
    let (option, id) = match &monitor.id {
        MonitorId::Serial(serial) => ("--sn", serial.clone()),
        MonitorId::Model(model) => ("--model", model.clone()),
        MonitorId::Bus(bus) => ("--bus", bus.to_string()),
    };
    let feature = format!("{:02x}", monitor.feature);
    let value = format!("{value:#04x}");
    ["--noverify", option, &id, "setvcp", &feature, &value].map(str::to_owned).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_monitor_as_configured() {
        let line = |id, feature, value| arguments(&Monitor { id, vm: 0, host: 0, feature }, value).join(" ");
        for (id, expected) in [
            (MonitorId::Serial("XYZ123".to_owned()), "--noverify --sn XYZ123 setvcp 60 0x11"),
            (MonitorId::Model("LG 4K".to_owned()), "--noverify --model LG 4K setvcp 60 0x11"),
            (MonitorId::Bus(5), "--noverify --bus 5 setvcp 60 0x11"),
        ] {
            assert_eq!(line(id, 0x60, 0x11), expected);
        }
        assert_eq!(line(MonitorId::Bus(0), 0x04, 0x1d0), "--noverify --bus 0 setvcp 04 0x1d0");
    }
}
