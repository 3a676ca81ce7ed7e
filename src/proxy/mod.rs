//! The data plane: accept → limits → handshake → the app. No byte of a caller's reaches the app before
//! the caller is authenticated and on the allow-list of its listener.

#[cfg(feature = "compat")]
pub mod about;
pub mod access;
pub mod backend;
pub mod checks;
mod connection;
pub mod deadlines;
pub mod exposure;
pub mod framing;
mod h2c;
mod handshake;
pub mod headers;
pub mod http;
pub mod io;
pub mod issuing;
pub mod limits;
pub mod outbound;
pub mod overheard;
pub mod probes;
pub mod proxy_v2;
pub mod relay;
mod serving;
pub mod socket;
pub mod splice;
mod stalled;
pub mod watch;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep};

use crate::clock::Clock;
use crate::config::roles::Inbound;
use crate::config::spiffe::PeerId;
use crate::observe::metrics;
use crate::observe::plain::Page;
use crate::tls::exchange::Failure;
use crate::tls::peer::{Reason, Refusal, VerifiedPeer};
use crate::tls::server::Served;
use connection::Accepted;
use deadlines::ACCEPT;
use limits::Limits;
use watch::{Phase, reached};

/// A port that peers come in by: one `[[inbound]]`, or that of `[metrics]`.
pub struct Listener {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What peers reach through it.
    pub behind: Behind,
    /// Its place among the entrances.
    pub place: usize,
    /// Epochs.
    pub served: channel::Receiver<Option<Arc<Served>>>,
    /// The data plane's life.
    pub phase: channel::Receiver<Phase>,
    /// By which certificates end.
    pub clock: Clock,
    /// Shared by all listeners.
    pub limits: Arc<Limits>,
    /// Counts of this one.
    pub counts: Arc<metrics::Inbound>,
}

/// What stands behind a listener.
pub enum Behind {
    /// The app.
    App {
        /// Its configuration.
        inbound: Inbound,
        /// As HTTP clients see it.
        backend: Arc<http::Backend>,
    },
    /// Fixed pages of our own.
    Pages(Page),
}

/// Accepts until the pod drains. Dropping the socket then makes the kernel refuse newcomers.
pub async fn accept(listener: Arc<Listener>, socket: TcpListener) {
    let mut phase = listener.phase.clone();
    let mut pause = ACCEPT.0;
    loop {
        let accepted = tokio::select! {
            () = reached(&mut phase, Phase::Draining) => return,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                pause = ACCEPT.0;
                match listener.limits.admit(from.ip(), Instant::now()) {
                    Ok(stranger) => {
                        let accepted = Accepted { stream, from, stranger };
                        tokio::spawn(connection::serve(Arc::clone(&listener), accepted));
                    }
                    Err(shed) => {
                        listener.counts.shed(shed);
                        // Reset: a closed connection of ours would wait in the kernel for minutes.
                        let _ = socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
                        tracing::debug!(limit = shed.label(), "shed");
                    }
                }
            }
            Err(error) => {
                if pause == ACCEPT.0 {
                    tracing::warn!(kind = ?error.kind(), "no connection could be accepted; raise the container's limit on open files");
                }
                sleep(pause).await;
                pause = pause.saturating_mul(2).min(ACCEPT.1);
            }
        }
    }
}

impl Listener {
    /// What newcomers are served with, while its certificate is valid.
    fn entrance(&self) -> Option<(Arc<Served>, usize)> {
        let served = self.served.borrow().clone()?;
        (self.clock.now() < served.until).then_some((served, self.place))
    }

    /// A peer was turned away: by our design, so never an error.
    fn refuse(&self, refusal: &Refusal, from: SocketAddr) {
        let Refusal { reason, subject, names } = refusal;
        self.counts.refuse(*reason);
        match reason {
            // Port scanners, TCP probes and impatient clients: nobody's mistake that a log could mend.
            Reason::Gone | Reason::NotTls | Reason::TooSlow => {
                tracing::debug!(reason = reason.label(), %from, "peer refused");
            }
            _ => tracing::warn!(
                reason = reason.label(), %subject, san = %names, from = %from.ip().to_canonical(), listen = %self.listen,
                "peer refused"
            ),
        }
    }

    /// A peer that is known has not proven itself.
    fn unproven(&self, failure: &Failure, id: &PeerId, from: SocketAddr) {
        let reason = failure.reason();
        self.counts.refuse(reason);
        let from = from.ip().to_canonical();
        if reason == Reason::Gone {
            tracing::debug!(reason = reason.label(), peer = %id, %from, "peer refused");
            return;
        }
        tracing::warn!(
            reason = reason.label(), peer = %id, why = %failure, %from, listen = %self.listen,
            "peer refused"
        );
    }

    fn withdraw(&self, reason: Reason, peer: &VerifiedPeer) {
        withdraw(&self.counts, reason, peer);
    }

    fn app_unreachable(&self, inbound: &Inbound, kind: std::io::ErrorKind) {
        self.counts.app_unreachable.add(1);
        tracing::warn!(app = %inbound.app, ?kind, "the app does not take connections");
    }
}

/// A live connection was cut.
fn withdraw(counts: &metrics::Inbound, reason: Reason, peer: &VerifiedPeer) {
    counts.withdrawn.add(1);
    tracing::warn!(reason = reason.label(), peer = %peer.id(), "connection cut: its peer may no longer connect");
}
