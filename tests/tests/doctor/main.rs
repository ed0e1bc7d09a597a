//! `wakevirtctl doctor` on hosts that are broken in one way each. It names the fault, and the command that it prints
//! cures it: afterwards a packet wakes the domain.
#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test may panic")]

mod advice;
mod cures;
mod patient;
