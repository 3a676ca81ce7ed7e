//! HTTP for one authenticated peer: requests are parsed, judged, written anew, and sent to the app.
//!
//! Nothing of a caller's bytes is passed on as it came: hyper parses each message and writes it again,
//! so the app never sees a message whose end two parsers could place differently.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

use super::access::{Line, Tally};
use super::backend::Dialler;
use super::deadlines::{APP_IDLE, BODY, HALF_CLOSED, IDLE_TCP};
use super::framing::Heads;
use super::headers::{Told, strip_forged, strip_request, strip_response};
use super::overheard::Overheard;
use super::splice::{Silence, splice};
use super::watch::Watch;
use crate::config::roles;
use crate::observe::metrics::{Held, Inbound};

/// Idle connections to the app that are kept for the next request.
const MAX_IDLE: usize = 64;

/// What is sent on to the app, and what comes back.
type Sent = Relayed<Incoming>;
/// What a caller is answered with.
pub type Answer = Either<Relayed<Incoming>, Full<Bytes>>;

/// The app of one listener, as HTTP clients see it. Its connections are shared by all peers.
pub struct Backend {
    http1: Client<Dialler, Sent>,
    h2c: Client<Dialler, Sent>,
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
        let builder = || {
            let mut builder = Client::builder(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(APP_IDLE)
                .pool_max_idle_per_host(MAX_IDLE)
                .http1_max_buf_size(64 * 1024)
                // Tried again only where not a byte of the request was sent.
                .retry_canceled_requests(true)
                .set_host(false);
            builder
        };
        let http1 = builder().build(Dialler(inbound.app.clone()));
        let h2c = builder().http2_only(true).build(Dialler(inbound.app.clone()));
        let access = inbound.access_log.then_some(inbound.listen);
        Self {
            http1,
            h2c,
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
    /// What the app is told of the peer.
    pub told: Told,
    /// Which of its requests may be served (HTTP/1.1).
    pub heads: Arc<Heads>,
    /// Set when the first request's head has come.
    pub begun: AtomicBool,
    /// Requests under way, and when the last one ended (ms since `since`).
    pub active: AtomicU64,
    /// See `active`.
    pub last: AtomicU64,
    /// When the connection began.
    pub since: Instant,
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

/// Why a request was not answered by the app. The label is in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    BadRequest,
    Connect,
    H2cUpgrade,
    Unreachable,
    Broken,
    Slow,
}

impl Why {
    fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::BadRequest => (400, "bad-request", "the request is malformed, or its parts contradict each other"),
            Self::Connect => (501, "connect-refused", "CONNECT is not served: this is no forward proxy"),
            Self::H2cUpgrade => (400, "h2c-refused", "HTTP/2 is chosen by ALPN only"),
            Self::Unreachable => (502, "app-unreachable", "the app does not take connections"),
            Self::Broken => (502, "app-broken", "the app ended the connection, or its answer is not HTTP"),
            Self::Slow => (504, "app-slow", "the app has not answered in time"),
        }
    }
}

/// Answers one request.
pub async fn answer(caller: Arc<Caller>, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    caller.begun.store(true, Ordering::Relaxed);
    let mut active = Some(Active::new(&caller, &request));
    let begun = Instant::now();
    #[cfg(feature = "compat")]
    if let Some(page) = page(&caller, &request) {
        if let Some(active) = &mut active {
            active.answered(page.status());
        }
        return Ok(page);
    }
    let response = match relay(&caller, request, &mut active).await {
        Ok(response) => response,
        Err(why) => {
            let response = refused(why);
            if let Some(active) = &mut active {
                active.answered(response.status());
            }
            response
        }
    };
    caller.backend.counts.answered(response.status().as_u16(), begun.elapsed());
    Ok(response)
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
    caller.backend.counts.answered(response.status().as_u16(), Duration::ZERO);
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
    let websocket = judge(&request)?;
    let upgrade = websocket.then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    let grpc = parts.version == Version::HTTP_2 && is_grpc(&parts.headers);
    strip_request(&mut parts.headers);
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
    if websocket {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    let progress = Progress::new(active.as_ref().and_then(Active::tally));
    let body = Relayed::new(body, true, None, Some(progress.clone()));
    let request = Request::from_parts(parts, body);
    let backend = &caller.backend;
    let client = if grpc { &backend.h2c } else { &backend.http1 };
    let mut response = in_time(client.request(request), &progress, backend.response).await?;
    if let Some(active) = active {
        active.answered(response.status());
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(upgrade) = upgrade else { return Err(Why::Broken) };
        let app = hyper::upgrade::on(&mut response);
        caller.heads.leave();
        tokio::spawn(tunnel(Arc::clone(caller), upgrade, app, active.take()));
        let (mut parts, _) = response.into_parts();
        strip_response(&mut parts.headers);
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        return Ok(Response::from_parts(parts, Either::Right(Full::default())));
    }
    let (mut parts, body) = response.into_parts();
    strip_response(&mut parts.headers);
    parts.extensions.clear();
    Ok(Response::from_parts(parts, Either::Left(Relayed::new(body, false, active.take(), None))))
}

/// Whether a request may go on, and whether it asks for a WebSocket.
fn judge(request: &Request<Incoming>) -> Result<bool, Why> {
    if request.method() == Method::CONNECT {
        return Err(Why::Connect);
    }
    let headers = request.headers();
    if headers.get_all(HOST).iter().count() > 1 {
        return Err(Why::BadRequest);
    }
    if request.version() == Version::HTTP_2 {
        return Ok(false);
    }
    if request.uri().authority().is_none() && !headers.contains_key(HOST) && request.version() == Version::HTTP_11 {
        return Err(Why::BadRequest);
    }
    // Two ways to say where the body ends: whichever the next parser takes, it may be the other one.
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(hyper::header::CONTENT_LENGTH) {
        return Err(Why::BadRequest);
    }
    let asked = headers.get_all(UPGRADE).iter().filter_map(|value| value.to_str().ok());
    let asked: Vec<&str> = asked.flat_map(|value| value.split(',')).map(str::trim).collect();
    if asked.iter().any(|token| token.eq_ignore_ascii_case("h2c")) {
        return Err(Why::H2cUpgrade);
    }
    Ok(request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && matches!(asked.as_slice(), [one] if one.eq_ignore_ascii_case("websocket")))
}

fn is_grpc(headers: &hyper::HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// The same path and query, on the app. For HTTP/1.1 the authority is a name for the pool of
/// connections only: nobody resolves it.
fn of_the_app(uri: &Uri, authority: Option<Authority>) -> Result<Uri, Why> {
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut parts = hyper::http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority.unwrap_or_else(|| Authority::from_static("app.invalid")));
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map_err(|_| Why::BadRequest)
}

/// The head of the answer, within `most` of the last byte of the request that moved.
async fn in_time(
    asked: legacy::ResponseFuture,
    progress: &Progress,
    most: Duration,
) -> Result<Response<Incoming>, Why> {
    let mut asked = std::pin::pin!(asked);
    loop {
        let end = progress.last() + most;
        match tokio::time::timeout_at(end, asked.as_mut()).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(error)) => return Err(explain(&error)),
            Err(_) if progress.last() + most > Instant::now() => {}
            Err(_) => return Err(Why::Slow),
        }
    }
}

fn explain(error: &legacy::Error) -> Why {
    tracing::debug!(error = %crate::finding::chain(error), "the app did not answer");
    if error.is_connect() { Why::Unreachable } else { Why::Broken }
}

fn refused(why: Why) -> Response<Answer> {
    let (status, label, message) = why.row();
    let body =
        format!("{{\"error\":\"{label}\",\"status\":{status},\"message\":\"{message}\",\"by\":\"countersign\"}}\n");
    let mut response = Response::new(Either::Right(Full::new(Bytes::from(body))));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status < 502 {
        // What follows on this connection may be part of what was refused.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A WebSocket: bytes both ways, until either side ends, the peer is turned away, or the pod does.
async fn tunnel(
    caller: Arc<Caller>,
    peer: hyper::upgrade::OnUpgrade,
    app: hyper::upgrade::OnUpgrade,
    active: Option<Active>,
) {
    let tally = active.as_ref().and_then(Active::tally);
    let (mut watch, mut end) = (caller.watch.clone(), caller.watch.clone());
    let work = async {
        let (peer, app) = tokio::try_join!(peer, app)?;
        let silence = Silence { open: IDLE_TCP, half_closed: HALF_CLOSED };
        // An end in mid-transfer is told by both sides seeing theirs.
        let _ = splice(TokioIo::new(peer), Overheard::new(TokioIo::new(app), tally), silence).await;
        Ok::<_, hyper::Error>(())
    };
    tokio::select! {
        _ = work => {}
        _ = watch.withdrawn() => {}
        () = end.forced() => {}
    }
    drop(active);
}

/// A request under way.
pub struct Active {
    caller: Arc<Caller>,
    line: Option<Line>,
    _held: Held,
}

impl Active {
    fn new(caller: &Arc<Caller>, request: &Request<Incoming>) -> Self {
        caller.active.fetch_add(1, Ordering::Relaxed);
        let line = caller.backend.access.map(|listen| Line::request(listen, caller.watch.peer.id(), request));
        Self { caller: Arc::clone(caller), line, _held: caller.backend.counts.active.hold() }
    }

    fn answered(&mut self, status: StatusCode) {
        if let Some(line) = &mut self.line {
            line.answered(status.as_u16());
        }
    }

    fn tally(&self) -> Option<Arc<Tally>> {
        self.line.as_ref().map(Line::tally)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let now = u64::try_from(self.caller.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.caller.last.store(now, Ordering::Relaxed);
        self.caller.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// When a request's body moved last.
#[derive(Clone)]
struct Progress {
    since: Instant,
    last: Arc<AtomicU64>,
    tally: Option<Arc<Tally>>,
}

impl Progress {
    fn new(tally: Option<Arc<Tally>>) -> Self {
        Self { since: Instant::now(), last: Arc::default(), tally }
    }

    fn moved(&self, count: usize) {
        if let Some(tally) = &self.tally {
            tally.received(count);
        }
        self.last.store(u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.since + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
}

/// A body on its way: what claims who calls is taken out of its trailers, and silence ends it.
pub struct Relayed<B> {
    body: B,
    to_app: bool,
    /// Armed only while there is nothing to pass on.
    silence: Option<Pin<Box<Sleep>>>,
    progress: Option<Progress>,
    active: Option<Active>,
}

impl<B> Relayed<B> {
    fn new(body: B, to_app: bool, active: Option<Active>, progress: Option<Progress>) -> Self {
        Self { body, to_app, silence: None, progress, active }
    }
}

/// A body ended early: by an error of its sender, or by silence.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl<B: Body<Data = Bytes, Error = hyper::Error> + Unpin> Body for Relayed<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                this.silence = None;
                let count = frame.data_ref().map_or(0, Bytes::len);
                if let Some(progress) = &this.progress {
                    progress.moved(count);
                }
                if let Some(line) = this.active.as_ref().and_then(|active| active.line.as_ref()) {
                    line.sent(count);
                }
                if let (true, Some(trailers)) = (this.to_app, frame.trailers_mut()) {
                    strip_forged(trailers);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let silence = this.silence.get_or_insert_with(|| Box::pin(tokio::time::sleep(BODY)));
                match silence.as_mut().poll(cx) {
                    Poll::Ready(()) => Poll::Ready(Some(Err("silent for too long".into()))),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    /// A body of which half has come.
    struct Half(Option<Bytes>);

    impl Body for Half {
        type Data = Bytes;
        type Error = hyper::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
            self.0.take().map_or(Poll::Pending, |half| Poll::Ready(Some(Ok(Frame::data(half)))))
        }
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_body_that_falls_silent_is_ended_in_time() {
        let mut body = Relayed::new(Half(Some(Bytes::from_static(b"half"))), true, None, None);
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
        let begun = Instant::now();
        assert!(body.frame().await.unwrap().is_err());
        assert_eq!(begun.elapsed(), BODY);
    }
}
