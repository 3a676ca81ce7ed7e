//! The loader: peers with certificates, whose key exchange is chosen here and checked.
//!
//! Closed loops: each lane sends its next request when it has the answer to the last. Counted is what
//! ends within a window; connections are made, and caches are filled, before it opens.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, NamedGroup, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use countersign_testbed::pki::Identity;

use crate::backend::{ENDLESS, PIECE, content_length, find};
use crate::proof::Proof;

/// The name in every proxy's certificate.
pub const NAME: &str = "api.test";

/// Longest that a lane may take to see that the window is closed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Connections for requests that follow each other, and for new connections that follow each other.
pub const LANES: usize = 32;

/// The key exchange that is offered: one, so that it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kx {
    Hybrid,
    X25519,
}

impl Kx {
    pub fn name(self) -> &'static str {
        match self {
            Self::Hybrid => "X25519MLKEM768",
            Self::X25519 => "X25519",
        }
    }

    fn group(self) -> NamedGroup {
        match self {
            Self::Hybrid => NamedGroup::X25519MLKEM768,
            Self::X25519 => NamedGroup::X25519,
        }
    }
}

/// What lanes do, over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Connect, handshake, one request, close.
    Connect,
    /// The same of an issuer: what it is asked for is in the exchange.
    Issue,
    /// A request on a connection that stays.
    Http1,
    /// The same, HTTP/2.
    Http2,
    /// Bytes of one answer.
    Down,
    /// Bytes of one request.
    Up,
}

/// Who connects: a certificate, and what is shown and demanded after the handshake.
pub struct Caller {
    pub tls: Arc<ClientConfig>,
    pub proof: Option<Proof>,
}

/// Callers; taken in turn.
pub type Callers = Rc<Vec<Caller>>;

/// A connection that counts how often an answer had to be waited for.
pub struct Wire {
    socket: TcpStream,
    asked: bool,
    waits: u32,
}

/// What a handshake leaves.
type Tls = TlsStream<Wire>;

/// One peer of a proxy.
#[derive(Clone)]
pub struct Peer {
    address: SocketAddr,
    kx: Kx,
    callers: Callers,
    next: Rc<Cell<usize>>,
}

impl Peer {
    pub fn new(address: SocketAddr, kx: Kx, callers: &Callers) -> Self {
        Self { address, kx, callers: Rc::clone(callers), next: Rc::default() }
    }

    /// A handshake, our half of it. Errors if another key exchange came out, or a ticket did.
    async fn connect(&self) -> io::Result<Tls> {
        let turn = self.next.replace(self.next.get().wrapping_add(1));
        let caller = &self.callers[turn % self.callers.len()];
        let socket = TcpStream::connect(self.address).await?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from(NAME).expect("a name");
        let wire = Wire { socket, asked: false, waits: 0 };
        let mut tls = TlsConnector::from(Arc::clone(&caller.tls)).connect(name, wire).await?;
        let group = tls.get_ref().1.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name);
        if group != Some(self.kx.group()) {
            return Err(io::Error::other(format!("{:?} was not chosen, but {group:?}", self.kx)));
        }
        if let Some(proof) = &caller.proof {
            proof.exchange(&mut tls).await?;
        }
        Ok(tls)
    }

    /// How many answers a caller waits for before it may send its app's first byte: round trips after TCP's own.
    pub async fn round_trips(&self) -> io::Result<u32> {
        let mut tls = self.connect().await?;
        let waits = tls.get_ref().0.waits;
        request(&mut tls).await?;
        Ok(waits)
    }

    /// A connection with one request behind it: idle from now on.
    pub async fn idle(&self) -> io::Result<Idle> {
        let mut idle = Idle(self.connect().await?);
        idle.ask().await?;
        Ok(idle)
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        if buf.filled().len() > before && std::mem::take(&mut self.asked) {
            self.waits += 1;
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.asked = true;
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// A client's configuration: this certificate, these roots, one key exchange, no resumption.
pub fn client(identity: &Identity, roots: &str, kx: Kx, alpn: &[u8]) -> Caller {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![match kx {
        Kx::Hybrid => kx_group::X25519MLKEM768,
        Kx::X25519 => kx_group::X25519,
    }];
    let mut store = RootCertStore::empty();
    store.add(CertificateDer::from_pem_slice(roots.as_bytes()).expect("PEM")).expect("a certificate");
    let chain = vec![CertificateDer::from_pem_slice(identity.pem().as_bytes()).expect("PEM")];
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem().as_bytes()).expect("PEM");
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(store)
        .with_client_auth_cert(chain, key)
        .expect("the key is the certificate's");
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = vec![alpn.to_vec()];
    Caller { tls: Arc::new(config), proof: None }
}

/// A connection that nothing is asked on.
pub struct Idle(Tls);

impl Idle {
    /// One request, to see whether it lives.
    pub async fn ask(&mut self) -> io::Result<()> {
        request(&mut self.0).await
    }

    /// Tickets that have come: none should have, or the proxies do not do the same work.
    pub fn tickets(&self) -> u32 {
        self.0.get_ref().1.tls13_tickets_received()
    }
}

/// What a window saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Requests, or bytes.
    pub done: u64,
    /// Requests that failed, in the window or outside of it, and the first one's error.
    pub failed: u64,
    pub error: Option<String>,
    /// How long requests took, µs, in order of size. Of connections: with the handshake.
    pub latencies: Vec<u32>,
}

impl Seen {
    /// The latency that so many of a hundred did not exceed, µs.
    pub fn percentile(&self, of_hundred: usize) -> u32 {
        let at = (self.latencies.len() * of_hundred / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).copied().unwrap_or(0)
    }
}

/// Lanes that run.
pub struct Load {
    meter: Rc<Meter>,
    lanes: Vec<JoinHandle<()>>,
    cut: bool,
}

#[derive(Default)]
struct Meter {
    open: Cell<bool>,
    over: Cell<bool>,
    seen: RefCell<Seen>,
}

impl Meter {
    fn request(&self, begun: Instant) {
        if self.open.get() {
            let mut seen = self.seen.borrow_mut();
            seen.done += 1;
            seen.latencies.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
    }

    fn bytes(&self, count: usize) {
        if self.open.get() {
            self.seen.borrow_mut().done += count as u64;
        }
    }

    fn failed(&self, error: &io::Error) {
        let mut seen = self.seen.borrow_mut();
        seen.failed += 1;
        seen.error.get_or_insert_with(|| error.to_string());
    }
}

impl Load {
    /// Starts `lanes` of `work`. Runs on the `LocalSet` that we are in.
    pub fn start(peer: &Peer, work: Work, lanes: usize) -> Self {
        let meter = Rc::new(Meter::default());
        let lane = |_| {
            let (peer, meter) = (peer.clone(), Rc::clone(&meter));
            tokio::task::spawn_local(async move {
                let result = match work {
                    Work::Connect | Work::Issue => connections(&peer, &meter, work == Work::Connect).await,
                    Work::Http1 => http1(&peer, &meter).await,
                    Work::Http2 => http2(&peer, &meter).await,
                    Work::Down => down(&peer, &meter).await,
                    Work::Up => up(&peer, &meter).await,
                };
                if let Err(error) = result {
                    meter.failed(&error);
                }
            })
        };
        let lanes = (0..lanes).map(lane).collect();
        Self { meter, lanes, cut: matches!(work, Work::Down | Work::Up) }
    }

    pub fn open(&self) {
        self.meter.open.set(true);
    }

    pub fn close(&self) {
        self.meter.open.set(false);
    }

    /// Lets the lanes end, each after its answer; the endless ones in the middle.
    pub async fn end(self) -> Seen {
        self.meter.over.set(true);
        for lane in self.lanes {
            if self.cut {
                lane.abort();
                continue;
            }
            if tokio::time::timeout(PATIENCE, lane).await.is_err() {
                self.meter.failed(&io::Error::other("no answer came"));
            }
        }
        let mut seen = self.meter.seen.take();
        seen.latencies.sort_unstable();
        seen
    }
}

async fn connections(peer: &Peer, meter: &Meter, asks: bool) -> io::Result<()> {
    while !meter.over.get() {
        let begun = Instant::now();
        let mut tls = peer.connect().await?;
        if asks {
            request(&mut tls).await?;
        }
        meter.request(begun);
        tls.shutdown().await?;
    }
    Ok(())
}

async fn http1(peer: &Peer, meter: &Meter) -> io::Result<()> {
    let mut tls = peer.connect().await?;
    while !meter.over.get() {
        let begun = Instant::now();
        request(&mut tls).await?;
        meter.request(begun);
    }
    tls.shutdown().await
}

async fn http2(peer: &Peer, meter: &Meter) -> io::Result<()> {
    let io = TokioIo::new(peer.connect().await?);
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.map_err(io::Error::other)?;
    let connection = tokio::task::spawn_local(connection);
    while !meter.over.get() {
        let begun = Instant::now();
        let request = hyper::Request::get(format!("https://{NAME}/")).body(Empty::<Bytes>::new());
        let answer = send.send_request(request.map_err(io::Error::other)?).await.map_err(io::Error::other)?;
        if answer.status() != hyper::StatusCode::OK {
            return Err(io::Error::other(format!("status {}", answer.status())));
        }
        answer.into_body().collect().await.map_err(io::Error::other)?;
        meter.request(begun);
    }
    drop(send);
    let _ = connection.await;
    Ok(())
}

async fn down(peer: &Peer, meter: &Meter) -> io::Result<()> {
    let mut tls = peer.connect().await?;
    tls.write_all(b"GET /endless HTTP/1.1\r\nhost: api.test\r\n\r\n").await?;
    let mut piece = vec![0; PIECE];
    loop {
        match tls.read(&mut piece).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => meter.bytes(count),
        }
    }
}

async fn up(peer: &Peer, meter: &Meter) -> io::Result<()> {
    let mut tls = peer.connect().await?;
    let head = format!("POST /upload HTTP/1.1\r\nhost: api.test\r\ncontent-length: {ENDLESS}\r\n\r\n");
    tls.write_all(head.as_bytes()).await?;
    let piece = vec![b'x'; PIECE];
    loop {
        meter.bytes(tls.write(&piece).await?);
    }
}

/// `GET /`, and its answer to the last byte, which must be 200.
async fn request(tls: &mut Tls) -> io::Result<()> {
    tls.write_all(b"GET / HTTP/1.1\r\nhost: api.test\r\nuser-agent: bench\r\naccept: */*\r\n\r\n").await?;
    tls.flush().await?;
    let (mut answer, mut count) = ([0; 2048], 0);
    loop {
        match tls.read(&mut answer[count..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => count += more,
        }
        let Some(end) = find(&answer[..count], b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
        if !head.starts_with("http/1.1 200 ") {
            return Err(io::Error::other(format!("answered {:?}", head.lines().next())));
        }
        let length = content_length(&head).ok_or_else(|| io::Error::other("an answer without a length"))?;
        if (count - end - 4) as u64 >= length {
            return Ok(());
        }
    }
}
