//! Servers that have what a maker says of its hardware: AMD's key server, a PCCS. Asked one thing at a
//! time with the client that asks the KBS: no proxy, no redirect, no second try, capped, in time.
//!
//! What they answer proves itself by its maker's signature. https keeps others from reading which
//! platform is asked about, and from making the answer another.

use reqwest::Method;
use tokio::time::Instant;

use super::dns::Names;
use super::error::Problem;
use super::http::{Http, Proof, Request};
use crate::clock::Clock;
use crate::config::KbsUrl;
use crate::evidence::pcs::Answer;
use crate::tls;

/// One server.
pub struct Server {
    url: KbsUrl,
    http: Http,
}

/// Why there is no answer. Each message continues "the server …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// It was not reached, or did not answer whole.
    #[error("{0}")]
    Unreached(Problem),
    /// https, and nobody to trust for it.
    #[error("cannot be trusted: no CA is known; give --ca a PEM file with the server's")]
    NoCa,
    /// The given CA is none.
    #[error("cannot be trusted: the CA {0}")]
    Ca(tls::Error),
    /// 3xx.
    #[error("redirects (status {0}), which is not followed: give the URL that it names")]
    Redirect(u16),
    /// 401, 403.
    #[error("wants to know who asks (status {0}): use one that answers everybody, as a PCCS of your own does")]
    Credentials(u16),
    /// 404.
    #[error(
        "does not have it (status 404): check that the URL is the server's, with nothing behind the port, and that it knows this platform"
    )]
    NotThere,
    /// 429.
    #[error("is asked too often (status 429): wait a minute, or put a cache of your own before it")]
    TooOften,
    /// 5xx.
    #[error("fails by itself (status {0}): read its log, or wait and ask again")]
    Fails(u16),
    /// Any other status.
    #[error("answers with status {0}: check what stands at this URL")]
    Status(u16),
}

impl Server {
    /// At `url`; for https `ca` (PEM) says whom to trust. Connects to nobody yet.
    pub fn new(url: KbsUrl, ca: Option<&str>, clock: &Clock) -> Result<Self, Missing> {
        let tls = if url.tls {
            tls::client(Some(ca.ok_or(Missing::NoCa)?), false, clock)
        } else {
            tls::client_without_roots(clock)
        };
        let tls = tls.map_err(Missing::Ca)?;
        let http = Http::new((*tls.config()).clone(), &Names::system()).map_err(Missing::Unreached)?;
        Ok(Self { url, http })
    }

    /// What it has at `path`, at most `cap` bytes, until `until`; with the first of the `headers` that is there.
    pub async fn get(&self, path: &str, headers: &[&str], cap: usize, until: Instant) -> Result<Answer, Missing> {
        let lane = self.http.turn(until).await.map_err(Missing::Unreached)?;
        let url = format!("{}{path}", self.url);
        let request = Request { method: Method::GET, url, proof: Proof::None, json: None };
        let answer = self.http.exchange(Some(&lane), request, cap, until).await.map_err(Missing::Unreached)?;
        match answer.status {
            200 => {}
            status @ 300..=399 => return Err(Missing::Redirect(status)),
            status @ (401 | 403) => return Err(Missing::Credentials(status)),
            404 => return Err(Missing::NotThere),
            429 => return Err(Missing::TooOften),
            status @ 500..=599 => return Err(Missing::Fails(status)),
            status => return Err(Missing::Status(status)),
        }
        let issuers = headers.iter().find_map(|name| answer.headers.get(*name)?.to_str().ok()).map(ToOwned::to_owned);
        Ok(Answer { body: answer.body, issuers })
    }
}
