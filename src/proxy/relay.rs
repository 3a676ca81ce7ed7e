//! What one HTTP exchange is, whichever way it goes: requests are judged, bodies pass one piece at a time,
//! and whoever cannot be answered by the other side is answered by us, with the reason.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, Sleep};

use super::access::{Line, Tally};
use super::deadlines::{BODY, HALF_CLOSED, IDLE_TCP};
use super::headers::{strip_forged, strip_response};
use super::overheard::Overheard;
use super::splice::{Silence, splice};
use super::stalled;
use super::watch::Watch;
use crate::observe::metrics::{Answers, Held};
use crate::tls::peer::Reason;

/// What is sent on, and what comes back.
pub type Sent = Relayed<Incoming>;
/// What is answered with.
pub type Answer = Either<Relayed<Incoming>, Full<Bytes>>;

/// Why a request was not answered by the other side. The label is in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Malformed, or saying something twice.
    BadRequest,
    /// CONNECT.
    Connect,
    /// HTTP/2 by upgrade.
    H2cUpgrade,
    /// The app takes no connection.
    Unreachable,
    /// The app went away, or does not speak HTTP.
    Broken,
    /// The app said nothing in time.
    Slow,
    /// The peer's name has no address, or nobody listens there.
    PeerUnreachable,
    /// What answers there is not the peer, has not proven it, or does not let us in.
    PeerRefused(Reason),
    /// The peer went away, is no longer trusted, or does not speak HTTP.
    PeerBroken,
    /// The peer said nothing in time.
    PeerSlow,
    /// This pod has no certificate to show.
    NoCertificate,
    /// Too many connections.
    TooMany,
}

impl Why {
    /// Stable name.
    pub(super) fn label(self) -> &'static str {
        let (_, label, _) = self.row();
        label
    }

    fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::BadRequest => (400, "bad-request", "the request is malformed, or its parts contradict each other"),
            Self::Connect => (501, "connect-refused", "CONNECT is not served: this is no forward proxy"),
            Self::H2cUpgrade => (400, "h2c-refused", "HTTP/2 begins with the connection or not at all"),
            Self::Unreachable => (502, "app-unreachable", "the app does not take connections"),
            Self::Broken => (502, "app-broken", "the app ended the connection, or its answer is not HTTP"),
            Self::Slow => (504, "app-slow", "the app has not answered in time"),
            Self::PeerUnreachable => (502, "peer-unreachable", "the peer has no address, or takes no connections"),
            Self::PeerRefused(_) => (502, "peer-refused", "what answers there is not the peer, or does not let us in"),
            Self::PeerBroken => (
                502,
                "peer-broken",
                "the peer ended the connection, may no longer be trusted, or its answer is not HTTP",
            ),
            Self::PeerSlow => (504, "peer-slow", "the peer has not answered in time"),
            Self::NoCertificate => (503, "no-certificate", "this pod has no certificate to show to peers now"),
            Self::TooMany => (503, "too-many", "this pod has as many connections as it may"),
        }
    }
}

/// An answer of ours.
pub(super) fn refused(why: Why) -> Response<Answer> {
    let (status, label, message) = why.row();
    let reason = match why {
        Why::PeerRefused(reason) => format!(",\"reason\":\"{}\"", reason.label()),
        _ => String::new(),
    };
    let body = format!(
        "{{\"error\":\"{label}\"{reason},\"status\":{status},\"message\":\"{message}\",\"by\":\"countersign\"}}\n"
    );
    let mut response = Response::new(Either::Right(Full::new(Bytes::from(body))));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status < 502 {
        // What follows on this connection may be part of what was refused.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The answer, or why there is none: told in the log, and counted.
pub(super) fn settled(
    answer: Result<Response<Answer>, Why>,
    active: &mut Option<Active>,
    counts: &Answers,
    begun: Instant,
) -> Response<Answer> {
    let response = answer.unwrap_or_else(|why| {
        let response = refused(why);
        if let Some(active) = active {
            active.answered(response.status());
        }
        response
    });
    counts.count(response.status().as_u16(), begun.elapsed());
    response
}

/// Whether a request may go on, and whether it asks for a WebSocket.
pub(super) fn judge(request: &Request<Incoming>) -> Result<bool, Why> {
    if request.method() == Method::CONNECT {
        return Err(Why::Connect);
    }
    let headers = request.headers();
    if headers.get_all(HOST).iter().count() > 1 {
        return Err(Why::BadRequest);
    }
    // A name and a password are for nobody's eyes, and no part of a host (RFC 9110 §4.2.4, RFC 9113 §8.3.1).
    let named = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    if named.or(headers.get(HOST).map(HeaderValue::as_bytes)).is_some_and(|host| host.contains(&b'@')) {
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

/// Asks for a WebSocket, or grants one. Comes after what is hop-by-hop was taken out.
pub(super) fn websocket(headers: &mut hyper::HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// Says of a request of HTTP/1.1 that its body comes in chunks, where its length is not known. hyper's client
/// says so by itself, but not of GET and HEAD: it would drop their bodies without a word. Comes after what is
/// hop-by-hop was taken out.
pub(super) fn delimit(request: &mut Request<Sent>) {
    if !request.body().is_end_stream() && request.body().size_hint().exact().is_none() {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// The head with which a WebSocket is granted.
pub(super) fn granted(response: Response<Incoming>) -> Response<Answer> {
    let (mut parts, _) = response.into_parts();
    strip_response(&mut parts.headers);
    websocket(&mut parts.headers);
    Response::from_parts(parts, Either::Right(Full::default()))
}

/// The answer, as it goes on. `active` ends with its last byte.
pub(super) fn answered(response: Response<Incoming>, flow: Flow, active: Option<Active>) -> Response<Answer> {
    let (mut parts, body) = response.into_parts();
    strip_response(&mut parts.headers);
    parts.extensions.clear();
    Response::from_parts(parts, Either::Left(Relayed::response(body, flow, active)))
}

/// What `asked` gives, within `most` of the last byte of the request that moved. `None`: not in time.
pub(super) async fn in_time<T>(asked: impl Future<Output = T>, progress: &Progress, most: Duration) -> Option<T> {
    let mut asked = std::pin::pin!(asked);
    loop {
        let end = progress.last() + most;
        match tokio::time::timeout_at(end, asked.as_mut()).await {
            Ok(given) => return Some(given),
            Err(_) if progress.last() + most > Instant::now() => {}
            Err(_) => return None,
        }
    }
}

/// A WebSocket: bytes both ways, until either side ends, the peer is turned away, or the pod does. `held`
/// is kept until then. Returns why the peer was turned away, where it was.
pub(super) async fn tunnel(
    held: impl Send,
    watch: Watch,
    peer: hyper::upgrade::OnUpgrade,
    app: hyper::upgrade::OnUpgrade,
    active: Option<Active>,
) -> Option<Reason> {
    let tally = active.as_ref().and_then(Active::tally);
    let (mut watch, mut end) = (watch.clone(), watch);
    let work = async {
        let (peer, app) = tokio::try_join!(peer, app)?;
        let silence = Silence { open: IDLE_TCP, half_closed: HALF_CLOSED };
        // An end in mid-transfer is told by both sides seeing theirs.
        let _ = splice(TokioIo::new(peer), Overheard::new(TokioIo::new(app), tally), silence).await;
        Ok::<_, hyper::Error>(())
    };
    let turned_away = tokio::select! {
        _ = work => None,
        reason = watch.withdrawn() => Some(reason),
        () = end.forced() => None,
    };
    drop((active, held));
    turned_away
}

/// What is under way on one connection.
#[derive(Debug)]
pub struct Busy {
    begun: AtomicBool,
    active: AtomicU64,
    /// When the last one ended, milliseconds since `since`.
    last: AtomicU64,
    since: Instant,
}

impl Busy {
    /// Of a connection that begins.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: AtomicBool::new(false),
            active: AtomicU64::new(0),
            last: AtomicU64::new(0),
            since: Instant::now(),
        })
    }

    /// A request's head has come.
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// Whether one ever has.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Since when nothing is under way. `None`: something is.
    pub(super) fn quiet(&self) -> Option<Instant> {
        let last = self.since + Duration::from_millis(self.last.load(Ordering::Relaxed));
        (self.active.load(Ordering::Relaxed) == 0).then_some(last)
    }
}

/// A request under way.
pub struct Active {
    busy: Arc<Busy>,
    line: Option<Line>,
    /// What else lasts as long.
    held: (Held, Option<Box<dyn Send + Sync>>),
}

impl Active {
    /// On the connection that `busy` is about, told in `line`, counted by `held`.
    pub(super) fn new(busy: &Arc<Busy>, line: Option<Line>, held: Held) -> Self {
        busy.active.fetch_add(1, Ordering::Relaxed);
        Self { busy: Arc::clone(busy), line, held: (held, None) }
    }

    /// Keeps `with` as long as the request is under way.
    pub(super) fn keep(&mut self, with: impl Send + Sync + 'static) {
        self.held.1 = Some(Box::new(with));
    }

    /// The request has an answer.
    pub(super) fn answered(&mut self, status: StatusCode) {
        if let Some(line) = &mut self.line {
            line.answered(status.as_u16());
        }
    }

    /// Where its bytes are counted.
    pub(super) fn tally(&self) -> Option<Arc<Tally>> {
        self.line.as_ref().map(Line::tally)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let now = u64::try_from(self.busy.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.busy.last.store(now, Ordering::Relaxed);
        self.busy.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Which way a body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// From the peer to the app.
    ToApp,
    /// From the app to the peer.
    ToPeer,
}

/// When a request's body moved last.
#[derive(Clone)]
pub(super) struct Progress {
    since: Instant,
    last: Arc<AtomicU64>,
}

impl Progress {
    /// Now.
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), last: Arc::default() }
    }

    fn moved(&self) {
        self.last.store(u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.since + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
}

/// A body on its way: a caller's trailers lose what claims who calls, and silence ends it.
pub struct Relayed<B> {
    /// `None`: it has none.
    body: Option<B>,
    flow: Flow,
    tally: Option<Arc<Tally>>,
    /// Armed only while there is nothing to pass on.
    silence: Option<Pin<Box<Sleep>>>,
    /// Of a request.
    progress: Option<Progress>,
    /// Of an answer.
    _active: Option<Active>,
}

impl<B> Relayed<B> {
    /// A request's.
    pub(super) fn request(body: B, flow: Flow, tally: Option<Arc<Tally>>, progress: &Progress) -> Self {
        Self { body: Some(body), flow, tally, silence: None, progress: Some(progress.clone()), _active: None }
    }

    /// That of a request that has none.
    pub(super) fn nothing(flow: Flow) -> Self {
        Self { body: None, flow, tally: None, silence: None, progress: None, _active: None }
    }

    /// An answer's.
    fn response(body: B, flow: Flow, active: Option<Active>) -> Self {
        let tally = active.as_ref().and_then(Active::tally);
        Self { body: Some(body), flow, tally, silence: None, progress: None, _active: active }
    }

    fn moved(&self, count: usize) {
        match (&self.tally, self.flow) {
            (Some(tally), Flow::ToApp) => tally.received(count),
            (Some(tally), Flow::ToPeer) => tally.sent(count),
            (None, _) => {}
        }
        if let Some(progress) = &self.progress {
            progress.moved();
        }
    }
}

/// A body ended early: by an error of its sender, or by silence.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl<B: Body<Data = Bytes, Error = hyper::Error> + Unpin> Body for Relayed<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                this.silence = None;
                if this.progress.is_none() {
                    stalled::given();
                }
                this.moved(frame.data_ref().map_or(0, Bytes::len));
                // Of a caller's request: what an answer's trailers say is the answerer's own.
                if let (Flow::ToApp, Some(_), Some(trailers)) = (this.flow, &this.progress, frame.trailers_mut()) {
                    strip_forged(trailers);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                if this.progress.is_none() {
                    stalled::awaits();
                }
                let silence = this.silence.get_or_insert_with(|| Box::pin(tokio::time::sleep(BODY)));
                match silence.as_mut().poll(cx) {
                    Poll::Ready(()) => Poll::Ready(Some(Err("silent for too long".into()))),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
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
        let half = Half(Some(Bytes::from_static(b"half")));
        let mut body = Relayed::request(half, Flow::ToApp, None, &Progress::new());
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
        let begun = Instant::now();
        assert!(body.frame().await.unwrap().is_err());
        assert_eq!(begun.elapsed(), BODY);
    }

    #[test]
    fn a_refused_peer_is_told_with_its_reason() {
        let response = refused(Why::PeerRefused(Reason::OtherInitdata));
        assert_eq!(response.status(), 502);
        let Either::Right(body) = response.into_body() else { panic!("ours") };
        let text = format!("{body:?}");
        assert!(text.contains("peer-refused") && text.contains("other-initdata"), "{text}");
    }
}
