//! How many certificates an issuer gives: in all, and to one identity. Whoever has an identity cannot take
//! what others need, and a CA key that is used ten times as often as the mesh needs it is noticed.
//!
//! Only requests that are proven are counted: a stranger uses up nobody's share.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::spiffe::PeerId;

/// What the numbers are for.
const WINDOW: Duration = Duration::from_secs(60);

/// Most identities that are counted apart; those beyond share one count. Pins have as many patterns.
const MAX_IDENTITIES: usize = 4096;

/// Which of the limits is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// `issuer.per_minute`.
    All,
    /// `issuer.per_identity`.
    Identity,
}

/// The counts of one process.
pub struct Quota {
    per_minute: u32,
    per_identity: u32,
    counted: Mutex<Counted>,
}

#[derive(Default)]
struct Counted {
    all: Window,
    /// `None`: all for whom there is no room.
    each: HashMap<Option<PeerId>, Window>,
}

#[derive(Default)]
struct Window {
    since: Option<Instant>,
    count: u32,
}

impl Window {
    fn is_over(&self, now: Instant) -> bool {
        self.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW)
    }

    fn has_room(&mut self, most: u32, now: Instant) -> bool {
        if self.is_over(now) {
            *self = Self { since: Some(now), count: 0 };
        }
        self.count < most
    }

    fn take(&mut self) {
        self.count = self.count.saturating_add(1);
    }
}

impl Quota {
    /// So many in a minute, and of those so many for one identity.
    pub fn new(per_minute: u32, per_identity: u32) -> Self {
        Self { per_minute, per_identity, counted: Mutex::default() }
    }

    /// Takes one for `identity`, if there is one.
    pub fn take(&self, identity: &PeerId, now: Instant) -> Result<(), Full> {
        let mut guard = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let Counted { all, each } = &mut *guard;
        if !all.has_room(self.per_minute, now) {
            return Err(Full::All);
        }
        let mut key = Some(identity.clone());
        if !each.contains_key(&key) && each.len() >= MAX_IDENTITIES {
            each.retain(|_, window| !window.is_over(now));
            if each.len() >= MAX_IDENTITIES {
                key = None;
            }
        }
        let one = each.entry(key).or_default();
        if !one.has_room(self.per_identity, now) {
            return Err(Full::Identity);
        }
        one.take();
        all.take();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> PeerId {
        PeerId::Dns(name.to_owned())
    }

    #[test]
    fn an_identity_that_asks_too_often_takes_nothing_from_others() {
        let (quota, now) = (Quota::new(5, 2), Instant::now());
        assert_eq!((quota.take(&id("a"), now), quota.take(&id("a"), now)), (Ok(()), Ok(())));
        for _ in 0..10 {
            assert_eq!(quota.take(&id("a"), now), Err(Full::Identity));
        }
        assert_eq!(quota.take(&id("b"), now), Ok(()));
        assert_eq!(quota.take(&id("a"), now + WINDOW), Ok(()), "a minute later it may again");
    }

    #[test]
    fn all_of_them_together_have_a_limit() {
        let (quota, now) = (Quota::new(3, 2), Instant::now());
        for name in ["a", "b", "c"] {
            assert_eq!(quota.take(&id(name), now), Ok(()));
        }
        assert_eq!(quota.take(&id("d"), now), Err(Full::All));
        assert_eq!(quota.take(&id("d"), now + WINDOW), Ok(()));
    }

    #[test]
    fn identities_without_end_take_bounded_memory() {
        let (quota, now) = (Quota::new(u32::MAX, 1), Instant::now());
        let given = (0..2 * MAX_IDENTITIES).filter(|n| quota.take(&id(&n.to_string()), now).is_ok()).count();
        assert_eq!(given, MAX_IDENTITIES + 1, "those beyond share one count");
        assert!(quota.counted.lock().unwrap().each.len() <= MAX_IDENTITIES + 1);
    }
}
