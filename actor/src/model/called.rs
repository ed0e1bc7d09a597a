//! Whether a hypervisor was called for a wake, and how a later connection can recognise that the call succeeded.

use serde::{Deserialize, Serialize};

/// Why a domain is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// The hypervisor does not report that the domain has run, or does not know: for example, the domain has not run since
    /// the hypervisor started.
    Unknown,
    /// Its guest shut down.
    Shutdown,
    /// A user switched it off.
    Destroyed,
    /// Its guest or its process crashed.
    Crashed,
    /// Its state was saved.
    Saved,
    /// The hypervisor lost it while restarting, for example because it had been interrupted while it started the domain.
    Lost,
    /// Its last start failed, or was interrupted.
    Failed,
}

/// Whether the hypervisor was called for a wake.
///
/// The state file contains it. The first two variants have the encoding of a `bool`, which earlier versions wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Called {
    /// It was not called.
    No,
    /// It may have been called.
    Maybe,
    /// It may have been called to start the domain, which was off for this reason.
    WhileOff(Stop),
    /// It was called, and has reported that the domain is running.
    Running,
}

impl Called {
    /// Whether it may have been called.
    #[must_use]
    pub const fn is_possible(self) -> bool {
        !matches!(self, Self::No)
    }

    /// The value after an attempt, which reports whether the hypervisor may have been called for the wake.
    #[must_use]
    pub const fn after(self, called: bool) -> Self {
        match (called, self) {
            (false, _) => Self::No,
            (true, Self::No) => Self::Maybe,
            (true, earlier) => earlier,
        }
    }

    /// The result of the call if the domain is off for this reason: whether the domain was started. `None` if the call
    /// may not have been made, or was interrupted. If the domain was off for the same reason before, only a report by the hypervisor shows
    /// that it has run.
    #[must_use]
    pub fn result(self, stop: Stop) -> Option<Result<(), ()>> {
        match self {
            Self::No | Self::Maybe => None,
            Self::WhileOff(before) if stop == before => None,
            Self::WhileOff(_) => match stop {
                // A hypervisor that exits during a start can report the interrupted start as lost or crashed.
                Stop::Unknown | Stop::Crashed | Stop::Lost => None,
                Stop::Failed => Some(Err(())),
                Stop::Shutdown | Stop::Destroyed | Stop::Saved => Some(Ok(())),
            },
            Self::Running => Some(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_encoding_of_earlier_versions() {
        for (earlier, called) in [(false, Called::No), (true, Called::Maybe)] {
            let bytes = postcard::to_allocvec(&earlier).unwrap();
            assert_eq!(postcard::to_allocvec(&called).unwrap(), bytes);
            assert_eq!(postcard::from_bytes::<Called>(&bytes).unwrap(), called);
        }
    }

    #[test]
    fn a_new_reason_shows_the_result_of_the_call() {
        let all = [
            Stop::Unknown,
            Stop::Shutdown,
            Stop::Destroyed,
            Stop::Crashed,
            Stop::Saved,
            Stop::Lost,
            Stop::Failed,
        ];
        for before in all {
            for now in all {
                let expected = match now {
                    Stop::Unknown | Stop::Crashed | Stop::Lost => None,
                    _ if now == before => None,
                    _ => Some(if now == Stop::Failed { Err(()) } else { Ok(()) }),
                };
                assert_eq!(Called::WhileOff(before).result(now), expected, "{before:?}, {now:?}");
            }
            assert_eq!(Called::Running.result(before), Some(Ok(())));
            assert_eq!((Called::Maybe.result(before), Called::No.result(before)), (None, None));
        }
    }
}
