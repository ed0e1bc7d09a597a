//! What wakevirt's services have in common as programs: configuration files, logs, the change of
//! user, the bus, the common options, signals and readiness.

pub mod bus;
pub mod clock;
pub mod config;
pub mod lifecycle;
pub mod logs;
pub mod options;
pub mod user;

#[cfg(test)]
mod testing;
