//! The guest's REST service (api-server-rest of guest-components v0.21), and every way it can fail.
//!
//! Answers are what the real one puts on the wire; `testbed/tests/doubles.rs` holds them to
//! recorded transcripts.

mod agent;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use self::agent::Feature;

use self::agent::Agent;
use crate::http::{Act, Handler, Record, Server, Wrap, Wrapped, lock, response};
use crate::kbs::RunningKbs;
use crate::tee::Guest;
use crate::world::{GUEST_API, Place};

/// What the real service says for every cause: denied, missing, no attestation, no KBS.
pub const CDH_FAILED: &str = "rpc status: Status { code: INTERNAL, message: \"[CDH] [ERROR]: Get Resource failed\", \
                              details: [], special_fields: SpecialFields { unknown_fields: UnknownFields { fields: \
                              None }, cached_size: CachedSize { size: 0 } } }";

/// A page as a proxy or portal serves it in place of an answer.
pub const LOGIN_PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body><form method=\"post\">\
                              <input name=\"user\"><input name=\"password\" type=\"password\"></form></body></html>\n";

/// How a request is answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// 200, `application/octet-stream`, these bytes.
    Bytes(Vec<u8>),
    /// 500: the KBS says no, has no such resource, or cannot be reached. The guest does not tell.
    Refused,
    /// 404 `Resource Feature Not Enabled`.
    FeatureOff,
    /// 404 `URL NOT FOUND`.
    NotFound,
    /// 403 `Forbidden`.
    Forbidden,
    /// A login page with 200.
    LoginPage200,
    /// A login page with 403.
    LoginPage403,
    /// 200 with no body.
    Empty,
    /// 302 to this place.
    Redirect(String),
    /// Any status line (`503 Service Unavailable`) with these bytes, without content type.
    Status(String, Vec<u8>),
    /// The connection is accepted and the request read, and then nothing.
    Silent,
    /// Another answer, after a while.
    Late(Duration, Box<Answer>),
    /// 200 with these bytes, head and all one byte at a time.
    Slow(Vec<u8>, Duration),
    /// 200 with these bytes, but a `content-length` that promises more, and a proper close.
    Truncated(Vec<u8>),
    /// As `Truncated`, but with a reset.
    ResetMidBody(Vec<u8>),
    /// A reset in place of an answer.
    Reset,
    /// A close in place of an answer.
    Closed,
    /// A body without length that never ends.
    EndlessBody,
    /// A chunked body that never ends.
    EndlessChunks,
    /// Headers that never end.
    EndlessHeaders,
    /// A `content-length` of this many bytes, and a body to go with it.
    Huge(u64),
    /// 200 with these bytes and a `content-length` smaller by one.
    LengthTooSmall(Vec<u8>),
    /// 200 with these bytes and two `content-length`s that disagree.
    TwoLengths(Vec<u8>),
    /// A second answer right behind the first, with other bytes.
    TwoAnswers(Vec<u8>, Vec<u8>),
    /// Bytes that are not HTTP.
    Garbage,
    /// Just these acts.
    Raw(Vec<Act>),
}

/// A guest API to be started. See [`World::guest`](crate::World::guest).
#[derive(Clone, Debug, Default)]
pub struct GuestApi {
    scripts: BTreeMap<String, Vec<Answer>>,
    default: Option<Answer>,
    refused_for: Duration,
    agent: Agent,
}

/// One that runs. Derefs to the [`Record`] of what it was asked.
#[derive(Debug)]
pub struct RunningGuest {
    server: Server,
    scripts: Arc<Mutex<Scripts>>,
}

/// Answers by path.
type Scripts = BTreeMap<String, Vec<Answer>>;

impl GuestApi {
    /// A guest that has no resource yet, and answers `/info`. As Kata starts it: without `/aa/…`.
    pub fn healthy() -> Self {
        Self::default()
    }

    /// The KBS releases this resource (`payments/db/password`).
    #[must_use]
    pub fn secret(self, resource: &str, bytes: impl AsRef<[u8]>) -> Self {
        self.answer(resource, Answer::Bytes(bytes.as_ref().to_vec()))
    }

    /// This resource is always answered so.
    #[must_use]
    pub fn answer(self, resource: &str, answer: Answer) -> Self {
        self.sequence(resource, [answer])
    }

    /// This resource is answered so in turn; the last answer stays.
    #[must_use]
    pub fn sequence(self, resource: &str, answers: impl IntoIterator<Item = Answer>) -> Self {
        self.path(&format!("/cdh/resource/{resource}"), answers)
    }

    /// This resource fails so many times, and is then released.
    #[must_use]
    pub fn fails_then(self, times: usize, resource: &str, bytes: impl AsRef<[u8]>) -> Self {
        let failures = std::iter::repeat_n(Answer::Refused, times);
        self.sequence(resource, failures.chain([Answer::Bytes(bytes.as_ref().to_vec())]))
    }

    /// This path is answered so in turn; the last answer stays.
    #[must_use]
    pub fn path(mut self, path: &str, answers: impl IntoIterator<Item = Answer>) -> Self {
        self.scripts.insert(path.to_owned(), answers.into_iter().collect());
        self
    }

    /// Everything that has no script of its own is answered so, `/info` excepted.
    #[must_use]
    pub fn otherwise(mut self, answer: Answer) -> Self {
        self.default = Some(answer);
        self
    }

    /// The kernel parameter `agent.guest_components_rest_api` leaves resources out.
    #[must_use]
    pub fn feature_off(self) -> Self {
        self.otherwise(Answer::FeatureOff)
    }

    /// Connections are refused for so long, as early in a guest's boot.
    #[must_use]
    pub fn refused_for(mut self, time: Duration) -> Self {
        self.refused_for = time;
        self
    }

    /// This guest's attestation agent is there, and its feature is on: `/aa/…` answers, `/info` names
    /// the TEE.
    #[must_use]
    pub fn attester(mut self, guest: Guest) -> Self {
        self.agent.feature = Feature::All;
        self.agent.guest = Some(guest);
        self
    }

    /// The agent gets its tokens from this KBS, and CDH the resources that no test spoke of.
    #[must_use]
    pub fn kbs(mut self, kbs: &RunningKbs) -> Self {
        self.agent.kbs = Some(kbs.clone());
        self
    }

    /// The guest was launched with this initdata: the agent sends it along.
    #[must_use]
    pub fn initdata(mut self, toml: &str) -> Self {
        self.agent.initdata = Some(toml.to_owned());
        self
    }

    /// The kernel parameter `agent.guest_components_rest_api`.
    #[must_use]
    pub fn feature(mut self, feature: Feature) -> Self {
        self.agent.feature = feature;
        self
    }

    /// `/info` names these devices, as guest components after v0.21.0 do.
    #[must_use]
    pub fn additional_tees(mut self, names: &[&str]) -> Self {
        self.agent.additional_tees = names.iter().map(ToString::to_string).collect();
        self
    }

    pub(crate) fn start(self, place: &Arc<Place>) -> RunningGuest {
        let place = Arc::clone(place);
        self.listening(move |address| place.tcp(address)).expect("127.0.0.1:8006 is free in this world")
    }

    /// Starts it where this process is: for whoever has made a network namespace already.
    pub fn here(self) -> io::Result<RunningGuest> {
        self.listening(TcpListener::bind)
    }

    fn listening(
        self,
        listen: impl Fn(SocketAddr) -> io::Result<TcpListener> + Send + 'static,
    ) -> io::Result<RunningGuest> {
        let address = GUEST_API.parse().expect("a literal address");
        let delay = self.refused_for;
        let plain: Wrap = Arc::new(|raw| Ok(Wrapped::One(Box::new(raw))));
        let scripts = Arc::new(Mutex::new(self.scripts.clone()));
        let handler = self.handler(Arc::clone(&scripts));
        let server = Server::start(move || listen(address), delay, plain, handler)?;
        Ok(RunningGuest { server, scripts })
    }

    fn handler(self, scripts: Arc<Mutex<Scripts>>) -> Handler {
        let (default, agent) = (self.default, self.agent);
        Arc::new(move |seen| {
            if let Some(off) = agent.off(seen) {
                return off.acts();
            }
            let mut scripts = lock(&scripts);
            let scripted = scripts.get_mut(&seen.path).map(|answers| {
                if answers.len() > 1 { answers.remove(0) } else { answers.first().cloned().unwrap_or(Answer::Refused) }
            });
            drop(scripts);
            // `/info` says what the service is, whatever becomes of the rest.
            let default = default.clone().filter(|_| seen.path != "/info");
            scripted.or(default).unwrap_or_else(|| agent.answer(seen)).acts()
        })
    }
}

impl RunningGuest {
    /// From now on this resource is answered so.
    pub fn set(&self, resource: &str, answer: Answer) {
        lock(&self.scripts).insert(format!("/cdh/resource/{resource}"), vec![answer]);
    }

    /// How many requests there were for anything but `/info`, which gives nothing away.
    pub fn fetched(&self) -> usize {
        self.requests().iter().filter(|seen| seen.path != "/info").count()
    }
}

impl Deref for RunningGuest {
    type Target = Record;

    fn deref(&self) -> &Record {
        self.server.record()
    }
}

const OCTETS: (&str, &str) = ("content-type", "application/octet-stream");
const HTML: (&str, &str) = ("content-type", "text/html; charset=utf-8");

impl Answer {
    fn acts(self) -> Vec<Act> {
        let send =
            |status: &str, headers: &[(&str, &str)], body: &[u8]| vec![Act::Send(response(status, headers, body))];
        let ok = |body: &[u8]| response("200 OK", &[OCTETS], body);
        match self {
            Self::Bytes(body) => vec![Act::Send(ok(&body))],
            Self::Refused => send("500 Internal Server Error", &[], CDH_FAILED.as_bytes()),
            Self::FeatureOff => send("404 Not Found", &[], b"Resource Feature Not Enabled"),
            Self::NotFound => send("404 Not Found", &[], b"URL NOT FOUND"),
            Self::Forbidden => send("403 Forbidden", &[], b"Forbidden"),
            Self::LoginPage200 => send("200 OK", &[HTML], LOGIN_PAGE.as_bytes()),
            Self::LoginPage403 => send("403 Forbidden", &[HTML], LOGIN_PAGE.as_bytes()),
            Self::Empty => vec![Act::Send(ok(b""))],
            Self::Redirect(to) => send("302 Found", &[("location", &to)], b""),
            Self::Status(status, body) => send(&status, &[], &body),
            Self::Silent => vec![Act::Silence],
            Self::Late(time, then) => std::iter::once(Act::Wait(time)).chain(then.acts()).collect(),
            Self::Slow(body, gap) => vec![Act::Drip(ok(&body), gap)],
            Self::Truncated(body) => vec![Act::Send(promise(body.len() + 100, &body)), Act::Close],
            Self::ResetMidBody(body) => vec![Act::Send(promise(body.len() + 100, &body)), Act::Reset],
            Self::Reset => vec![Act::Reset],
            Self::Closed => vec![Act::Close],
            Self::EndlessBody => vec![
                Act::Send(b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n\r\n".to_vec()),
                Act::Endless(vec![b'x'; 16 * 1024]),
            ],
            Self::EndlessChunks => vec![
                Act::Send(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                        .to_vec(),
                ),
                Act::Endless(b"10\r\nxxxxxxxxxxxxxxxx\r\n".repeat(512)),
            ],
            Self::EndlessHeaders => vec![
                Act::Send(b"HTTP/1.1 200 OK\r\n".to_vec()),
                Act::Endless(b"x-more: xxxxxxxxxxxxxxxx\r\n".repeat(512)),
            ],
            Self::Huge(length) => vec![
                Act::Send(
                    format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {length}\r\n\r\n"
                    )
                    .into_bytes(),
                ),
                Act::Endless(vec![b'x'; 16 * 1024]),
            ],
            Self::LengthTooSmall(body) => vec![Act::Send(promise(body.len().saturating_sub(1), &body)), Act::Close],
            Self::TwoLengths(body) => {
                let lengths = format!("content-length: {}\r\ncontent-length: {}", body.len(), body.len() + 7);
                let mut bytes = format!("HTTP/1.1 200 OK\r\n{lengths}\r\n\r\n").into_bytes();
                bytes.extend(body);
                vec![Act::Send(bytes), Act::Close]
            }
            Self::TwoAnswers(first, second) => vec![Act::Send([ok(&first), ok(&second)].concat())],
            Self::Garbage => vec![Act::Send(b"\x00\xff\x16\x03\x01 this is not HTTP\r\n\r\n".to_vec()), Act::Close],
            Self::Raw(acts) => acts,
        }
    }
}

/// A 200 whose `content-length` is what we say.
fn promise(length: usize, body: &[u8]) -> Vec<u8> {
    let mut bytes =
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {length}\r\n\r\n")
            .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}
