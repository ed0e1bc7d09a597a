//! How many questions to polkit are open: each may wait for somebody who types a password.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wakevirt_protocol::bus::Error;

/// For one user, however many connections that user has.
const MOST_OF_USER: usize = 16;
/// For all users together.
const MOST: usize = 64;

/// The questions that are open, by user ID. Clones count together.
#[derive(Debug, Clone, Default)]
pub(super) struct Questions(Arc<Mutex<HashMap<u32, usize>>>);

/// A question that is open until this is dropped.
#[derive(Debug)]
pub(super) struct Question {
    questions: Questions,
    user: u32,
}

impl Questions {
    /// Opens a question about this user.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`] where too many are open.
    pub(super) fn ask(&self, user: u32) -> Result<Question, Error> {
        let mut open = self.open();
        let refusal = if open.get(&user).is_some_and(|of_user| *of_user >= MOST_OF_USER) {
            format!("{MOST_OF_USER} calls of yours wait for polkit; wait for their end")
        } else if open.values().sum::<usize>() >= MOST {
            format!("{MOST} calls wait for polkit; try again, or as root, for whom it is not asked")
        } else {
            *open.entry(user).or_default() += 1;
            return Ok(Question { questions: self.clone(), user });
        };
        Err(Error::LimitExceeded(refusal))
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let mut open = self.questions.open();
        if let Some(of_user) = open.get_mut(&self.user) {
            *of_user -= 1;
            if *of_user == 0 {
                open.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_bounded_for_each_user_and_for_all() {
        let questions = Questions::default();
        let mut of_users: Vec<_> = (1..)
            .map(|user| (0..MOST_OF_USER).map(|_| questions.ask(user).unwrap()).collect::<Vec<_>>())
            .take(MOST / MOST_OF_USER)
            .collect();
        // The last one's own limit, and all others' together.
        for user in [1, 99] {
            assert!(matches!(questions.ask(user), Err(Error::LimitExceeded(_))));
        }
        of_users[0].pop();
        let other = questions.clone().ask(99).unwrap();
        assert!(questions.ask(1).is_err());
        drop(other);
        assert!(questions.ask(1).is_ok());
        assert!(questions.ask(2).is_err(), "this user still has as many as are allowed");
        of_users.clear();
        assert!(questions.open().is_empty());
    }
}
