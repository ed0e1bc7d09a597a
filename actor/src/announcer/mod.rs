//! All that the actor exchanges with the announcer.

pub mod interest;
pub(crate) mod interfaces;
pub mod listen;
pub mod lost;
pub mod merge;
pub mod password;
pub mod refusal;
