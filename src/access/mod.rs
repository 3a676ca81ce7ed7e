//! The ordered ways to the KBS ([`ways`]): our own attestation ([`rcar`]) or the agent's token
//! ([`token`]), both on the road in [`direct`], or the guest's confidential data hub ([`cdh`]). Which
//! of them there are, the guest shows ([`standing`]); whose configuration says where the KBS is,
//! somebody vouches for ([`vouch`]).

pub mod cdh;
pub mod checks;
pub mod direct;
pub mod genuine;
pub mod hint;
pub mod rcar;
pub mod reports;
pub mod source;
pub mod standing;
pub mod token;
pub mod vouch;
pub mod ways;

use std::time::Duration;

use tokio::time::Instant;

use crate::finding::Finding;
use crate::kbs::{Client, Error, Session};

/// How a session with a KBS is come by.
pub trait Attester: Send + Sync + 'static {
    /// One try. The outer error is the guest's and final; the inner one is the KBS's, with its remedy.
    fn attest(
        &self,
        client: &Client,
        deadline: Deadline,
    ) -> impl Future<Output = Result<Result<Session, Error>, Finding>> + Send;

    /// How often evidence, or a token in its place, was shown to a KBS.
    fn attestations(&self) -> u64;
}

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
