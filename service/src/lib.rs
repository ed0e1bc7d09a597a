//! Code that wakevirt's programs share: configuration files, logs, clocks, the change of user, the bus, common options,
//! names of units, the commands of init systems, signals, and reports to the service manager.

pub mod bus;
pub mod clock;
pub mod config;
pub mod init;
pub mod lifecycle;
pub mod logs;
pub mod options;
pub mod unit_name;
pub mod user;

#[cfg(test)]
mod testing;
