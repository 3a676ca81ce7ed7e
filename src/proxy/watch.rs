//! What a live connection listens to: whether its peer may still be here, and whether the pod ends.

use std::sync::Arc;

use tokio::sync::watch;

use crate::tls::peer::{Reason, VerifiedPeer};
use crate::tls::server::Served;

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

/// One connection's ears.
#[derive(Clone)]
pub struct Watch {
    /// Epochs.
    pub served: watch::Receiver<Option<Arc<Served>>>,
    /// The data plane's life.
    pub phase: watch::Receiver<Phase>,
    /// Which listener.
    pub place: usize,
    /// Who is connected.
    pub peer: VerifiedPeer,
}

impl Watch {
    /// Ends when the peer may be here no more; says why. Each epoch is judged once.
    pub async fn withdrawn(&mut self) -> Reason {
        loop {
            if self.served.changed().await.is_err() {
                // Nobody publishes any more: what stands, stands.
                std::future::pending::<()>().await;
            }
            let served = self.served.borrow_and_update().clone();
            let Some(served) = served else { continue };
            if let Some(Err(reason)) = served.entrances.get(self.place).map(|entrance| entrance.door.still(&self.peer))
            {
                return reason;
            }
        }
    }

    /// Ends when no more is to be begun.
    pub async fn draining(&mut self) {
        reached(&mut self.phase, Phase::Draining).await;
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
