//! `wakevirtctl doctor` on hosts with one fault each. It names the fault and, if possible, prints the command that
//! fixes it.
#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test may panic")]

mod advice;
mod fixes;
mod fixture;
mod polkit;
mod session;
