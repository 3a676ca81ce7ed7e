//! One exchange over HTTP: request out, capped answer in, before a deadline. What went wrong is one
//! of a few fixed words.

use std::error::Error as StdError;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, DATE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Version, redirect, retry};
use rustls::ClientConfig;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use super::dns::{DnsProblem, Names};
use super::error::Problem;
use crate::tls;

/// Connections at once where the server does not speak HTTP/2.
const MAX_CONNECTIONS: usize = 4;

/// How long name, connection and TLS together may take before the next URL is tried, where several
/// are configured. A packet lost twice costs 3 s (RFC 6298).
const CONNECT: Duration = Duration::from_secs(10);

/// How long an unused connection is kept. Shorter than the 60 s after which gateways drop theirs.
const IDLE: Duration = Duration::from_secs(30);

/// Most bytes of an answer's headers over HTTP/2, 32 KiB. Trustee sends about 300; gateways add some.
const MAX_HEADERS: u32 = 32 * 1024;

/// Most header lines of an answer over HTTP/1.1; the bytes are bounded by hyper's own buffer, 400 KiB.
const MAX_HEADER_LINES: usize = 64;

/// What is sent.
pub(super) struct Request<'r> {
    pub(super) method: Method,
    pub(super) url: String,
    pub(super) proof: Proof<'r>,
    pub(super) json: Option<String>,
}

/// What shows the server whose request it is.
#[derive(Clone, Copy)]
pub(super) enum Proof<'r> {
    None,
    /// `name=value` of the session.
    Cookie(&'r str),
    /// An attestation token.
    Bearer(&'r str),
}

impl Proof<'_> {
    /// The header, not to be indexed or shown.
    fn header(self) -> Result<Option<(HeaderName, HeaderValue)>, Problem> {
        let (name, text) = match self {
            Self::None => return Ok(None),
            Self::Cookie(cookie) => (COOKIE, Zeroizing::new(cookie.to_owned())),
            Self::Bearer(token) => (AUTHORIZATION, Zeroizing::new(format!("Bearer {token}"))),
        };
        let mut value = HeaderValue::from_str(&text).map_err(|_| Problem::Setup)?;
        value.set_sensitive(true);
        Ok(Some((name, value)))
    }
}

/// What came back, whole.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// Whether many requests share the connection (HTTP/2).
    pub(super) multiplexed: bool,
}

impl Answer {
    /// What time it is by the server's `Date`, seconds since 1970.
    pub(super) fn date(&self) -> Option<u64> {
        date(&self.headers)
    }
}

/// The `Date` among these headers, seconds since 1970.
pub(super) fn date(headers: &HeaderMap) -> Option<u64> {
    let time = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    time.duration_since(std::time::SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// Connections to the KBSes of one configuration.
///
/// One client with a pool would open more than it may: while a request waits for a connection that is
/// being made, the pool hands it one that has become free, and keeps the new one too. So there is a
/// client for each connection, a lane, and each has one request at a time. Over HTTP/2 the first lane
/// carries everything.
pub(super) struct Http {
    lanes: Vec<Client>,
    /// Those that carry nothing, and how many: the one that was used last is taken first, since its
    /// connection is the most likely to stand.
    free: Mutex<Vec<usize>>,
    turns: Semaphore,
}

/// A lane that is ours until dropped.
pub(super) struct Lane<'h> {
    number: usize,
    http: &'h Http,
    _turn: SemaphorePermit<'h>,
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        self.http.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.number);
    }
}

impl Http {
    /// `tls` decides whom to trust. No proxy, no redirect, no cookie store, no silent retry.
    pub(super) fn new(mut tls: ClientConfig, names: &Names) -> Result<Self, Problem> {
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let lane = move || Self::lane(tls.clone(), names.clone()).map_err(|_| Problem::Setup);
        let lanes = std::iter::repeat_with(lane).take(MAX_CONNECTIONS).collect::<Result<_, _>>()?;
        let free = Mutex::new((0..MAX_CONNECTIONS).rev().collect());
        Ok(Self { lanes, free, turns: Semaphore::new(MAX_CONNECTIONS) })
    }

    fn lane(tls: ClientConfig, names: Names) -> reqwest::Result<Client> {
        Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(names)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .referer(false)
            // One place counts tries, and it is not here.
            .retry(retry::never())
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .http1_max_headers(MAX_HEADER_LINES)
            .http2_max_header_list_size(MAX_HEADERS)
            .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")))
            .build()
    }

    /// Waits for a lane of one's own.
    pub(super) async fn turn(&self, until: Instant) -> Result<Lane<'_>, Problem> {
        // Fails only when the semaphore is closed, which nobody does.
        let turn = timeout_at(until, self.turns.acquire()).await.map_err(|_| Problem::Late)?;
        let turn = turn.map_err(|_| Problem::Setup)?;
        let number = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop().ok_or(Problem::Setup)?;
        Ok(Lane { number, http: self, _turn: turn })
    }

    /// Sends, and reads the answer to its end: at most `cap` bytes, until `until`. Without a lane of
    /// its own a request shares the first one, which must speak HTTP/2.
    pub(super) async fn exchange(
        &self,
        lane: Option<&Lane<'_>>,
        request: Request<'_>,
        cap: usize,
        until: Instant,
    ) -> Result<Answer, Problem> {
        let client = self.lanes.get(lane.map_or(0, |lane| lane.number)).ok_or(Problem::Setup)?;
        timeout_at(until, Self::whole(client, request, cap)).await.unwrap_or(Err(Problem::Late))
    }

    async fn whole(client: &Client, request: Request<'_>, cap: usize) -> Result<Answer, Problem> {
        let mut builder = client.request(request.method, request.url);
        if let Some((name, value)) = request.proof.header()? {
            builder = builder.header(name, value);
        }
        if let Some(json) = request.json {
            builder = builder.header(CONTENT_TYPE, "application/json").body(json);
        }
        let mut response = builder.send().await.map_err(|error| problem(&error))?;
        let mut answer = Answer {
            status: response.status().as_u16(),
            headers: std::mem::take(response.headers_mut()),
            body: Vec::new(),
            multiplexed: response.version() == Version::HTTP_2,
        };
        while let Some(chunk) = response.chunk().await.map_err(|error| problem(&error))? {
            let room = cap.saturating_sub(answer.body.len());
            if chunk.len() > room && answer.status == 200 {
                return Err(Problem::TooLong);
            }
            answer.body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
            // A gateway's page is known by its start.
            if answer.body.len() >= cap && answer.status != 200 {
                break;
            }
        }
        Ok(answer)
    }
}

/// What an error of the HTTP client means. Only types and kinds are looked at, never texts.
fn problem(error: &reqwest::Error) -> Problem {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(inner) = next {
        if let Some(name) = inner.downcast_ref::<DnsProblem>() {
            return Problem::Name(*name);
        }
        if let Some(found) = inner.downcast_ref::<io::Error>().and_then(io_problem) {
            return found;
        }
        if inner.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            return Problem::NotHttp;
        }
        next = inner.source();
    }
    if error.is_connect() { Problem::NoConnection } else { Problem::Closed }
}

fn io_problem(error: &io::Error) -> Option<Problem> {
    if let Some(tls) = tls::explain_io(error) {
        return Some(Problem::Tls(tls));
    }
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return Some(Problem::ConnectionRefused);
    }
    // Each layer wraps the one below in an error of its own kind; `source` skips the wrapped one.
    error.get_ref()?.downcast_ref::<io::Error>().and_then(io_problem)
}
