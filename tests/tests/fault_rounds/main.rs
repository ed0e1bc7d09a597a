//! Rounds of faults: in each round, a component fails at a random moment. A packet arrives before, during and after the
//! fault. Each announced packet wakes its domain exactly once, unless the actor reports that the wake failed or expired,
//! or the fault erased the packet.
//!
//! `WAKEVIRT_SEED` sets the seed of the random numbers, which each test prints. `WAKEVIRT_ROUNDS` multiplies the number of
//! rounds. The `long` tests are part of `make soak`.
#![expect(clippy::expect_used, clippy::panic, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "--nocapture shows the measured times")]

mod clocks;
mod domains;
mod double_start;
mod gap;
mod interfaces;
mod kills;
mod resources;
mod restarts;
mod round;
mod seed;
mod state_files;
mod stops;
mod system;
