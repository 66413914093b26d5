//! How the file is, as seen by everybody who uses it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{ErrorKind, StoreError};

/// How the store is. In every state but `Corrupt` and `Closed` writes are still tried, and the store tries by itself every few
/// seconds; it is `Ok` again with the first write that succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// Everything works.
    Ok,
    /// The file must not be written.
    ReadOnly {
        /// What was found.
        reason: String,
    },
    /// There is no room.
    Full {
        /// What was found.
        reason: String,
    },
    /// The file is damaged. Nothing is written any more, so that it does not get worse.
    Corrupt {
        /// What was found.
        reason: String,
    },
    /// The disk fails, or something else writes to the file all the time.
    Unavailable {
        /// What was found.
        reason: String,
    },
    /// It was closed.
    Closed,
}

impl StoreState {
    /// The names of all states.
    pub const NAMES: [&str; 6] = ["ok", "read_only", "full", "corrupt", "unavailable", "closed"];

    /// Its name, one of [`Self::NAMES`].
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ReadOnly { .. } => "read_only",
            Self::Full { .. } => "full",
            Self::Corrupt { .. } => "corrupt",
            Self::Unavailable { .. } => "unavailable",
            Self::Closed => "closed",
        }
    }

    /// What was found, if something is wrong.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Ok | Self::Closed => None,
            Self::ReadOnly { reason }
            | Self::Full { reason }
            | Self::Corrupt { reason }
            | Self::Unavailable { reason } => Some(reason),
        }
    }

    /// Whether everything works.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        *self == Self::Ok
    }

    fn after(error: &StoreError) -> Option<Self> {
        let reason = error.to_string();
        match error {
            StoreError::Full { .. } => Some(Self::Full { reason }),
            StoreError::ReadOnly { .. } => Some(Self::ReadOnly { reason }),
            StoreError::Corrupt { .. } => Some(Self::Corrupt { reason }),
            StoreError::Io { .. } | StoreError::Busy { .. } => Some(Self::Unavailable { reason }),
            _ => None,
        }
    }
}

/// The state and the errors, kept by whoever meets them.
#[derive(Debug)]
pub(crate) struct Health {
    state: Mutex<StoreState>,
    errors: [AtomicU64; ErrorKind::ALL.len()],
}

impl Health {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(StoreState::Ok), errors: Default::default() }
    }

    pub(crate) fn state(&self) -> StoreState {
        self.lock().clone()
    }

    pub(crate) fn errors(&self) -> [u64; ErrorKind::ALL.len()] {
        std::array::from_fn(|place| self.errors[place].load(Ordering::Relaxed))
    }

    /// Counts an error, and changes the state if it is one of the whole file.
    pub(crate) fn failed(&self, error: &StoreError) {
        if let Some(place) = ErrorKind::ALL.iter().position(|kind| *kind == error.kind()) {
            self.errors[place].fetch_add(1, Ordering::Relaxed);
        }
        let Some(after) = StoreState::after(error) else {
            match error {
                // One for each request that is refused: the sender hears it.
                StoreError::AtLimit { .. } => tracing::debug!(%error, "refused"),
                _ => tracing::warn!(%error, "the store failed"),
            }
            return;
        };
        let mut state = self.lock();
        if matches!(*state, StoreState::Corrupt { .. } | StoreState::Closed) {
            return;
        }
        // Said once for each state, not for each write that fails in it.
        if state.as_str() != after.as_str() {
            tracing::error!(%error, state = after.as_str(), "the store cannot keep anything for now");
        }
        *state = after;
    }

    /// Something was written.
    pub(crate) fn succeeded(&self) {
        let mut state = self.lock();
        if !matches!(*state, StoreState::Ok | StoreState::Corrupt { .. } | StoreState::Closed) {
            tracing::info!(before = state.as_str(), "the store works again");
            *state = StoreState::Ok;
        }
    }

    pub(crate) fn closed(&self) {
        *self.lock() = StoreState::Closed;
    }

    fn lock(&self) -> MutexGuard<'_, StoreState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> StoreError {
        StoreError::Full { path: "/x".into(), reason: "disk".into() }
    }

    #[test]
    fn states_come_and_go_but_damage_stays() {
        let health = Health::new();
        health.failed(&full());
        assert_eq!((health.state().as_str(), health.errors()[0]), ("full", 1));
        health.failed(&StoreError::Summary("x".into()));
        assert_eq!(health.state().as_str(), "full", "not of the file");
        health.succeeded();
        assert!(health.state().is_ok());
        health.failed(&StoreError::Corrupt { path: "/x".into(), reason: "page 2".into() });
        health.failed(&full());
        health.succeeded();
        assert_eq!(health.state().as_str(), "corrupt");
        assert!(health.state().reason().unwrap().contains("plumbline db check"));
        assert_eq!(health.errors(), [2, 0, 1, 0, 0, 1]);
        health.closed();
        assert_eq!(health.state(), StoreState::Closed);
    }

    #[test]
    fn every_state_has_its_name_in_the_list() {
        let reason = String::new;
        let all = [
            StoreState::Ok,
            StoreState::ReadOnly { reason: reason() },
            StoreState::Full { reason: reason() },
            StoreState::Corrupt { reason: reason() },
            StoreState::Unavailable { reason: reason() },
            StoreState::Closed,
        ];
        assert_eq!(all.map(|state| state.as_str()), StoreState::NAMES);
    }
}
