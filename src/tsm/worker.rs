//! Threads for calls that may never come back.
//!
//! A provider that hangs holds the kernel's one lock over all reports: a read in it ends when the
//! provider answers or the process is killed, not before. So the work runs on a thread of its own,
//! and the caller leaves at his deadline. The thread stays until the kernel lets it go, and then
//! still removes its entry.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use super::Error;

/// Most threads at a time that wait for the kernel, for one [`super::Tsm`]. The kernel makes one
/// report at a time; this is room for bursts, and the end of a pile of hung ones.
pub(super) const MOST: usize = 64;

/// Stack of a worker in bytes: it reads files and calls nothing deep.
const STACK: usize = 256 * 1024;

/// What a worker is doing now, for the message when it does not come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// `make`, `read`, `write`, `open`.
    pub verb: &'static str,
    /// The attribute, or the entry itself.
    pub what: &'static str,
}

/// Shared between the worker and whoever waits.
#[derive(Clone)]
pub(super) struct Watch(Arc<Mutex<Step>>);

impl Watch {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Step { verb: "begin", what: "the work" })))
    }

    pub(super) fn set(&self, step: Step) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = step;
    }

    pub(super) fn step(&self) -> Step {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The workers of one [`super::Tsm`].
#[derive(Clone, Default)]
pub(super) struct Pool(Arc<AtomicUsize>);

/// One place in the pool; free again when dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

type Work<T> = Box<dyn FnOnce() -> Result<T, Error> + Send>;

impl Pool {
    /// Runs `work`, and waits for it until `until`.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        until: Instant,
        watch: &Watch,
        work: Work<T>,
    ) -> Result<T, Error> {
        in_time(until, watch)?;
        let (send, receive) = tokio::sync::oneshot::channel();
        self.start(work, move |result| drop(send.send(result)))?;
        match tokio::time::timeout_at(until.into(), receive).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::Worker),
            Err(_) => Err(Error::Deadline { step: watch.step() }),
        }
    }

    /// The same for a caller without a runtime: blocks his thread.
    pub(super) fn run_blocking<T: Send + 'static>(
        &self,
        until: Instant,
        watch: &Watch,
        work: Work<T>,
    ) -> Result<T, Error> {
        in_time(until, watch)?;
        let (send, receive) = mpsc::sync_channel(1);
        self.start(work, move |result| drop(send.send(result)))?;
        match receive.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(result) => result,
            Err(RecvTimeoutError::Disconnected) => Err(Error::Worker),
            Err(RecvTimeoutError::Timeout) => Err(Error::Deadline { step: watch.step() }),
        }
    }

    fn start<T: Send + 'static>(
        &self,
        work: Work<T>,
        done: impl FnOnce(Result<T, Error>) + Send + 'static,
    ) -> Result<(), Error> {
        let place = self.place()?;
        let body = move || {
            let result = work();
            // Before the answer is out: who has it may count on the place.
            drop(place);
            done(result);
        };
        thread::Builder::new().name("tsm".to_owned()).stack_size(STACK).spawn(body).map_err(|_| Error::Worker)?;
        Ok(())
    }

    fn place(&self) -> Result<Place, Error> {
        let place = Place(Arc::clone(&self.0));
        // The place is counted at once, so that a refused one is given back by its drop.
        if self.0.fetch_add(1, Ordering::AcqRel) >= MOST { Err(Error::Crowded) } else { Ok(place) }
    }
}

/// After the deadline nothing is begun: the kernel is asked once for each answer that can be used.
fn in_time(until: Instant, watch: &Watch) -> Result<(), Error> {
    if until > Instant::now() { Ok(()) } else { Err(Error::Deadline { step: watch.step() }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn refused_when_too_many_wait_already_and_not_after() {
        let pool = Pool::default();
        let mut places: Vec<Place> = (0..MOST).map(|_| pool.place().unwrap()).collect();
        assert!(matches!(pool.place().map(drop), Err(Error::Crowded)));
        assert!(matches!(pool.place().map(drop), Err(Error::Crowded)));
        places.pop();
        assert!(pool.place().is_ok());
    }

    #[test]
    fn a_worker_that_dies_is_a_bug_and_no_wait() {
        let begun = Instant::now();
        let until = begun + Duration::from_secs(60);
        let died = Pool::default().run_blocking::<()>(until, &Watch::new(), Box::new(|| panic!("as told")));
        assert!(matches!(died, Err(Error::Worker)));
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
