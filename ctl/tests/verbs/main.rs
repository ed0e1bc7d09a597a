//! The verbs that use the bus, with both services and libvirt's test driver on a host.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod allow;
mod completion;
mod explain;
mod host;
mod json;
mod list;
mod metrics;
mod monitor;
mod password;
mod site;
mod status;
mod terminal;
mod wake;
