//! What a live connection listens to: whether its peer may still be here, and whether the pod ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::clock::Clock;
use crate::tls::peer::{Reason, VerifiedPeer};
use crate::tls::server::Served;
use crate::tls::trust::Door;

/// Longest sleep until a peer's evidence is too old: a guest that was suspended must notice.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// The data plane's life. Only ever goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Callers come in.
    #[default]
    Serving,
    /// None come in; those that are in may finish.
    Draining,
    /// Over.
    Forced,
}

/// Which way a connection was made, by the place in configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By a peer, to this `[[inbound]]`.
    In(usize),
    /// By us, from this `[[outbound]]`.
    Out(usize),
}

impl Way {
    fn door(self, served: &Served) -> Option<&Arc<Door>> {
        match self {
            Self::In(place) => served.entrances.get(place).map(|entrance| &entrance.door),
            Self::Out(place) => served.exits.get(place).map(|exit| &exit.door),
        }
    }
}

/// One connection's ears.
#[derive(Clone)]
pub struct Watch {
    /// Epochs.
    pub served: watch::Receiver<Option<Arc<Served>>>,
    /// The data plane's life.
    pub phase: watch::Receiver<Phase>,
    /// By which evidence grows old.
    pub clock: Clock,
    /// Which listener.
    pub way: Way,
    /// Who is connected.
    pub peer: VerifiedPeer,
}

impl Watch {
    /// Ends when the peer may be here no more; says why. Each epoch is judged once.
    pub async fn withdrawn(&mut self) -> Reason {
        let (clock, until) = (self.clock.clone(), self.peer.until());
        tokio::select! {
            reason = self.turned_away() => reason,
            () = passed(&clock, until) => Reason::StaleEvidence,
        }
    }

    async fn turned_away(&mut self) -> Reason {
        loop {
            if self.served.changed().await.is_err() {
                // Nobody publishes any more: what stands, stands.
                std::future::pending::<()>().await;
            }
            let served = self.served.borrow_and_update().clone();
            let Some(served) = served else { continue };
            if let Some(Err(reason)) = self.way.door(&served).map(|door| door.still(&self.peer)) {
                return reason;
            }
        }
    }

    /// Ends when everything is over.
    pub async fn forced(&mut self) {
        reached(&mut self.phase, Phase::Forced).await;
    }
}

/// Ends when the data plane has come to `phase`.
pub async fn reached(receiver: &mut watch::Receiver<Phase>, phase: Phase) {
    // Whoever drives the phases is gone: so is everything else.
    let _ = receiver.wait_for(|now| *now >= phase).await;
}

/// Ends when it is `until` (seconds since 1970). Never, where there is nothing to grow old.
pub async fn passed(clock: &Clock, until: Option<u64>) {
    let Some(until) = until else { return std::future::pending().await };
    loop {
        let left = until.saturating_sub(clock.now());
        if left == 0 {
            return;
        }
        sleep(Duration::from_secs(left).min(LONGEST_SLEEP)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn evidence_that_grows_old_ends_the_connection_then_and_not_before() {
        let begun = Instant::now();
        // The wall clock is turned back: the floor moves on with the time since boot.
        let clock = Clock::new(Arc::new(|| std::time::SystemTime::UNIX_EPOCH), Arc::new(move || begun.elapsed()));
        let until = clock.now() + 150;
        passed(&clock, Some(until)).await;
        assert_eq!(begun.elapsed().as_secs(), 150);
        let never = tokio::time::timeout(Duration::from_secs(1_000_000), passed(&clock, None));
        assert!(never.await.is_err());
    }
}
