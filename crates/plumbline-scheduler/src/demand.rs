//! Whose work it is, how urgent, and until when it is wanted.

use std::sync::Arc;
use std::time::Instant;

/// How urgent work is; the order is that of service. Less urgent work keeps a small guaranteed share, so nothing starves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Answered soon or refused at once: admitted while the estimated time to its answer is at most
    /// [`SchedulerConfig::interactive_stretch`](crate::SchedulerConfig::interactive_stretch) times what it takes alone.
    Interactive,
    /// Somebody waits for it, but not by the clock. Admitted by tokens.
    #[default]
    Standard,
    /// Nobody waits for it. Admitted by tokens, up to three quarters of the queue.
    Bulk,
}

impl Class {
    /// All classes, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Standard, Self::Bulk];

    /// Its name on the wire and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Standard => "standard",
            Self::Bulk => "bulk",
        }
    }

    /// The class of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == name)
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

/// Whose work it is, how urgent, and until when it is wanted.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    /// How urgent it is.
    pub class: Class,
    /// Within a class, runs that have work waiting get equal numbers of tokens.
    pub run: Arc<str>,
    /// What has not started by then is dropped, and the ticket says so.
    pub deadline: Option<Instant>,
}

impl Demand {
    /// Work of a class, of nobody in particular, without a deadline.
    #[must_use]
    pub fn of(class: Class) -> Self {
        Self { class, ..Self::default() }
    }
}
