//! The ordered ways to the KBS: our own attestation ([`direct`]), or the guest's confidential data
//! hub ([`cdh`]).

pub mod cdh;
pub mod direct;
pub mod hint;

use std::time::Duration;

use tokio::time::Instant;

/// One moment that everything must be done by. Handed down, never reset.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// `budget` from now.
    pub fn after(budget: Duration) -> Self {
        let now = Instant::now();
        Self(now.checked_add(budget).unwrap_or(now))
    }

    /// `budget` from a moment that has passed already.
    pub fn since(start: Instant, budget: Duration) -> Self {
        Self(start.checked_add(budget).unwrap_or(start))
    }

    /// The moment.
    pub fn at(self) -> Instant {
        self.0
    }

    /// What is left; zero when it is over.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// The same deadline, `reserve` earlier, but never in the past.
    #[must_use]
    pub fn before(self, reserve: Duration) -> Self {
        let now = Instant::now();
        Self(self.0.checked_sub(reserve).map_or(now, |at| at.max(now)))
    }
}
