//! Fresh reports of this guest's hardware, for peers that demand them: one at a time, and not more than the
//! hardware gives.
//!
//! SEV-SNP firmware holds guests back that ask too often, and a TDX quote takes a second of a service that
//! all guests of the host share. A peer may ask for one with each connection; so there is a budget, and a
//! connection that does not get its report before its deadline is not proven.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, sleep_until};

use crate::finding::Finding;
use crate::formats::frames::MAX_REPORT;

/// Most reports at once after a rest: a pod whose peers all come back together. A bound of ours.
const BURST: u32 = 8;

/// How long it takes until one more may be made: SEV-SNP firmware holds a guest back for up to 2 s (Linux,
/// `SNP_REQ_RETRY_DELAY`).
const EACH: Duration = Duration::from_secs(2);

/// Most connections that wait for a report: with [`EACH`] none behind them would have its own in time.
const WAITING: usize = 16;

/// A report that is being made.
pub type Answer = Pin<Box<dyn Future<Output = Result<Vec<u8>, Finding>> + Send>>;

/// Asks for a report over these bytes: evidence in Trustee's JSON, without an event log.
pub type Ask = Box<dyn Fn([u8; 64]) -> Answer + Send + Sync>;

/// Where fresh reports come from. One for the life of the process.
pub struct Reports {
    ask: Ask,
    places: Semaphore,
    turn: Mutex<Budget>,
    failing: AtomicBool,
}

/// Why there is no report. Each message continues "a fresh report …".
#[derive(Debug, thiserror::Error)]
pub enum Unable {
    /// Others wait already.
    #[error("cannot be made in time: 16 connections wait for one already")]
    TooMany,
    /// Longer than a peer takes.
    #[error("is longer than 64 KiB, which is all that a peer takes")]
    TooLong,
    /// The guest gives none.
    #[error("is not to be had: {}", .0.saw)]
    Failed(Box<Finding>),
}

/// Reports that may be made, as time gives them back.
struct Budget {
    left: u32,
    since: Instant,
}

impl Budget {
    /// When the next one may be made. Takes nothing: whoever waits for it may go away, and would else take
    /// with it what nobody gives back.
    fn due(&mut self, now: Instant) -> Instant {
        self.refill(now);
        if self.left > 0 { now } else { self.since + EACH }
    }

    /// Takes one, once its time has come.
    fn take(&mut self, now: Instant) {
        self.refill(now);
        self.left = self.left.saturating_sub(1);
    }

    fn refill(&mut self, now: Instant) {
        while self.left < BURST && now.saturating_duration_since(self.since) >= EACH {
            self.left = self.left.saturating_add(1);
            self.since += EACH;
        }
        if self.left == BURST {
            self.since = now;
        }
    }
}

impl Reports {
    /// By whoever gives them.
    pub fn new(ask: Ask) -> Self {
        let turn = Mutex::new(Budget { left: BURST, since: Instant::now() });
        Self { ask, places: Semaphore::new(WAITING), turn, failing: AtomicBool::new(false) }
    }

    /// A report over these bytes, for a peer. Whoever waits no longer gives its place back, and its turn.
    pub async fn make(&self, report_data: [u8; 64]) -> Result<Vec<u8>, Unable> {
        let _place = self.places.try_acquire().map_err(|_| Unable::TooMany)?;
        let mut turn = self.turn.lock().await;
        sleep_until(turn.due(Instant::now())).await;
        turn.take(Instant::now());
        let made = self.ask(report_data).await;
        drop(turn);
        self.tell(made.as_ref().err());
        made
    }

    /// The same for this guest itself, once an epoch: at once, out of no budget. Peers could else hold its
    /// renewals up for as long as they go on asking.
    pub async fn own(&self, report_data: [u8; 64]) -> Result<Vec<u8>, Unable> {
        self.ask(report_data).await
    }

    async fn ask(&self, report_data: [u8; 64]) -> Result<Vec<u8>, Unable> {
        let report = (self.ask)(report_data).await.map_err(|finding| Unable::Failed(Box::new(finding)))?;
        if report.len() > MAX_REPORT { Err(Unable::TooLong) } else { Ok(report) }
    }

    /// Once for each time that it begins to fail: peers can make it fail as often as they connect.
    fn tell(&self, error: Option<&Unable>) {
        let before = self.failing.swap(error.is_some(), Ordering::Relaxed);
        if let (false, Some(error)) = (before, error) {
            tracing::warn!("a peer demands the hardware's word: a fresh report {error}; it is told that there is none");
        }
    }
}

/// Says that there are some.
impl fmt::Debug for Reports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reports")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;
    use crate::finding::Class;

    fn of(length: usize) -> (Arc<AtomicU32>, Reports) {
        let made = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&made);
        let ask = move |_| -> Answer {
            count.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move { Ok(vec![b'{'; length]) })
        };
        (made, Reports::new(Box::new(ask)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_given_at_once_and_then_one_each_two_seconds() {
        let (made, reports) = of(1);
        let begun = Instant::now();
        for _ in 0..BURST {
            reports.make([1; 64]).await.unwrap();
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        for _ in 0..3 {
            reports.make([1; 64]).await.unwrap();
        }
        assert_eq!(begun.elapsed(), EACH * 3);
        // A long rest gives a burst back, and no more.
        tokio::time::advance(EACH * 100).await;
        let rested = Instant::now();
        for _ in 0..=BURST {
            reports.make([1; 64]).await.unwrap();
        }
        assert_eq!((rested.elapsed(), made.load(Ordering::Relaxed)), (EACH, BURST * 2 + 4));
    }

    /// As many as may wait, behind a burst that has been given.
    async fn crowd(reports: &Arc<Reports>) -> Vec<JoinHandle<Result<Vec<u8>, Unable>>> {
        let waiting = (0..WAITING).map(|_| {
            let reports = Arc::clone(reports);
            tokio::spawn(async move { reports.make([1; 64]).await })
        });
        let waiting = waiting.collect();
        tokio::task::yield_now().await;
        assert!(matches!(reports.make([1; 64]).await, Err(Unable::TooMany)));
        waiting
    }

    async fn go_away(waiting: Vec<JoinHandle<Result<Vec<u8>, Unable>>>) {
        waiting.iter().for_each(JoinHandle::abort);
        for each in waiting {
            assert!(each.await.is_err());
        }
    }

    async fn tired() -> (Arc<AtomicU32>, Arc<Reports>) {
        let (made, reports) = of(1);
        for _ in 0..BURST {
            reports.make([1; 64]).await.unwrap();
        }
        (made, Arc::new(reports))
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_behind_too_many_is_told_at_once() {
        let (_, reports) = tired().await;
        let waiting = crowd(&reports).await;
        // Whoever goes away makes room.
        go_away(waiting).await;
        reports.make([1; 64]).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_goes_away_takes_no_report_with_it() {
        let (made, reports) = tired().await;
        let begun = Instant::now();
        for _ in 0..50 {
            go_away(crowd(&reports).await).await;
        }
        // One by one too: each had the turn, and waited for its time.
        for _ in 0..50 {
            assert!(timeout(Duration::from_millis(1), reports.make([1; 64])).await.is_err());
        }
        reports.make([1; 64]).await.unwrap();
        assert_eq!((begun.elapsed(), made.load(Ordering::Relaxed)), (EACH, BURST + 1));
    }

    #[tokio::test(start_paused = true)]
    async fn renewals_are_not_held_up_by_waiting_peers() {
        let (made, reports) = tired().await;
        let waiting = crowd(&reports).await;
        let begun = Instant::now();
        reports.own([1; 64]).await.unwrap();
        assert_eq!((begun.elapsed(), made.load(Ordering::Relaxed)), (Duration::ZERO, BURST + 1));
        go_away(waiting).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_peer_takes_and_what_is_not_to_be_had_is_no_report() {
        assert!(matches!(of(MAX_REPORT + 1).1.make([1; 64]).await, Err(Unable::TooLong)));
        assert_eq!(of(MAX_REPORT).1.make([1; 64]).await.unwrap().len(), MAX_REPORT);
        let none = Reports::new(Box::new(|_| Box::pin(async { Err(Finding::new(Class::NoEvidence, "no device")) })));
        let said = none.make([1; 64]).await.unwrap_err().to_string();
        assert_eq!(said, "is not to be had: no device");
    }
}
