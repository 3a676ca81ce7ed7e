//! From a challenge to a session, and resources out of it. Each function is one exchange.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::{HeaderValue, SET_COOKIE};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::dns::Names;
use super::error::{Error, Problem, Remedy, Step};
use super::health::Health;
use super::http::{Answer, Http, Lane, Proof, Request};
use super::key::TeeKey;
use super::wire::{self, Evidence, Malformed};
use crate::clock::Clock;
use crate::config::KbsUrl;
use crate::formats::jwe;
use crate::formats::kbs_error::{self, BodyKind, classify_body};
use crate::formats::kbs_uri::KbsUri;
use crate::formats::runtime_data::RuntimeData;
use crate::secret::Secret;
use crate::tls::{self, Anchored};

/// Most bytes of a challenge or of a refusal, 64 KiB. A challenge has about 80, one for IBM SE some
/// KiB; a gateway's page is known by its start.
const MAX_SMALL: usize = kbs_error::MAX_BYTES;

/// Most bytes of the answer with the token, 1 MiB. A plain token has 4 KiB; with a TDX event log in
/// its claims more than 128 KiB were seen (trustee issue 1563).
const MAX_TOKEN: usize = 1024 * 1024;

/// What a JWE has besides its ciphertext, bytes: header, wrapped key and names have about 420.
const JWE_FRAME: usize = 8 * 1024;

/// Requests at once on one HTTP/2 connection. Servers allow 100 streams and more; each answer is
/// held in memory whole.
const MAX_STREAMS: usize = 64;

/// How long one exchange may take. A verifier that asks AMD or Intel for certificates takes seconds;
/// Trustee's own client waits as long.
const EXCHANGE: Duration = Duration::from_secs(60);

/// The same for a challenge, which costs the KBS next to nothing: one that hangs must not keep the
/// next of the list waiting.
const CHALLENGE: Duration = Duration::from_secs(20);

/// A shorter lifetime than this, seconds, is not believed: it would mean an attestation per request.
const LEAST_LIFETIME: u64 = 30;

/// Kept back from a token's lifetime: what expires under way costs a request.
const EARLY: Duration = Duration::from_secs(10);

/// Whom to believe that it is the KBS. From configuration, every member.
#[derive(Clone, Copy, Debug)]
pub struct Trust<'t> {
    /// PEM of the only roots for https.
    pub ca: Option<&'t str>,
    /// `system_roots = true`, which this build refuses.
    pub system_roots: bool,
    /// Plain http to other hosts than loopback. Trusted configuration only may say so.
    pub allow_http: bool,
    /// By whose time certificates are judged. What a KBS over https says of the time raises its floor.
    pub clock: &'t Clock,
}

/// The KBSes of one configuration. Cheap to clone; clones share connections and what is known of
/// each server's health.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    urls: Vec<KbsUrl>,
    http: Http,
    tls: Anchored,
    clock: Clock,
    health: Health,
    streams: Semaphore,
}

/// A challenge of one KBS, which also is the one that must be answered.
pub struct Challenge {
    client: Client,
    place: usize,
    cookie: Zeroizing<String>,
    content: wire::Challenge,
    took: Duration,
}

/// A challenge with the key that is to be attested.
pub struct Binding {
    challenge: Challenge,
    key: Arc<TeeKey>,
    runtime_data: RuntimeData,
    additional: String,
    report_data: Vec<u8>,
}

/// An attested session: the KBS believes that the key is this guest's.
pub struct Session {
    client: Client,
    place: usize,
    /// `None`: the token itself is shown.
    cookie: Option<Zeroizing<String>>,
    key: Arc<TeeKey>,
    token: Zeroizing<String>,
    expires: Option<Instant>,
    multiplexed: bool,
}

impl Client {
    /// For the KBSes at `urls`, tried in this order. Refuses plain http that `trust` does not allow.
    /// Connects to nobody yet.
    #[allow(clippy::needless_pass_by_value)] // Callers hand over what they made for this.
    pub fn new(urls: &[KbsUrl], trust: &Trust<'_>, names: Names) -> Result<Self, Error> {
        let Some(first) = urls.first() else { return Err(Error::new(Step::Setup, "", Problem::NoUrl)) };
        if let Some(plain) = urls.iter().find(|url| !url.tls && !trust.allow_http && !url.is_loopback()) {
            return Err(Error::new(Step::Setup, plain, Problem::PlainHttp));
        }
        let refuse = |problem| Error::new(Step::Setup, first, problem);
        let config = if urls.iter().any(|url| url.tls) {
            tls::client(trust.ca, trust.system_roots, trust.clock)
        } else {
            tls::client_without_roots(trust.clock)
        };
        let tls = config.map_err(|error| refuse(Problem::Ca(error)))?;
        let http = Http::new(Arc::unwrap_or_clone(tls.config()), &names).map_err(refuse)?;
        let shared = Shared {
            urls: urls.to_vec(),
            http,
            tls,
            clock: trust.clock.clone(),
            health: Health::of(urls.len()),
            streams: Semaphore::new(MAX_STREAMS),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Whether there is more than one KBS to ask.
    pub fn has_several(&self) -> bool {
        self.shared.urls.len() > 1
    }

    /// Asks for a challenge for a TEE of the kind `tee` (Trustee's names: `snp`, `tdx`, …), one KBS
    /// after the other until one answers as a KBS does. Of several failures the one is told that
    /// somebody must act on.
    pub async fn challenge(&self, tee: &str, until: Instant) -> Result<Challenge, Error> {
        let mut worst: Option<Error> = None;
        for place in self.shared.health.order(Instant::now()) {
            let error = match self.challenge_of(place, tee, until).await {
                Ok(challenge) => return Ok(challenge),
                Err(error) if !error.is_of_the_connection() => return Err(error),
                Err(error) => error,
            };
            tracing::debug!(error = %error, "no challenge");
            // Also where the exchange went well and what came was no challenge.
            self.shared.health.note(place, false, Instant::now());
            worst = Some(match worst {
                None => error,
                Some(before) => graver(before, error),
            });
            if Instant::now() >= until {
                break;
            }
        }
        Err(worst.unwrap_or_else(|| Error::new(Step::Setup, "", Problem::NoUrl)))
    }

    /// A session that rests on a token which somebody else of this guest was given, with the key that
    /// the token names. Asks nobody: the KBS judges the token with the first request.
    pub fn with_token(&self, token: Zeroizing<String>, key: TeeKey) -> Result<Session, Error> {
        let place = self.shared.health.order(Instant::now()).into_iter().next().unwrap_or(0);
        let token = wire::read_token(token)
            .map_err(|malformed| Error::new(Step::Setup, self.url(place), Problem::Malformed(malformed)))?;
        Ok(Session {
            client: self.clone(),
            place,
            cookie: None,
            key: Arc::new(key),
            expires: expiry(&token),
            token: token.text,
            multiplexed: false,
        })
    }

    async fn challenge_of(&self, place: usize, tee: &str, until: Instant) -> Result<Challenge, Error> {
        let url = self.url(place);
        let refuse = |problem| Error::new(Step::Auth, url, problem);
        let body = wire::auth_body(tee).ok_or(Problem::Tee).map_err(refuse)?;
        let start = Instant::now();
        let lane = self.shared.http.turn(until).await.map_err(refuse)?;
        let sent =
            self.exchange(place, Some(&lane), Step::Auth, "/kbs/v0/auth", Proof::None, Some(body), MAX_SMALL, until);
        let answer = sent.await?;
        drop(lane);
        let content = wire::challenge(&answer.body)
            .map_err(|malformed| refuse(shape_of(&answer, Problem::Malformed(malformed))))?
            .ok_or(Problem::Hash)
            .map_err(refuse)?;
        let cookie = wire::session_cookie(answer.headers.get_all(SET_COOKIE).iter().map(HeaderValue::as_bytes))
            .ok_or(Problem::Malformed(Malformed::NoCookie))
            .map_err(refuse)?;
        Ok(Challenge { client: self.clone(), place, cookie, content, took: start.elapsed() })
    }

    fn url(&self, place: usize) -> &KbsUrl {
        static NOWHERE: KbsUrl = KbsUrl { tls: true, host: String::new(), port: 443, prefix: String::new() };
        // Places come from the list's own length, which does not change.
        self.shared.urls.get(place).unwrap_or(&NOWHERE)
    }

    /// One exchange that must end with status 200. Without a lane of its own only over HTTP/2.
    #[allow(clippy::too_many_arguments)] // One private function, three callers, all in this file.
    async fn exchange(
        &self,
        place: usize,
        lane: Option<&Lane<'_>>,
        step: Step,
        path: &str,
        proof: Proof<'_>,
        json: Option<String>,
        cap: usize,
        until: Instant,
    ) -> Result<Answer, Error> {
        let url = self.url(place);
        let method = if json.is_some() { Method::POST } else { Method::GET };
        let request = Request { method, url: format!("{url}{path}"), proof, json };
        let now = Instant::now();
        let longest = if step == Step::Auth { CHALLENGE } else { EXCHANGE };
        let until = now.checked_add(longest).map_or(until, |longest| longest.min(until));
        // However little is wanted, a refusal needs its room.
        let cap = cap.max(MAX_SMALL);
        let result = self.shared.http.exchange(lane, request, cap, until).await;
        let result = result.and_then(|answer| {
            // Whoever answers over TLS has proven to be the configured KBS; in the clear nobody has.
            if let Some(date) = answer.date().filter(|_| url.tls) {
                self.shared.tls.server_says(&url.host, date).map_err(Problem::Tls)?;
            }
            match judge(&answer) {
                None => Ok(answer),
                Some(problem) => Err(problem),
            }
        });
        let result = result.map_err(|problem| Error::new(step, url, problem));
        let works = result.as_ref().err().is_none_or(|error| !error.is_of_the_connection());
        self.shared.health.note(place, works, Instant::now());
        result
    }
}

impl Challenge {
    /// How long the KBS took for it: a sign of its load.
    pub fn took(&self) -> Duration {
        self.took
    }

    /// Binds the key that is to be attested, and the evidence of further devices (empty where there
    /// are none). The very text is hashed here and sent later.
    pub fn bind(self, key: Arc<TeeKey>, additional: String) -> Result<Binding, Error> {
        // As long as the hash is: not every TEE has a field of 64 bytes to pad it to.
        let runtime_data = RuntimeData::new(self.content.nonce.clone(), key.public().clone()).map_err(|_| {
            let problem = Problem::Malformed(Malformed::Challenge);
            Error::new(Step::Auth, self.client.url(self.place), problem)
        })?;
        let report_data = runtime_data.digest(self.content.hash, &additional);
        Ok(Binding { challenge: self, key, runtime_data, additional, report_data })
    }
}

impl Binding {
    /// What the hardware must sign: 32, 48 or 64 bytes, as the KBS chose. Padded with zeros on the
    /// right where the field is wider.
    pub fn report_data(&self) -> &[u8] {
        &self.report_data
    }

    /// Shows the evidence to the KBS that gave the challenge. `init_data` is the whole initdata
    /// document, as measured.
    pub async fn attest(self, evidence: &Evidence, init_data: Option<&str>, until: Instant) -> Result<Session, Error> {
        let Challenge { client, place, cookie, .. } = self.challenge;
        let body = wire::attest_body(&self.runtime_data, evidence, &self.additional, init_data);
        let turn = client.shared.http.turn(until).await;
        let lane = turn.map_err(|problem| Error::new(Step::Attest, client.url(place), problem))?;
        let (path, proof) = ("/kbs/v0/attest", Proof::Cookie(&cookie));
        let sent = client.exchange(place, Some(&lane), Step::Attest, path, proof, Some(body), MAX_TOKEN, until);
        let answer = sent.await?;
        drop(lane);
        let token = wire::token(&answer.body).map_err(|malformed| {
            let problem = shape_of(&answer, Problem::Malformed(malformed));
            Error::new(Step::Attest, client.url(place), problem)
        })?;
        // The token answers our own challenge, so it was made just now.
        if let Some(issued) = token.issued_at.filter(|_| client.url(place).tls) {
            client.shared.clock.raise(issued);
        }
        let (cookie, multiplexed) = (Some(cookie), answer.multiplexed);
        Ok(Session { client, place, cookie, key: self.key, expires: expiry(&token), token: token.text, multiplexed })
    }
}

/// When a token's lifetime, counted from now, is over or nearly.
fn expiry(token: &wire::Token) -> Option<Instant> {
    let lifetime = token.lifetime.filter(|seconds| *seconds >= LEAST_LIFETIME).map(Duration::from_secs)?;
    Instant::now().checked_add(lifetime.saturating_sub(EARLY))
}

impl Session {
    /// Fetches one resource of at most `max_bytes`. Waits for its turn on the connection.
    pub async fn resource(&self, uri: &KbsUri, max_bytes: usize, until: Instant) -> Result<Secret, Error> {
        let refuse = |problem| Error::new(Step::Resource(uri.clone()), self.client.url(self.place), problem);
        let Shared { http, streams, .. } = &*self.client.shared;
        let (mut lane, mut stream) = (None, None);
        if self.multiplexed {
            let turn = tokio::time::timeout_at(until, streams.acquire()).await.map_err(|_| refuse(Problem::Late))?;
            // Fails only when the semaphore is closed, which nobody does.
            stream = turn.ok();
        } else {
            lane = Some(http.turn(until).await.map_err(refuse)?);
        }
        let path = format!("/kbs/v0/resource/{}", uri.path());
        let step = Step::Resource(uri.clone());
        let cap = jwe_cap(max_bytes);
        let proof = self.cookie.as_deref().map_or(Proof::Bearer(&self.token), |cookie| Proof::Cookie(cookie));
        let sent = self.client.exchange(self.place, lane.as_ref(), step, &path, proof, None, cap, until);
        let answer = sent.await;
        drop((lane, stream));
        let answer = match answer {
            Err(Error { problem: Problem::TooLong, .. }) => {
                return Err(refuse(Problem::ResourceTooLong { max: max_bytes }));
            }
            other => other?,
        };
        let secret = jwe::open(&answer.body, self.key.private()).map_err(|error| {
            refuse(if error == jwe::Error::Shape {
                shape_of(&answer, Problem::Jwe(error))
            } else {
                Problem::Jwe(error)
            })
        })?;
        if secret.len() > max_bytes {
            return Err(refuse(Problem::ResourceTooLong { max: max_bytes }));
        }
        Ok(secret)
    }

    /// Whether the token's lifetime is over, or nearly. A session without a known lifetime is never:
    /// the KBS will say so.
    pub fn is_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| now >= expires)
    }

    /// The attestation token, a bearer token of this guest: not for logs. Not verified.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The key that was attested.
    pub fn key(&self) -> &Arc<TeeKey> {
        &self.key
    }

    /// Whether all requests share one connection (HTTP/2).
    pub fn is_multiplexed(&self) -> bool {
        self.multiplexed
    }

    /// The KBS that it is with.
    pub fn url(&self) -> &KbsUrl {
        self.client.url(self.place)
    }
}

/// What an answer is, if it is not status 200.
fn judge(answer: &Answer) -> Option<Problem> {
    match answer.status {
        200 => None,
        status @ 300..=399 => Some(Problem::Redirect { status }),
        413 => Some(Problem::RequestTooLarge),
        status => Some(match classify_body(&answer.body) {
            BodyKind::KbsError(error) => Problem::Refused(error),
            other => Problem::NotAKbs { status, body: other.label() },
        }),
    }
}

/// Status 200 with a page, a text or nothing is a gateway's; with half a JSON it is the KBS's own,
/// cut short, and `problem` stands.
fn shape_of(answer: &Answer, problem: Problem) -> Problem {
    match classify_body(&answer.body) {
        BodyKind::Text if answer.body.trim_ascii_start().starts_with(b"{") => problem,
        BodyKind::Json => problem,
        BodyKind::KbsError(error) => Problem::Refused(error),
        other => Problem::NotAKbs { status: answer.status, body: other.label() },
    }
}

/// Most bytes of the JWE of a resource of `max_bytes`: base64 makes four of three.
fn jwe_cap(max_bytes: usize) -> usize {
    max_bytes.div_ceil(3).saturating_mul(4).saturating_add(JWE_FRAME)
}

/// Of two failures the one that waiting does not cure; the other is noted.
fn graver(a: Error, b: Error) -> Error {
    let recovers = |error: &Error| error.remedy() == Remedy::Again;
    let others_may_recover = recovers(&a) || recovers(&b);
    let graver = if recovers(&a) && !recovers(&b) { b } else { a };
    Error { others_may_recover, ..graver }
}

#[cfg(test)]
mod tests;
