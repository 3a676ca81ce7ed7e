//! Asks the KBS that configuration names, without evidence: name, connection, certificate, answer.
//!
//! The data hub answers every failure with the same 500. This finds out what can be found without
//! it: `POST /kbs/v0/auth` gives a challenge to anyone who speaks the right version, so a KBS that
//! answers it is reachable, is the configured one, and is of our version. Nothing of ours is sent
//! but that request, and nothing of the answer is kept but its kind.

mod report;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST};
use hyper::{Request, http};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::PROTOCOL_VERSION;
use super::dns::{DnsProblem, Resolver};
use super::http::date;
use crate::clock::Clock;
use crate::config::KbsUrl;
use crate::formats::kbs_error::{BodyKind, classify_body};
use crate::tls::{self, TlsProblem};
pub use report::{CONFIG, Report, Stage, StageName, Verdict, in_words_of};

/// Most bytes of an answer, 64 KiB. A challenge has about 90; a gateway's page is known by its start.
const MAX_ANSWER: usize = 64 * 1024;

/// Most bytes that the connection buffers; the head of the answer must fit into it.
const BUFFER: usize = 64 * 1024;

/// Most addresses of one name that are tried: who has more has a load balancer.
const MAX_ADDRESSES: usize = 4;

/// Asks the KBS at `url`, trusting only the certificates in `ca` (PEM) by `clock`, within `budget` altogether.
/// Each stage may take an equal part of what is left, so a slow one does not starve the next.
///
/// Never fails: what went wrong is the report. Dropping the future closes what is open.
pub async fn probe(url: &KbsUrl, ca: Option<&str>, clock: &Clock, budget: Duration) -> Report {
    probe_with(url, ca, clock, budget, Resolver::system).await
}

/// The same with a resolver of the caller's; it is made only for a host that is a name.
pub async fn probe_with(
    url: &KbsUrl,
    ca: Option<&str>,
    clock: &Clock,
    budget: Duration,
    resolver: impl FnOnce() -> Result<Resolver, DnsProblem>,
) -> Report {
    let mut walk = Walk { clock: clock.clone(), until: Instant::now() + budget, stages: Vec::new(), date: None };
    let verdict = walk.all(url, ca, resolver).await.unwrap_or_else(|verdict| verdict);
    Report::new(url.clone(), walk.stages, verdict, walk.date)
}

/// The stages passed so far, and when it must be over.
struct Walk {
    clock: Clock,
    until: Instant,
    stages: Vec<Stage>,
    date: Option<u64>,
}

impl Walk {
    /// `Err` at the first broken stage; both are verdicts.
    async fn all(
        &mut self,
        url: &KbsUrl,
        ca: Option<&str>,
        resolver: impl FnOnce() -> Result<Resolver, DnsProblem>,
    ) -> Result<Verdict, Verdict> {
        let addresses = match url.host.parse::<IpAddr>() {
            Ok(literal) => vec![literal],
            Err(_) => {
                self.stage(StageName::Name, 4, resolve(&url.host, resolver), Verdict::Name(DnsProblem::NoAnswer))
                    .await?
            }
        };
        let budget = self.share(3);
        let connecting = connect(&addresses, url.port, budget);
        let tcp = self.stage(StageName::Connection, 3, connecting, Verdict::ConnectTimeout).await?;
        if !url.tls {
            return self.ask(tcp, url).await;
        }
        let silent = Verdict::Silent(StageName::Certificate);
        let clock = self.clock.clone();
        let tls = self.stage(StageName::Certificate, 2, handshake(tcp, &url.host, ca, &clock), silent).await?;
        self.ask(tls, url).await
    }

    async fn ask(&mut self, io: impl AsyncRead + AsyncWrite + Unpin + Send, url: &KbsUrl) -> Result<Verdict, Verdict> {
        let silent = Verdict::Silent(StageName::Answer);
        let (status, date, body) = self.stage(StageName::Answer, 1, exchange(io, url), silent).await?;
        self.date = date;
        Ok(judge(status, &body))
    }

    /// What this stage may take, where `left` stages (this one included) are still to come.
    fn share(&self, left: u32) -> Duration {
        self.until.saturating_duration_since(Instant::now()) / left.max(1)
    }

    async fn stage<T>(
        &mut self,
        name: StageName,
        left: u32,
        work: impl Future<Output = Result<T, Verdict>>,
        late: Verdict,
    ) -> Result<T, Verdict> {
        let start = Instant::now();
        let result = timeout(self.share(left), work).await.unwrap_or(Err(late));
        self.stages.push(Stage { name, passed: result.is_ok(), took: start.elapsed() });
        result
    }
}

async fn resolve(host: &str, resolver: impl FnOnce() -> Result<Resolver, DnsProblem>) -> Result<Vec<IpAddr>, Verdict> {
    let resolver = resolver().map_err(Verdict::Name)?;
    resolver.lookup(host).await.map_err(Verdict::Name)
}

/// Tries each address in turn; the last failure stands for all.
async fn connect(addresses: &[IpAddr], port: u16, budget: Duration) -> Result<TcpStream, Verdict> {
    let addresses = addresses.get(..MAX_ADDRESSES).unwrap_or(addresses);
    let each = budget / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let mut last = Verdict::ConnectTimeout;
    for address in addresses {
        match timeout(each, TcpStream::connect(SocketAddr::new(*address, port))).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => last = Verdict::ConnectRefused,
            Ok(Err(_)) => last = Verdict::NoRoute,
            Err(_) => last = Verdict::ConnectTimeout,
        }
    }
    Err(last)
}

async fn handshake(
    tcp: TcpStream,
    host: &str,
    ca: Option<&str>,
    clock: &Clock,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Verdict> {
    let config = tls::client(Some(ca.ok_or(Verdict::NoCa)?), false, clock).map_err(Verdict::BadCa)?.config();
    let name = ServerName::try_from(host.to_owned()).map_err(|_| Verdict::Tls(TlsProblem::WrongName))?;
    TlsConnector::from(config)
        .connect(name, tcp)
        .await
        .map_err(|error| tls::explain_io(&error).map_or(Verdict::Closed(StageName::Certificate), Verdict::Tls))
}

/// One request, one answer: status, date and body, the body at most [`MAX_ANSWER`].
async fn exchange(
    io: impl AsyncRead + AsyncWrite + Unpin + Send,
    url: &KbsUrl,
) -> Result<(u16, Option<u64>, Vec<u8>), Verdict> {
    let request = request(url).map_err(|_| Verdict::Closed(StageName::Answer))?;
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(BUFFER).handshake(TokioIo::new(io)).await.map_err(|error| broken(&error))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let (status, date) = (response.status().as_u16(), date(response.headers()));
        match Limited::new(response.into_body(), MAX_ANSWER).collect().await {
            Ok(body) => Ok((status, date, body.to_bytes().to_vec())),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(Verdict::NotAKbs { status, body: "a body without end" })
            }
            Err(_) => Err(Verdict::Closed(StageName::Answer)),
        }
    };
    let (mut exchange, connection) = (pin!(exchange), pin!(connection));
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        _ = connection => exchange.await,
    }
}

fn request(url: &KbsUrl) -> Result<Request<Full<Bytes>>, http::Error> {
    let body = format!(
        r#"{{"version":"{PROTOCOL_VERSION}","tee":"snp","extra-params":{{"supported-hash-algorithms":["sha256","sha384","sha512"]}}}}"#
    );
    Request::post(format!("{}/kbs/v0/auth", url.prefix))
        .header(HOST, host_header(url))
        .header(CONNECTION, "close")
        .header(CONTENT_TYPE, "application/json")
        .header("user-agent", concat!("countersign/", env!("CARGO_PKG_VERSION")))
        .body(Full::from(body))
}

/// Without the scheme's own port: gateways compare the header with their routes as text.
fn host_header(url: &KbsUrl) -> String {
    let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
    let own = if url.tls { 443 } else { 80 };
    if url.port == own { host } else { format!("{host}:{}", url.port) }
}

fn broken(error: &hyper::Error) -> Verdict {
    if error.is_parse() { Verdict::NotHttp } else { Verdict::Closed(StageName::Answer) }
}

/// What an answer to `/auth` says about who gave it. Pure.
pub fn judge(status: u16, body: &[u8]) -> Verdict {
    match classify_body(body) {
        BodyKind::KbsError(error) => match error.expects {
            Some(theirs) if theirs.as_str() != PROTOCOL_VERSION => Verdict::OtherVersion { theirs },
            _ => Verdict::RefusesUs(error.variant),
        },
        BodyKind::Json if status == 200 && is_challenge(body) => Verdict::SpeaksOurs,
        other => Verdict::NotAKbs { status, body: other.label() },
    }
}

/// `{"nonce": "…", "extra-params": …}`
fn is_challenge(body: &[u8]) -> bool {
    let Ok(serde_json::Value::Object(members)) = serde_json::from_slice(body) else { return false };
    members.get("nonce").is_some_and(|nonce| nonce.as_str().is_some_and(|text| !text.is_empty()))
        && members.contains_key("extra-params")
}
