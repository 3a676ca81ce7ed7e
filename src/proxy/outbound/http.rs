//! HTTP of the app: plain HTTP/1.1, or HTTP/2 with prior knowledge. Each request is parsed, judged and written
//! anew, and goes to the peer on a connection that others share.
//!
//! A request is sent again only where the peer cannot have seen it, or where seeing it twice does no harm and
//! nothing of it is lost: no body, an idempotent method, a connection that stood already.

use std::convert::Infallible;
use std::error::Error as _;
use std::sync::Arc;

use hyper::body::{Body as _, Incoming};
use hyper::header::{HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};

use super::link::Link;
use super::pool::{self, Lease};
use super::{Outlet, preface};
use crate::config::spiffe::PeerId;
use crate::proxy::access::Line;
use crate::proxy::backend::App;
use crate::proxy::deadlines::{IDLE_H2, KEEP_ALIVE};
use crate::proxy::framing::Heads;
use crate::proxy::headers::{join_cookies, strip_hops};
use crate::proxy::relay::{
    Active, Answer, Busy, Flow, Progress, Relayed, Sent, Why, answered, delimit, granted, in_time, judge, settled,
    tunnel, websocket,
};
use crate::proxy::serving::{self, Answerer, Patience};
use crate::proxy::watch::{Phase, reached};

/// How often a request is given to a connection. Each time but the last it is certain, or harmless, that the
/// one before it may have been lost.
const TRIES: usize = 3;

/// One connection of the app's, for all its requests.
struct Near {
    outlet: Arc<Outlet>,
    heads: Arc<Heads>,
    busy: Arc<Busy>,
    /// Its place among the connections. A WebSocket keeps it.
    _place: OwnedSemaphorePermit,
}

/// Serves a connection of the app's to its end.
pub(super) async fn serve(outlet: Arc<Outlet>, app: App) {
    let Some(place) = outlet.place() else { return app.resets_on_close(true) };
    let mut phase = outlet.phase.clone();
    let serving = async {
        let Ok(Ok((begun, h2))) = timeout(KEEP_ALIVE, preface::begin(app)).await else { return };
        let near = Arc::new(Near { outlet, heads: Heads::new(), busy: Busy::new(), _place: place });
        let (heads, busy) = (Arc::clone(&near.heads), Arc::clone(&near.busy));
        let answerer: Answerer = Arc::new(move |request| Box::pin(answer(Arc::clone(&near), request)));
        let connection = serving::connection(begun, h2, &heads, answerer);
        let patience = Patience { first: Instant::now() + KEEP_ALIVE, idle: h2.then_some(IDLE_H2) };
        // While callers drain, the app may still need what it calls.
        serving::drive(connection, &busy, patience, None).await;
    };
    tokio::select! {
        () = serving => {}
        () = reached(&mut phase, Phase::Forced) => {}
    }
}

/// Answers one request.
async fn answer(near: Arc<Near>, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    near.busy.begin();
    let Outlet { outbound, counts, .. } = near.outlet.as_ref();
    let peer = || PeerId::Spiffe(outbound.peer.clone());
    let line = outbound.access_log.then(|| Line::request(outbound.listen.to_string(), &peer(), &request));
    let mut active = Some(Active::new(&near.busy, line, counts.active.hold()));
    let begun = Instant::now();
    let answer = relay(&near, request, &mut active).await;
    Ok(settled(answer, &mut active, &counts.answers, begun))
}

/// Takes `active` where the answer goes on after the head.
async fn relay(
    near: &Arc<Near>,
    mut request: Request<Incoming>,
    active: &mut Option<Active>,
) -> Result<Response<Answer>, Why> {
    // In the order of the connection: hyper serves one request of HTTP/1.1 after the other.
    if request.version() != Version::HTTP_2 && !near.heads.may_serve_next() {
        return Err(Why::BadRequest);
    }
    let asks = judge(&request)?;
    let upgrade = asks.then(|| hyper::upgrade::on(&mut request));
    let target = Target::of(&request, &near.outlet)?;
    let (mut parts, body) = request.into_parts();
    strip_hops(&mut parts.headers);
    if parts.version == Version::HTTP_2 {
        // Which version the peer speaks shows later, and it is right for both.
        join_cookies(&mut parts.headers);
    }
    if asks {
        websocket(&mut parts.headers);
    }
    parts.extensions.clear();
    let again = body.is_end_stream().then(|| (parts.method.clone(), parts.headers.clone()));
    let (progress, tally) = (Progress::new(), active.as_ref().and_then(Active::tally));
    let mut request = Request::from_parts(parts, Relayed::request(body, Flow::ToPeer, tally, &progress));
    for _ in 0..TRIES {
        let Lease { mut link, using, stood } =
            if asks { pool::apart(&near.outlet).await? } else { pool::lease(&near.outlet).await? };
        target.aim(&mut request, link.is_h2())?;
        let asked = in_time(link.ask(request), &progress, near.outlet.outbound.response_timeout).await;
        let mut failed = match asked.ok_or(Why::PeerSlow)? {
            Ok(mut response) => {
                if let Some(active) = active {
                    active.answered(response.status());
                    active.keep(using);
                }
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    let upgrade = upgrade.ok_or(Why::PeerBroken)?;
                    let peer = hyper::upgrade::on(&mut response);
                    near.heads.leave();
                    // Whoever runs the connection tells of its cut.
                    tokio::spawn(tunnel(Arc::clone(near), link.watch(), peer, upgrade, active.take()));
                    return Ok(granted(response));
                }
                settle(Arc::clone(&near.outlet), link);
                return Ok(answered(response, Flow::ToApp, active.take()));
            }
            Err(failed) => failed,
        };
        tracing::debug!(error = %crate::finding::chain(failed.error()), "the peer did not answer");
        if !is_of_the_stream(failed.error()) {
            near.outlet.pool.forget(link.number());
        }
        request = match (failed.take_message(), &again) {
            // Not a byte of it was sent.
            (Some(unsent), _) => unsent,
            (None, Some((method, headers))) if may_repeat(failed.error(), method, stood) => repeated(method, headers),
            (None, _) => return Err(Why::PeerBroken),
        };
    }
    Err(Why::PeerBroken)
}

/// A connection that others can use once this answer is over.
fn settle(outlet: Arc<Outlet>, mut link: Link) {
    if link.is_h2() {
        return;
    }
    tokio::spawn(async move {
        if link.ready().await {
            outlet.pool.keep(link);
        }
    });
}

/// A request without a body, once more.
fn repeated(method: &Method, headers: &hyper::HeaderMap) -> Request<Sent> {
    let mut request = Request::new(Relayed::nothing(Flow::ToPeer));
    *request.method_mut() = method.clone();
    *request.headers_mut() = headers.clone();
    request
}

/// Whether it was one stream of HTTP/2 that failed: the connection may be good.
fn is_of_the_stream(error: &hyper::Error) -> bool {
    error.source().and_then(|source| source.downcast_ref::<h2::Error>()).is_some_and(h2::Error::is_reset)
}

/// Whether a request without a body may be sent again. `stood`: its connection did before it.
fn may_repeat(error: &hyper::Error, method: &Method, stood: bool) -> bool {
    match error.source().and_then(|source| source.downcast_ref::<h2::Error>()) {
        // The peer says that it has not looked at it (RFC 9113 §6.8, §8.7).
        Some(error) if error.is_remote() && error.is_go_away() => true,
        Some(error) if error.is_reset() => error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM),
        // It broke the protocol.
        Some(error) if error.is_go_away() || error.is_library() => false,
        // It ended without a word.
        _ => stood && method.is_idempotent() && !error.is_parse(),
    }
}

/// What a request is for, in the words of either version.
struct Target {
    host: Authority,
    path: PathAndQuery,
}

impl Target {
    /// The authority of HTTP/2, and of the absolute form, is the host (RFC 9112 §3.2.2).
    fn of(request: &Request<Incoming>, outlet: &Outlet) -> Result<Self, Why> {
        let host = match (request.uri().authority(), request.headers().get(HOST)) {
            (Some(authority), _) => authority.clone(),
            (None, Some(host)) => Authority::try_from(host.as_bytes()).map_err(|_| Why::BadRequest)?,
            // An HTTP/1.0 request may have none; what the peer is sent has one.
            (None, None) => outlet.outbound.to.to_string().parse().map_err(|_| Why::BadRequest)?,
        };
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        Ok(Self { host, path })
    }

    /// Writes it into a request.
    fn aim(&self, request: &mut Request<Sent>, h2: bool) -> Result<(), Why> {
        let mut parts = hyper::http::uri::Parts::default();
        parts.path_and_query = Some(self.path.clone());
        if h2 {
            // HTTP/2 says the host in `:authority`, and there only.
            request.headers_mut().remove(HOST);
            // A connection of HTTP/1.1 may have been tried before.
            request.headers_mut().remove(TRANSFER_ENCODING);
            parts.scheme = Some(Scheme::HTTPS);
            parts.authority = Some(self.host.clone());
        } else {
            let host = HeaderValue::from_str(self.host.as_str()).map_err(|_| Why::BadRequest)?;
            request.headers_mut().insert(HOST, host);
            delimit(request);
        }
        *request.version_mut() = if h2 { Version::HTTP_2 } else { Version::HTTP_11 };
        *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Why::BadRequest)?;
        Ok(())
    }
}
