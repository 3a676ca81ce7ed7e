//! HTTP for one authenticated peer: requests are parsed, judged, written anew, and sent to the app.
//!
//! Nothing of a caller's bytes is passed on as it came: hyper parses each message and writes it again,
//! so the app never sees a message whose end two parsers could place differently.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "compat")]
use bytes::Bytes;
#[cfg(feature = "compat")]
use http_body_util::{Either, Full};
#[cfg(feature = "compat")]
use hyper::Method;
#[cfg(feature = "compat")]
use hyper::body::Body as _;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Request, Response, StatusCode, Uri, Version};
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::access::Line;
use super::backend::Dialler;
use super::deadlines::APP_IDLE;
use super::framing::Heads;
use super::h2c::H2c;
use super::headers::{Told, join_cookies, strip_request};
#[cfg(feature = "compat")]
use super::relay::refused;
use super::relay::{
    Active, Answer, Busy, Flow, Progress, Relayed, Sent, Why, answered, delimit, granted, in_time, judge, settled,
    tunnel, websocket,
};
use super::watch::Watch;
use super::withdraw;
use crate::config::grammar::Local;
use crate::config::roles;
use crate::observe::metrics::{Held, Inbound};

/// Idle connections to the app that are kept for the next request.
const MAX_IDLE: usize = 64;

/// The app of one listener, as HTTP clients see it. Its connections of HTTP/1.1 are shared by all peers.
pub struct Backend {
    http1: Client<Dialler, Sent>,
    app: Local,
    response: Duration,
    /// Where its callers come in, if each request is told in the log.
    access: Option<SocketAddr>,
    counts: Arc<Inbound>,
    #[cfg(feature = "compat")]
    about: Option<super::about::About>,
}

impl Backend {
    /// For the app of `inbound`.
    pub fn new(inbound: &roles::Inbound, counts: Arc<Inbound>) -> Self {
        let http1 = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(APP_IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            .http1_max_buf_size(64 * 1024)
            // Tried again only where not a byte of the request was sent.
            .retry_canceled_requests(true)
            .set_host(false)
            .build(Dialler(inbound.app.clone()));
        let access = inbound.access_log.then_some(inbound.listen);
        Self {
            http1,
            app: inbound.app.clone(),
            response: inbound.response_timeout,
            access,
            counts,
            #[cfg(feature = "compat")]
            about: None,
        }
    }

    /// Answers kubectl-coco's two pages in the app's place.
    #[cfg(feature = "compat")]
    #[must_use]
    pub fn about(self, about: Option<super::about::About>) -> Self {
        Self { about, ..self }
    }
}

/// One peer's connection, for all its requests.
pub struct Caller {
    /// The app.
    pub backend: Arc<Backend>,
    /// The app, where it speaks HTTP/2.
    pub(super) h2c: H2c,
    /// What the app is told of the peer.
    pub told: Told,
    /// Which of its requests may be served (HTTP/1.1).
    pub heads: Arc<Heads>,
    /// Its requests under way.
    pub busy: Arc<Busy>,
    /// Ends what has left HTTP behind.
    pub watch: Watch,
    /// Its place among the connections. A WebSocket keeps it.
    pub place: Place,
}

/// What a connection of an authenticated peer holds for as long as any of it lives.
pub struct Place {
    /// Of `limits.connections`.
    pub permit: OwnedSemaphorePermit,
    /// Of the gauge.
    pub open: Held,
}

/// Answers one request.
pub async fn answer(caller: Arc<Caller>, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    caller.busy.begin();
    let backend = &caller.backend;
    let line = backend.access.map(|listen| Line::request(listen.to_string(), caller.watch.peer.id(), &request));
    let mut active = Some(Active::new(&caller.busy, line, backend.counts.active.hold()));
    let begun = Instant::now();
    #[cfg(feature = "compat")]
    if let Some(page) = page(&caller, &request) {
        if let Some(active) = &mut active {
            active.answered(page.status());
        }
        return Ok(page);
    }
    let answer = relay(&caller, request, &mut active).await;
    Ok(settled(answer, &mut active, &caller.backend.counts.answers, begun))
}

/// One of kubectl-coco's pages. A request with a body is the app's: nothing here reads one.
#[cfg(feature = "compat")]
fn page(caller: &Caller, request: &Request<Incoming>) -> Option<Response<Answer>> {
    let about = caller.backend.about.as_ref()?;
    if request.method() != Method::GET || !request.body().is_end_stream() || judge(request).is_err() {
        return None;
    }
    let since = caller.watch.served.borrow().as_ref().map(|served| served.since)?;
    let page = about.page(request.uri().path(), since)?;
    // Counted here, since it does not come to `relay`; a head that ends twice is refused there.
    if request.version() != Version::HTTP_2 && !caller.heads.may_serve_next() {
        return Some(refused(Why::BadRequest));
    }
    let mut response = Response::new(Either::Right(Full::new(Bytes::from(page))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    caller.backend.counts.answers.count(response.status().as_u16(), Duration::ZERO);
    Some(response)
}

/// Takes `active` where the answer goes on after the head.
async fn relay(
    caller: &Arc<Caller>,
    mut request: Request<Incoming>,
    active: &mut Option<Active>,
) -> Result<Response<Answer>, Why> {
    // In the order of the connection: hyper serves one request of HTTP/1.1 after the other.
    if request.version() != Version::HTTP_2 && !caller.heads.may_serve_next() {
        return Err(Why::BadRequest);
    }
    let asked = judge(&request)?;
    let upgrade = asked.then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    let grpc = parts.version == Version::HTTP_2 && is_grpc(&parts.headers);
    strip_request(&mut parts.headers);
    if parts.version == Version::HTTP_2 {
        join_cookies(&mut parts.headers);
    }
    // The authority of HTTP/2, and of the absolute form, is the host (RFC 9112 §3.2.2).
    if let Some(authority) = parts.uri.authority() {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Why::BadRequest)?;
        parts.headers.insert(HOST, host);
    }
    caller.told.tell(&mut parts.headers);
    if grpc {
        // HTTP/2 says it in `:authority`, and there only.
        parts.headers.remove(HOST);
        parts.uri = of_the_app(&parts.uri, parts.uri.authority().cloned())?;
    } else {
        parts.uri = of_the_app(&parts.uri, None)?;
        // An HTTP/1.0 request may have none; what the app is sent is HTTP/1.1.
        parts.headers.entry(HOST).or_insert(HeaderValue::from_static("localhost"));
    }
    parts.version = if grpc { Version::HTTP_2 } else { Version::HTTP_11 };
    parts.extensions.clear();
    if asked {
        websocket(&mut parts.headers);
    }
    let progress = Progress::new();
    let body = Relayed::request(body, Flow::ToApp, active.as_ref().and_then(Active::tally), &progress);
    let mut request = Request::from_parts(parts, body);
    let backend = &caller.backend;
    let asked = if grpc {
        // Boxed: what few requests need would be room in the task of each.
        in_time(Box::pin(caller.h2c.ask(&backend.app, request)), &progress, backend.response).await
    } else {
        delimit(&mut request);
        let asked = in_time(backend.http1.request(request), &progress, backend.response).await;
        asked.map(|asked| asked.map_err(|error| explain(&error)))
    };
    let mut response = asked.ok_or(Why::Slow)??;
    if let Some(active) = active {
        active.answered(response.status());
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(upgrade) = upgrade else { return Err(Why::Broken) };
        let app = hyper::upgrade::on(&mut response);
        caller.heads.leave();
        let (held, watch, active) = (Arc::clone(caller), caller.watch.clone(), active.take());
        let (counts, peer) = (Arc::clone(&backend.counts), watch.peer.clone());
        tokio::spawn(async move {
            if let Some(reason) = tunnel(held, watch, upgrade, app, active).await {
                withdraw(&counts, reason, &peer);
            }
        });
        return Ok(granted(response));
    }
    Ok(answered(response, Flow::ToPeer, active.take()))
}

fn is_grpc(headers: &hyper::HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// The same path and query, on the app. For HTTP/1.1 the authority is a name for the pool of
/// connections only: nobody resolves it, and it is always the same.
fn of_the_app(uri: &Uri, authority: Option<Authority>) -> Result<Uri, Why> {
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut parts = hyper::http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority.unwrap_or_else(|| Authority::from_static("app.invalid")));
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map_err(|_| Why::BadRequest)
}

fn explain(error: &legacy::Error) -> Why {
    tracing::debug!(error = %crate::finding::chain(error), "the app did not answer");
    if error.is_connect() { Why::Unreachable } else { Why::Broken }
}
