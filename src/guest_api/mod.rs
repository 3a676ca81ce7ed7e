//! The guest's REST service, `api-server-rest` on 127.0.0.1:8006: one GET at a time.
//!
//! The address is literal and handed in: no name is resolved, no proxy is known, no redirect is
//! followed, and no environment variable changes any of it. Who answers there is not proven by
//! anything (loopback knows no callers and no servers), so the answer is hostile until it is a 200
//! of the right kind, of a known length, and no longer than asked for.
//!
//! Source: guest-components v0.21 `api-server-rest`, as observed.

mod agent;
pub mod checks;
mod error;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::pin::pin;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderMap, TRANSFER_ENCODING};
use hyper::{Request, Response, StatusCode, http};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use zeroize::Zeroizing;

pub use agent::{Info, Passport};
pub use error::{Asked, Error, Feature};

use crate::formats::kbs_error::{BodyKind, classify_body};
use crate::formats::kbs_uri::KbsUri;
use crate::secret::Secret;

/// Most bytes that one connection buffers, 64 KiB; the whole head must fit into it. The real one
/// has about 130 bytes. hyper's own default is 400 KiB; its least is 8 KiB.
const BUFFER: usize = 64 * 1024;

/// Most bytes of a refusal that are read, 4 KiB: the longest real one has 216. Read to tell the
/// causes apart, never kept.
const MAX_REFUSAL: usize = 4 * 1024;

/// Content type of secrets, tokens and evidence.
const OCTETS: &str = "application/octet-stream";

/// First size of the buffer for an answer in chunks, whose length is not announced.
const FIRST_CHUNK: usize = 8 * 1024;

/// A client of the guest's REST service. Holds no connection: each call makes one and closes it.
#[derive(Clone, Copy, Debug)]
pub struct GuestApi {
    addr: SocketAddr,
}

impl GuestApi {
    /// A client of the service at `addr` (`Ports::guest_api`, 127.0.0.1:8006 in the shipped binary).
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr }
    }

    /// `GET /cdh/resource/<repository>/<type>/<tag>`: the value of a KBS resource, at most
    /// `max_bytes` long; it may be empty, which is for the caller to judge.
    ///
    /// Has no timeout: the caller holds the deadline (the service itself waits up to 50 s for CDH).
    /// Dropping the future closes the connection and wipes what had arrived; nothing is left half
    /// done on either side, and the call can be made again.
    ///
    /// hyper's read buffer holds a passing copy of the value that it does not wipe.
    pub async fn resource(&self, uri: &KbsUri, max_bytes: usize) -> Result<Secret, Error> {
        let mut value = self.get(&format!("/cdh/resource/{}", uri.path()), OCTETS, max_bytes).await?;
        Ok(Secret::new(std::mem::take(&mut *value)))
    }

    /// One GET: the body of a 200 of this content type, at most `max_bytes` long.
    async fn get(&self, path: &str, kind: &str, max_bytes: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
        let request = self.request(path).map_err(|_| Error::Protocol)?;
        let stream = TcpStream::connect(self.addr).await.map_err(|error| Error::connect(&error))?;
        let (mut sender, connection) =
            http1::Builder::new().max_buf_size(BUFFER).handshake(TokioIo::new(stream)).await.map_err(head_error)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(head_error)?;
            read_answer(response, kind, max_bytes, path.starts_with("/aa/")).await
        };
        // Both halves run in this future and not in a task, so that dropping it ends both.
        let (mut exchange, connection) = (pin!(exchange), pin!(connection));
        tokio::select! {
            biased;
            answer = &mut exchange => answer,
            // The connection has ended; what had arrived by then still stands to be read.
            _ = connection => exchange.await,
        }
    }

    fn request(&self, path: &str) -> Result<Request<Empty<Bytes>>, http::Error> {
        Request::get(path)
            .header(HOST, self.addr.to_string())
            .header(CONNECTION, "close")
            .header("user-agent", concat!("countersign/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
    }
}

async fn read_answer(
    response: Response<Incoming>,
    kind: &str,
    max_bytes: usize,
    agent: bool,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        // A refusal that cannot be read is still that refusal.
        let text = collect(body, MAX_REFUSAL).await.unwrap_or_default();
        return Err(refusal(head.status, &text, agent));
    }
    check_kind(&head.headers, kind)?;
    // Without either, the value would end wherever the connection does, and a cut one look whole.
    if body.size_hint().exact().is_none() && !head.headers.contains_key(TRANSFER_ENCODING) {
        return Err(Error::NoLength);
    }
    collect(body, max_bytes).await
}

/// A 200 must be of the kind that the real service sends, and its bytes as they are.
fn check_kind(headers: &HeaderMap, expected: &str) -> Result<(), Error> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case(expected) {
        return Err(Error::OtherKind { html: essence.eq_ignore_ascii_case("text/html") });
    }
    if headers.contains_key(CONTENT_ENCODING) {
        return Err(Error::Encoded);
    }
    Ok(())
}

fn refusal(status: StatusCode, text: &[u8], agent: bool) -> Error {
    let text = text.trim_ascii();
    match status.as_u16() {
        300..=399 => Error::Redirect,
        403 => Error::Forbidden,
        404 if text.starts_with(b"Resource Feature Not Enabled") => Error::FeatureOff { which: Feature::Resource },
        404 if text.starts_with(b"Attestation Feature Not Enabled") => {
            Error::FeatureOff { which: Feature::Attestation }
        }
        404 if text.starts_with(b"URL NOT FOUND") => Error::UrlNotFound,
        // A page under 500 is a gateway's, not CDH's.
        500 if classify_body(text) != BodyKind::Html => {
            if agent {
                Error::AgentFailed
            } else {
                Error::CdhFailed
            }
        }
        code => Error::Status(code),
    }
}

/// Reads a body of at most `max` bytes into memory that is wiped, and never moved unwiped.
async fn collect(mut body: Incoming, max: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
    let announced = body.size_hint().exact();
    if announced.is_some_and(|length| usize::try_from(length).map_or(true, |length| length > max)) {
        return Err(Error::TooLarge { max });
    }
    let room = announced.and_then(|length| usize::try_from(length).ok()).unwrap_or(FIRST_CHUNK.min(max));
    let mut value = Zeroizing::new(Vec::with_capacity(room));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| body_error(&error))?;
        let Some(data) = frame.data_ref() else { continue };
        if data.len() > max.saturating_sub(value.len()) {
            return Err(Error::TooLarge { max });
        }
        append(&mut value, data);
    }
    Ok(value)
}

/// Appends. Where there is no room, the bytes move to a larger buffer and the old one is wiped, as
/// a vector that grows by itself would not do.
fn append(value: &mut Zeroizing<Vec<u8>>, data: &[u8]) {
    let needed = value.len().saturating_add(data.len());
    if needed > value.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(needed.max(value.capacity().saturating_mul(2))));
        larger.extend_from_slice(value);
        *value = larger;
    }
    value.extend_from_slice(data);
}

/// An error before the head of the answer was read.
#[allow(clippy::needless_pass_by_value)] // The shape that `map_err` wants.
fn head_error(error: hyper::Error) -> Error {
    if error.is_parse() { Error::Protocol } else { Error::Closed }
}

/// An error while the body was read.
fn body_error(error: &hyper::Error) -> Error {
    if error.is_parse() { Error::Protocol } else { Error::Truncated }
}
