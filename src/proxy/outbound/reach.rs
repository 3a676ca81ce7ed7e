//! From a name to a peer that is who it must be. What fails a call of the app is told here: in the log, and in metrics.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Outlet;
use crate::config::grammar::HostPort;
use crate::config::roles::Outbound;
use crate::kbs::{DnsProblem, Undialled, dial};
use crate::observe::metrics::Held;
use crate::proxy::deadlines::{DIAL_PEER, FIRST};
use crate::proxy::relay::Why;
use crate::proxy::socket;
use crate::proxy::watch::{Watch, Way};
use crate::tls::client::Exit;
use crate::tls::exchange::{self, Failure, Side, is_ours};
use crate::tls::peer::{Reason, Refusal, VerifiedPeer};
use crate::tls::prover::Prover;
use crate::tls::server::{Served, refusal};

/// Which protocols the peer may choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// All that the app may want.
    All,
    /// HTTP/1.1 alone: what a WebSocket needs.
    Http1,
}

/// A peer that was reached.
pub(super) struct Reached {
    /// The session. On the heap, as that of a peer that came in.
    pub(super) tls: Box<TlsStream<TcpStream>>,
    /// Who it is, and what would end it.
    pub(super) watch: Watch,
    /// What we showed.
    pub(super) served: Arc<Served>,
    /// Its place among the connections.
    pub(super) held: (Held, OwnedSemaphorePermit),
}

/// Why there is no connection to the peer.
#[derive(Debug)]
pub enum Broken {
    /// There is no connection.
    Undialled(Undialled),
    /// What answers is not the peer, or refuses us.
    Refused(Refusal),
    /// It is known, and has not proven itself.
    Unproven(Failure),
}

/// The peer, once it is who it must be. Takes as long as it takes: whoever asks sets the deadline.
pub async fn reach(
    to: &HostPort,
    exit: &Exit,
    prover: Option<&Prover>,
) -> Result<(TlsStream<TcpStream>, VerifiedPeer), Broken> {
    let stream = dial(to, DIAL_PEER).await.map_err(Broken::Undialled)?;
    socket::tune(&stream);
    let name = name(to).ok_or(Broken::Undialled(Undialled::Name(DnsProblem::BadName)))?;
    let connecting = TlsConnector::from(Arc::clone(&exit.config)).connect(name, stream);
    let mut tls = connecting.await.map_err(|error| Broken::Refused(refusal(&error)))?;
    let (_, connection) = tls.get_ref();
    let known = exit.door.known(connection.peer_certificates().unwrap_or_default()).map_err(bare)?;
    let peer = if is_ours(connection.alpn_protocol()) {
        let side = Side { door: &exit.door, prover, known };
        exchange::connect(&mut tls, side).await.map_err(Broken::Unproven)?
    } else {
        exit.door.admit(known, None).map_err(|reason| Broken::Unproven(Failure::Refused(reason)))?
    };
    Ok((tls, peer))
}

/// Reaches the outlet's peer within [`FIRST`], with what this pod shows now.
pub(super) async fn call(outlet: &Outlet, offer: Offer) -> Result<Reached, Why> {
    let deadline = Instant::now() + FIRST;
    let Some(served) = outlet.served.borrow().clone().filter(|served| outlet.clock.now() < served.until) else {
        outlet.counts.shed.add(1);
        return Err(Why::NoCertificate);
    };
    let permit = outlet.place().ok_or(Why::TooMany)?;
    let Some(exit) = served.exits.get(outlet.place) else { return Err(Why::NoCertificate) };
    let http1 = (offer == Offer::Http1).then(|| exit.http1());
    let open = outlet.counts.open.hold();
    let reaching = reach(&outlet.outbound.to, http1.as_ref().unwrap_or(exit), served.prover.as_deref());
    let reached = timeout_at(deadline, reaching).await.unwrap_or_else(|_| Err(bare(Reason::TooSlow)));
    let (tls, peer) = reached.map_err(|broken| {
        outlet.tell(&broken);
        broken.why()
    })?;
    let watch = outlet.watch(peer);
    Ok(Reached { tls: Box::new(tls), watch, served, held: (open, permit) })
}

fn bare(reason: Reason) -> Broken {
    Broken::Refused(Refusal { reason, subject: String::new(), names: String::new() })
}

/// What is asked for in the handshake: for gateways that choose by it. Nobody's certificate is judged by it.
fn name(to: &HostPort) -> Option<ServerName<'static>> {
    ServerName::try_from(to.host.clone()).ok()
}

impl Broken {
    /// As in the log and in metrics. `None`: nobody was reached.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Undialled(_) => None,
            Self::Refused(refusal) => Some(refusal.reason),
            Self::Unproven(failure) => Some(failure.reason()),
        }
    }

    /// What an app that speaks HTTP is told.
    fn why(&self) -> Why {
        match self {
            Self::Refused(Refusal { reason: Reason::TooSlow, .. }) => Why::PeerSlow,
            _ => self.reason().map_or(Why::PeerUnreachable, Why::PeerRefused),
        }
    }
}

impl Outlet {
    /// What would end a connection to the peer, which stands now.
    pub(super) fn watch(&self, peer: VerifiedPeer) -> Watch {
        self.counts.connected.add(1);
        tracing::debug!(peer = %peer.id(), to = %self.outbound.to, "connected");
        let mut epochs = self.served.clone();
        // An epoch that came during the handshake has not been seen: it is judged at once.
        epochs.mark_changed();
        let (way, clock) = (Way::Out(self.place), self.clock.clone());
        Watch { served: epochs, phase: self.phase.clone(), clock, way, peer }
    }

    /// Why the app is not connected.
    fn tell(&self, broken: &Broken) {
        let Outbound { to, peer, .. } = &self.outbound;
        match broken {
            Broken::Undialled(Undialled::Name(problem)) => {
                self.counts.unreachable.add(1);
                tracing::warn!(%to, why = %problem, "peer not reached");
            }
            Broken::Undialled(Undialled::Unreachable(kind)) => {
                self.counts.unreachable.add(1);
                tracing::warn!(%to, ?kind, "peer not reached");
            }
            Broken::Refused(Refusal { reason, subject, names }) => {
                self.counts.refuse(*reason);
                tracing::warn!(reason = reason.label(), %to, expected = %peer, %subject, san = %names, "peer refused");
            }
            Broken::Unproven(failure) => {
                let reason = failure.reason();
                self.counts.refuse(reason);
                tracing::warn!(reason = reason.label(), %to, expected = %peer, why = %failure, "peer refused");
            }
        }
    }
}
