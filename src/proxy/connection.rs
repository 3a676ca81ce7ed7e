//! One connection of a peer: deadline → handshake → the app.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_rustls::server::TlsStream;

use super::access::Line;
use super::deadlines::{FIRST, HALF_CLOSED, IDLE_H2, IDLE_TCP, KEEP_ALIVE, PING, PONG};
use super::framing::{Follower, Heads};
use super::headers::Told;
use super::http::{self, Caller, Place};
use super::limits::Stranger;
use super::overheard::Overheard;
use super::socket::{self, Metered};
use super::splice::{Ended, Silence, splice};
use super::watch::{Watch, Way};
use super::{Behind, Listener, backend, handshake, proxy_v2};
use crate::config::roles::{ForwardIdentity, Inbound, Protocol};
use crate::config::spiffe::PeerId;
use crate::observe::metrics::Shed;
use crate::observe::plain::{Page, question};
use crate::tls::exchange::OURS_H2;
use crate::tls::peer::{Reason, Refusal};
use crate::tls::server::{H2, refusal};

/// Most streams of one HTTP/2 connection. Envoy's edge guide: 100.
const MAX_STREAMS: u32 = 100;

/// Most bytes of a request's head, HTTP/1.1 and HTTP/2. Envoy's default is 60 KiB, nginx's 32 KiB.
const MAX_HEAD: usize = 64 * 1024;

/// Window of one stream, and of one connection: what a peer may make us hold. Envoy's edge guide has
/// 64 KiB and 1 MiB; one stream of 64 KiB is slow over long distances.
const WINDOWS: (u32, u32) = (256 * 1024, 1024 * 1024);

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
        if let Some(header) = header {
            app.write_all(&header).await?;
        }
        Ok::<_, std::io::Error>(app)
    };
    let mut line = inbound.access_log.then(|| Line::connection(listener.listen, watch.peer.id()));
    // Boxed: over before the connection settles down.
    let app = match timeout_at(deadline, Box::pin(dialling)).await {
        Ok(Ok(app)) => Overheard::new(app, line.as_ref().map(Line::tally)),
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
    tokio::select! {
        ended = splice(tls, app, Silence { open: IDLE_TCP, half_closed: HALF_CLOSED }) => {
            let how = match ended {
                Ok(Ended::Both) => "both",
                Ok(Ended::Silent) => {
                    tracing::debug!("closed for silence");
                    "silent"
                }
                Err(error) => {
                    tracing::debug!(kind = ?error.kind(), "ended early");
                    "early"
                }
            };
            if let Some(line) = &mut line {
                line.ended(how);
            }
        }
        reason = judge.withdrawn() => listener.withdraw(reason, &watch.peer),
        () = watch.forced() => {}
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

async fn http(listener: &Listener, inbound: &Inbound, backend: &Arc<http::Backend>, entered: Entered) {
    let Entered { tls, watch, held, ours, from, deadline, .. } = entered;
    let xfcc = inbound.forward_identity == ForwardIdentity::Xfcc;
    let told = Told::new(xfcc, ours.as_ref(), watch.peer.id(), watch.peer.hash(), from);
    let h2 = [Some(H2), Some(OURS_H2)].contains(&tls.get_ref().1.alpn_protocol());
    let caller = Arc::new(Caller {
        backend: Arc::clone(backend),
        told,
        heads: Heads::new(),
        begun: AtomicBool::new(false),
        active: AtomicU64::new(0),
        last: AtomicU64::new(0),
        since: Instant::now(),
        watch: watch.clone(),
        place: held,
    });
    let idle = h2.then_some(IDLE_H2);
    drive(listener, connection(tls, h2, &caller), &caller, watch, deadline, idle).await;
}

/// hyper's part of it.
fn connection(tls: Box<TlsStream<Metered>>, h2: bool, caller: &Arc<Caller>) -> Pin<Box<dyn Drivable + Send>> {
    let service = {
        let caller = Arc::clone(caller);
        service_fn(move |request| http::answer(Arc::clone(&caller), request))
    };
    if h2 {
        let io = TokioIo::new(tls);
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .max_send_buf_size(64 * 1024)
            .serve_connection(io, service);
        Box::pin(connection)
    } else {
        let io = TokioIo::new(Overheard::new(tls, Follower::new(&caller.heads)));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(KEEP_ALIVE)
            .max_buf_size(MAX_HEAD)
            .serve_connection(io, service)
            .with_upgrades();
        Box::pin(connection)
    }
}

/// A connection of hyper's, of either version.
trait Drivable: Future<Output = Result<(), hyper::Error>> {
    /// Finish what is under way, begin nothing.
    fn finish(self: Pin<&mut Self>);
}

impl<S> Drivable
    for hyper::server::conn::http1::UpgradeableConnection<TokioIo<Overheard<Box<TlsStream<Metered>>, Follower>>, S>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = http::Answer>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<S, E> Drivable for hyper::server::conn::http2::Connection<TokioIo<Box<TlsStream<Metered>>>, S, E>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = http::Answer>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    E: hyper::rt::bounds::Http2ServerConnExec<S::Future, http::Answer>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

async fn drive(
    listener: &Listener,
    mut connection: Pin<Box<dyn Drivable + Send>>,
    caller: &Caller,
    mut watch: Watch,
    deadline: Instant,
    idle: Option<Duration>,
) {
    let (mut judge, mut end) = (watch.clone(), watch.clone());
    let mut draining = false;
    let mut timer = std::pin::pin!(sleep_until(deadline));
    let mut armed = true;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(error = %crate::finding::chain(&error), "ended early");
                }
                return;
            }
            reason = judge.withdrawn() => return listener.withdraw(reason, &watch.peer),
            () = end.forced() => return,
            () = watch.draining(), if !draining => {
                draining = true;
                connection.as_mut().finish();
            }
            () = timer.as_mut(), if armed => {
                if !caller.begun.load(Ordering::Relaxed) {
                    listener.counts.refuse(Reason::TooSlow);
                    return;
                }
                let Some(idle) = idle else {
                    armed = false;
                    continue;
                };
                let last = caller.since + Duration::from_millis(caller.last.load(Ordering::Relaxed));
                let busy = caller.active.load(Ordering::Relaxed) > 0;
                if !busy && last + idle <= Instant::now() {
                    connection.as_mut().finish();
                    armed = false;
                } else {
                    timer.as_mut().reset(if busy { Instant::now() } else { last } + idle);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Most bytes of the task of one connection, which each that waits holds. Beside it are the boxes of
    /// TLS and of hyper.
    const MOST: usize = 1536;

    fn size<F: Future>(_: impl Fn(Arc<Listener>, Accepted) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_task_of_a_connection_stays_small() {
        let size = size(serve);
        assert!(size <= MOST, "{size} bytes");
    }
}
