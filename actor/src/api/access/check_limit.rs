//! Limits the number of pending polkit checks: each can wait for a user to type a password.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wakevirt_protocol::bus::Error;

/// The maximum for one user, across all connections of that user.
const MAX_PER_USER: usize = 16;
/// The maximum for all users together.
const MAX_TOTAL: usize = 64;

/// The pending checks, by user ID. Clones share one limit.
#[derive(Debug, Clone, Default)]
pub(super) struct CheckLimit(Arc<Mutex<HashMap<u32, usize>>>);

/// A slot for one check. Dropping it frees the slot.
#[derive(Debug)]
pub(super) struct CheckSlot {
    limit: CheckLimit,
    user: u32,
}

impl CheckLimit {
    /// Takes a slot for a check on behalf of this user.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`] if too many checks are pending.
    pub(super) fn acquire(&self, user: u32) -> Result<CheckSlot, Error> {
        let mut pending = self.pending();
        let problem = if pending.get(&user).is_some_and(|count| *count >= MAX_PER_USER) {
            format!(
                "{MAX_PER_USER} calls from this user are waiting for polkit; try again when one of them has finished"
            )
        } else if pending.values().sum::<usize>() >= MAX_TOTAL {
            format!(
                "{MAX_TOTAL} calls are waiting for polkit; try again later, or call as root, which needs no check"
            )
        } else {
            *pending.entry(user).or_default() += 1;
            return Ok(CheckSlot { limit: self.clone(), user });
        };
        Err(Error::LimitExceeded(problem))
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CheckSlot {
    fn drop(&mut self) {
        let mut pending = self.limit.pending();
        if let Some(count) = pending.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                pending.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_pending_checks_per_user_and_in_total() {
        let limit = CheckLimit::default();
        let mut slots: Vec<_> = (1..)
            .map(|user| (0..MAX_PER_USER).map(|_| limit.acquire(user).unwrap()).collect::<Vec<_>>())
            .take(MAX_TOTAL / MAX_PER_USER)
            .collect();
        // User 1 has reached its own limit, and user 99 the total.
        for user in [1, 99] {
            assert!(matches!(limit.acquire(user), Err(Error::LimitExceeded(_))));
        }
        slots[0].pop();
        let other = limit.clone().acquire(99).unwrap();
        assert!(limit.acquire(1).is_err());
        drop(other);
        assert!(limit.acquire(1).is_ok());
        assert!(limit.acquire(2).is_err(), "user 2 still has all its slots");
        slots.clear();
        assert!(limit.pending().is_empty());
    }
}
