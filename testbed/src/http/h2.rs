//! The same acts over HTTP/2, for servers that offer it. One thread per connection here too; the
//! protocol itself is hyper's.

use std::future::pending;
use std::io;
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio_rustls::TlsAcceptor;

use super::{Act, Handler, Record, Seen};

/// How long we wait for a whole `ClientHello`.
const HELLO: Duration = Duration::from_secs(10);

/// Pause before looking again at a `ClientHello` that is still coming.
const AGAIN: Duration = Duration::from_millis(1);

/// Whether the client offers h2. Only peeks: whoever speaks TLS reads the hello again.
pub(crate) fn offered(raw: &TcpStream) -> bool {
    let until = Instant::now() + HELLO;
    // A TLS record is at most 16 KiB and 5 bytes long, and a hello fits one.
    let mut seen = vec![0; 17 * 1024];
    while Instant::now() < until {
        let Ok(length @ 1..) = raw.peek(&mut seen) else { return false };
        let mut acceptor = Acceptor::default();
        let mut bytes = seen.get(..length).unwrap_or_default();
        while !bytes.is_empty() && matches!(acceptor.read_tls(&mut bytes), Ok(1..)) {}
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                return accepted.client_hello().alpn().is_some_and(|mut names| names.any(|name| name == b"h2"));
            }
            Ok(None) => thread::sleep(AGAIN),
            Err(_) => return false,
        }
    }
    false
}

/// Serves one connection until it ends.
pub(super) fn serve(raw: TcpStream, tls: Arc<ServerConfig>, record: Arc<Record>, handler: Handler) -> io::Result<()> {
    raw.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let stream = tokio::net::TcpStream::from_std(raw)?;
        let stream = TlsAcceptor::from(tls).accept(stream).await?;
        let service = service_fn(move |request| answer(request, Arc::clone(&record), Arc::clone(&handler)));
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await
            .map_err(io::Error::other)
    })
}

async fn answer(
    request: Request<Incoming>,
    record: Arc<Record>,
    handler: Handler,
) -> Result<Response<Part>, io::Error> {
    let seen = seen(request).await?;
    record.begin(&seen);
    let answer = perform(handler(&seen)).await;
    record.end();
    answer
}

async fn seen(request: Request<Incoming>) -> Result<Seen, io::Error> {
    let (head, body) = request.into_parts();
    let mut headers = std::collections::BTreeMap::<String, String>::new();
    for (name, value) in &head.headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        // Cookies may come in crumbs (RFC 9113 §8.2.3).
        headers
            .entry(name.to_string())
            .and_modify(|all| {
                all.push_str("; ");
                all.push_str(&value);
            })
            .or_insert(value);
    }
    Ok(Seen {
        method: head.method.to_string(),
        path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers,
        body: body.collect().await.map_err(io::Error::other)?.to_bytes().to_vec(),
        at: Instant::now(),
        http2: true,
    })
}

/// Acts as far as HTTP/2 has a word for them: what ends a connection there ends a stream here.
async fn perform(acts: Vec<Act>) -> Result<Response<Part>, io::Error> {
    let mut answer = None;
    for act in acts {
        match act {
            Act::Wait(time) => tokio::time::sleep(time).await,
            Act::Send(bytes) => answer = Some(response(&bytes)?),
            Act::Drip(bytes, gap) => {
                let pause = gap * u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                tokio::time::sleep(pause).await;
                answer = Some(response(&bytes)?);
            }
            Act::Silence => pending().await,
            Act::Close | Act::Reset | Act::Endless(_) => {
                let Some(mut begun) = answer else { return Err(io::Error::other("told to")) };
                begun.body_mut().broken = true;
                return Ok(begun);
            }
        }
    }
    answer.ok_or_else(|| io::Error::other("no answer"))
}

/// An answer that was written for HTTP/1.1.
fn response(bytes: &[u8]) -> Result<Response<Part>, io::Error> {
    let bad = || io::Error::other("not an answer");
    let at = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(bad)?;
    let head = std::str::from_utf8(bytes.get(..at).unwrap_or_default()).map_err(io::Error::other)?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).ok_or_else(bad)?;
    let mut answer = Response::builder().status(status);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        answer = answer.header(name, value);
    }
    let body = Bytes::copy_from_slice(bytes.get(at + 4..).unwrap_or_default());
    answer.body(Part { body: Some(body), broken: false }).map_err(io::Error::other)
}

/// A body, whole or broken off.
struct Part {
    body: Option<Bytes>,
    broken: bool,
}

impl Body for Part {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(match self.body.take().filter(|body| !body.is_empty()) {
            Some(body) => Some(Ok(Frame::data(body))),
            None if self.broken => Some(Err(io::Error::other("told to"))),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        !self.broken && self.body.as_ref().is_none_or(Bytes::is_empty)
    }
}
