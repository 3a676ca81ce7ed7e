//! One connection of a peer: deadline → handshake → the app.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::server::TlsStream;

use super::access::Line;
use super::deadlines::{FIRST, HALF_CLOSED, IDLE_H2, IDLE_TCP};
use super::framing::Heads;
use super::h2c::H2c;
use super::headers::Told;
use super::http::{self, Caller, Place};
use super::limits::Stranger;
use super::overheard::Overheard;
use super::relay::Busy;
use super::serving::{self, Answerer, Patience};
use super::socket::{self, Metered};
use super::splice::{Ended, Silence, splice};
use super::watch::{Phase, Watch, Way, reached};
use super::{Behind, Listener, backend, handshake, proxy_v2};
use crate::config::roles::{ForwardIdentity, Inbound, Protocol};
use crate::config::spiffe::PeerId;
use crate::observe::metrics::Shed;
use crate::observe::plain::{Page, question};
use crate::tls::exchange::OURS_H2;
use crate::tls::peer::{Reason, Refusal};
use crate::tls::server::{H2, refusal};

/// A connection, as accepted.
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) from: SocketAddr,
    pub(super) stranger: Stranger,
}

/// A peer that may be here.
struct Entered {
    /// On the heap: a connection waits for hours, and what holds it is moved several times before.
    tls: Box<TlsStream<Metered>>,
    watch: Watch,
    held: Place,
    /// Who we are to it.
    ours: Option<PeerId>,
    from: SocketAddr,
    to: SocketAddr,
    deadline: Instant,
}

/// Serves it to its end.
pub(super) async fn serve(listener: Arc<Listener>, accepted: Accepted) {
    // In a box of its own: what a handshake takes is given back before the connection settles down.
    let Some(entered) = Box::pin(enter(&listener, accepted)).await else { return };
    match &listener.behind {
        Behind::App { inbound, .. } if inbound.protocol == Protocol::Tcp => tcp(&listener, inbound, entered).await,
        Behind::App { inbound, backend } => http(&listener, inbound, backend, entered).await,
        Behind::Pages(what) => pages(&listener, Arc::clone(what), entered).await,
    }
}

/// The handshake, and all that is asked of a peer. `None`: it was refused, and that was said.
async fn enter(listener: &Listener, accepted: Accepted) -> Option<Entered> {
    let deadline = Instant::now() + FIRST;
    let _handshaking = listener.counts.handshaking.hold();
    let Accepted { stream, from, stranger } = accepted;
    socket::tune(&stream);
    let Some((served, place)) = listener.entrance() else {
        listener.counts.shed(Shed::NoCertificate);
        return None;
    };
    let entrance = served.entrances.get(place)?;
    let to = stream.local_addr().unwrap_or(from);
    let stream = Metered::new(stream, Arc::clone(&listener.counts));
    let mut tls = match timeout_at(deadline, handshake::accept(entrance, stream)).await {
        Ok(Ok(tls)) => Box::new(tls),
        Ok(Err(error)) => {
            listener.refuse(&refusal(&error), from);
            return None;
        }
        Err(_) => {
            listener.refuse(&bare(Reason::TooSlow), from);
            return None;
        }
    };
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let known = match entrance.door.known(chain) {
        Ok(known) => known,
        Err(reason) => {
            listener.refuse(&bare(reason), from);
            return None;
        }
    };
    let id = known.id().clone();
    let admitting = Box::pin(handshake::admit(entrance, served.prover.as_ref(), known, &mut tls));
    let peer = match timeout_at(deadline, admitting).await {
        Ok(Ok(peer)) => peer,
        Ok(Err(failure)) => {
            listener.unproven(&failure, &id, from);
            return None;
        }
        Err(_) => {
            listener.refuse(&bare(Reason::TooSlow), from);
            return None;
        }
    };
    let permit = match listener.limits.authenticated(stranger, Instant::now()) {
        Ok(permit) => permit,
        Err(shed) => {
            listener.counts.shed(shed);
            return None;
        }
    };
    tls.get_mut().0.authenticated();
    listener.counts.accepted.add(1);
    let held = Place { permit, open: listener.counts.open.hold() };
    tracing::debug!(peer = %peer.id(), %from, "connected");
    let mut epochs = listener.served.clone();
    // An epoch that came during the handshake has not been seen: it is judged at once.
    epochs.mark_changed();
    let way = Way::In(place);
    let watch = Watch { served: epochs, phase: listener.phase.clone(), clock: listener.clock.clone(), way, peer };
    Some(Entered { tls, watch, held, ours: entrance.leaf.id().cloned(), from, to, deadline })
}

fn bare(reason: Reason) -> Refusal {
    Refusal { reason, subject: String::new(), names: String::new() }
}

async fn tcp(listener: &Listener, inbound: &Inbound, entered: Entered) {
    let Entered { tls, mut watch, held: _held, from, to, deadline, .. } = entered;
    let _active = listener.counts.active.hold();
    let header = match inbound.forward_identity {
        ForwardIdentity::ProxyV2 => Some(proxy_v2::header(from, to, &watch.peer.id().to_string())),
        ForwardIdentity::Xfcc | ForwardIdentity::None => None,
    };
    let dialling = async {
        let mut app = backend::dial(&inbound.app).await?;
        app.resets_on_close(true);
        if let Some(header) = header {
            app.write_all(&header).await?;
        }
        Ok::<_, std::io::Error>(app)
    };
    let mut line = inbound.access_log.then(|| Line::connection(listener.listen.to_string(), watch.peer.id()));
    // Boxed: over before the connection settles down.
    let mut app = match timeout_at(deadline, Box::pin(dialling)).await {
        Ok(Ok(app)) => app,
        failed => {
            if let Some(line) = &mut line {
                line.ended("app-unreachable");
            }
            let kind = match failed {
                Ok(Err(error)) => error.kind(),
                _ => std::io::ErrorKind::TimedOut,
            };
            return listener.app_unreachable(inbound, kind);
        }
    };
    let mut judge = watch.clone();
    let heard = Overheard::new(&mut app, line.as_ref().map(Line::tally));
    let whole = tokio::select! {
        ended = splice(tls, heard, Silence { open: IDLE_TCP, half_closed: HALF_CLOSED }) => {
            let (how, whole) = match ended {
                Ok(Ended::Both) => ("both", true),
                Ok(Ended::Silent) => {
                    tracing::debug!("closed for silence");
                    ("silent", false)
                }
                Err(error) => {
                    tracing::debug!(kind = ?error.kind(), "ended early");
                    ("early", false)
                }
            };
            if let Some(line) = &mut line {
                line.ended(how);
            }
            whole
        }
        reason = judge.withdrawn() => {
            listener.withdraw(reason, &watch.peer);
            false
        }
        () = watch.forced() => false,
    };
    if whole {
        // All that each side sent has reached the other one, its end too.
        app.resets_on_close(false);
    }
}

/// A reader's one question to the metrics.
async fn pages(listener: &Listener, pages: Page, entered: Entered) {
    let Entered { tls, mut watch, held: _held, .. } = entered;
    let mut judge = watch.clone();
    tokio::select! {
        () = Box::pin(question(tls, pages)) => {}
        reason = judge.withdrawn() => listener.withdraw(reason, &watch.peer),
        () = watch.forced() => {}
    }
}

fn http<'l>(
    listener: &'l Listener,
    inbound: &Inbound,
    backend: &Arc<http::Backend>,
    entered: Entered,
) -> impl Future<Output = ()> + use<'l> {
    let Entered { tls, watch, held, ours, from, deadline, .. } = entered;
    let xfcc = inbound.forward_identity == ForwardIdentity::Xfcc;
    let told = Told::new(xfcc, ours.as_ref(), watch.peer.id(), watch.peer.hash(), from);
    let h2 = [Some(H2), Some(OURS_H2)].contains(&tls.get_ref().1.alpn_protocol());
    let caller = Arc::new(Caller {
        backend: Arc::clone(backend),
        h2c: H2c::default(),
        told,
        heads: Heads::new(),
        busy: Busy::new(),
        watch,
        place: held,
    });
    let answerer: Answerer = {
        let caller = Arc::clone(&caller);
        Arc::new(move |request| Box::pin(http::answer(Arc::clone(&caller), request)))
    };
    let connection = serving::connection(tls, h2, &caller.heads, answerer);
    let patience = Patience { first: deadline, idle: h2.then_some(IDLE_H2) };
    let (mut judge, mut end) = (caller.watch.clone(), caller.watch.phase.clone());
    let drains = Some(caller.watch.phase.clone());
    // Not an `async fn`, as `serving::drive`.
    async move {
        tokio::select! {
            in_time = serving::drive(connection, &caller.busy, patience, drains) => if !in_time {
                listener.counts.refuse(Reason::TooSlow);
            },
            reason = judge.withdrawn() => listener.withdraw(reason, &caller.watch.peer),
            () = reached(&mut end, Phase::Forced) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Most bytes of the task of one connection, which each that waits holds. Beside it are the boxes of
    /// TLS and of hyper.
    /// About 800 of them are the ears that end it when its evidence is too old.
    const MOST: usize = 2560;

    fn size<F: Future>(_: impl Fn(Arc<Listener>, Accepted) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_task_of_a_connection_stays_small() {
        let size = size(serve);
        assert!(size <= MOST, "{size} bytes");
    }
}
