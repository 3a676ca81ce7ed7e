//! Which KBS to ask first: the configured order, with those that failed lately at the end.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a KBS that failed is asked last. Long enough that a set of fetches does not wait for
/// the same dead address again and again, short enough that a restarted first choice is found.
const MEMORY: Duration = Duration::from_secs(30);

/// Remembers the last failure of each URL, by its place in the list.
pub(super) struct Health {
    failed: Mutex<Vec<Option<Instant>>>,
}

impl Health {
    pub(super) fn of(urls: usize) -> Self {
        Self { failed: Mutex::new(vec![None; urls]) }
    }

    /// Every place once: those without a fresh failure in their own order, then the others, the
    /// oldest failure first. None is left out: a last resort is better than none.
    pub(super) fn order(&self, now: Instant) -> Vec<usize> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut order: Vec<(Option<Instant>, usize)> =
            failed.iter().map(|at| at.filter(|at| now.saturating_duration_since(*at) < MEMORY)).zip(0..).collect();
        order.sort();
        order.into_iter().map(|(_, place)| place).collect()
    }

    /// Notes how an exchange ended.
    pub(super) fn note(&self, place: usize, works: bool, now: Instant) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = failed.get_mut(place) {
            *entry = if works { None } else { Some(now) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_moves_a_url_to_the_end_for_a_while() {
        let health = Health::of(3);
        let start = Instant::now();
        assert_eq!(health.order(start), [0, 1, 2]);
        health.note(0, false, start);
        assert_eq!(health.order(start), [1, 2, 0]);
        health.note(1, false, start + Duration::from_secs(1));
        assert_eq!(health.order(start + Duration::from_secs(2)), [2, 0, 1]);
        assert_eq!(health.order(start + MEMORY), [0, 2, 1]);
        health.note(1, true, start + MEMORY);
        assert_eq!(health.order(start + MEMORY), [0, 1, 2]);
        health.note(7, false, start);
    }
}
