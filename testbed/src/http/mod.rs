//! A small HTTP/1.1 server over threads, made to misbehave: an answer is a list of acts on the
//! wire, and nothing stops an act from breaking the protocol.

mod h2;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::encode::http_date;
use crate::pki::Identity;

/// Longest head and longest body we read, bytes. Our own clients send far less.
const MAX_REQUEST: u64 = 4 * 1024 * 1024;

/// How often a waiting act looks whether the server was told to stop.
const STOP_POLL: Duration = Duration::from_millis(10);

/// One request, as it was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `GET`, …
    pub method: String,
    /// The target, with its query, as it stood on the wire.
    pub path: String,
    /// Headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
    /// When its head was complete.
    pub at: Instant,
    /// It came over HTTP/2.
    pub http2: bool,
}

/// One thing to do on the wire.
#[derive(Clone, Debug)]
pub enum Act {
    /// Send these bytes.
    Send(Vec<u8>),
    /// Send these bytes one by one, with a pause after each.
    Drip(Vec<u8>, Duration),
    /// Send these bytes over and over, until the other side has had enough.
    Endless(Vec<u8>),
    /// Say nothing for a while.
    Wait(Duration),
    /// Say nothing until the other side gives up.
    Silence,
    /// Close properly.
    Close,
    /// Close with a TCP reset.
    Reset,
}

/// What a server remembers.
#[derive(Debug, Default)]
pub struct Record {
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Record {
    /// All requests, in the order of their arrival.
    pub fn requests(&self) -> Vec<Seen> {
        lock(&self.seen).clone()
    }

    /// How many requests.
    pub fn count(&self) -> usize {
        lock(&self.seen).len()
    }

    /// How many requests for this path.
    pub fn count_of(&self, path: &str) -> usize {
        lock(&self.seen).iter().filter(|seen| seen.path == path).count()
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn begin(&self, seen: &Seen) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.peak.fetch_max(now, Ordering::SeqCst);
        lock(&self.seen).push(seen.clone());
    }

    fn end(&self) {
        self.now.fetch_sub(1, Ordering::SeqCst);
    }

    /// The most requests that were under way at once.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::SeqCst)
    }
}

/// Turns a request into acts. Runs on the connection's thread.
pub(crate) type Handler = Arc<dyn Fn(&Seen) -> Vec<Act> + Send + Sync>;

/// Wraps an accepted connection, in TLS for one. The raw stream stays usable for resets.
pub(crate) type Wrap = Arc<dyn Fn(TcpStream) -> io::Result<Wrapped> + Send + Sync>;

/// An accepted connection, and what is spoken on it.
pub(crate) enum Wrapped {
    /// HTTP/1.1 on these bytes.
    One(Box<dyn Stream>),
    /// HTTP/2 in TLS, whose handshake is still to come.
    Two(TcpStream, Arc<ServerConfig>),
}

/// TLS 1.3 with this certificate. With `h2`, HTTP/2 is spoken with whoever offers it.
pub(crate) fn in_tls(identity: &Identity, h2: bool) -> Wrap {
    let one = tls_config(identity, if h2 { &["http/1.1"] } else { &[] });
    let two = h2.then(|| tls_config(identity, &["h2"]));
    Arc::new(move |raw: TcpStream| match &two {
        Some(two) if h2::offered(&raw) => Ok(Wrapped::Two(raw, Arc::clone(two))),
        _ => {
            let connection = ServerConnection::new(Arc::clone(&one)).map_err(io::Error::other)?;
            Ok(Wrapped::One(Box::new(StreamOwned::new(connection, raw))))
        }
    })
}

/// TLS 1.3 with this certificate and these protocols, for a server. Asks its clients for none.
pub(crate) fn tls_config(identity: &Identity, alpn: &[&str]) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("aws-lc-rs has TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(identity.chain(), identity.key())
        .expect("our own certificate and its key");
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// Bytes both ways.
pub(crate) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A running server. Stops, and closes what is open, when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    record: Arc<Record>,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    listener: Mutex<Option<TcpListener>>,
    open: Mutex<Vec<(TcpStream, JoinHandle<()>)>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl Server {
    /// Serves on what `listen` makes, after a delay during which connections are refused. Without
    /// a delay the listener stands when this returns.
    pub(crate) fn start(
        listen: impl Fn() -> io::Result<TcpListener> + Send + 'static,
        delay: Duration,
        wrap: Wrap,
        handler: Handler,
    ) -> io::Result<Self> {
        let record = Arc::new(Record::default());
        let shared =
            Arc::new(Shared { stop: AtomicBool::new(false), listener: Mutex::new(None), open: Mutex::new(Vec::new()) });
        let (theirs, their_record) = (Arc::clone(&shared), Arc::clone(&record));
        let ready = if delay.is_zero() { Some(listen_on(&shared, listen()?)?) } else { None };
        let accepting = match ready {
            Some(listener) => thread::spawn(move || accept(&listener, &theirs, &their_record, &wrap, &handler)),
            None => thread::spawn(move || {
                if theirs.wait(delay)
                    && let Ok(listener) = listen().and_then(|listener| listen_on(&theirs, listener))
                {
                    accept(&listener, &theirs, &their_record, &wrap, &handler);
                }
            }),
        };
        Ok(Self { record, shared, accepting: Some(accepting) })
    }

    pub(crate) fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// Ends the connections that are open now.
    pub(crate) fn cut(&self) {
        for (stream, _) in lock(&self.shared.open).iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(listener) = lock(&self.shared.listener).take() {
            // On Linux this wakes accept(2) with an error; we cannot connect to it ourselves,
            // it is in another network namespace.
            let _ = rustix::net::shutdown(&listener, rustix::net::Shutdown::Both);
        }
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
        let open: Vec<_> = lock(&self.shared.open).drain(..).collect();
        for (stream, thread) in open {
            let _ = stream.shutdown(Shutdown::Both);
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Waits, unless told to stop: then false.
    fn wait(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            if self.stop.load(Ordering::SeqCst) {
                return false;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(STOP_POLL));
        }
    }
}

fn listen_on(shared: &Shared, listener: TcpListener) -> io::Result<TcpListener> {
    *lock(&shared.listener) = Some(listener.try_clone()?);
    Ok(listener)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, record: &Arc<Record>, wrap: &Wrap, handler: &Handler) {
    while !shared.stop.load(Ordering::SeqCst) {
        let Ok((raw, _)) = listener.accept() else { return };
        record.connections.fetch_add(1, Ordering::SeqCst);
        // Else the last bytes of an answer may wait 40 ms for the other side's delayed ACK.
        let _ = raw.set_nodelay(true);
        let Ok(twin) = raw.try_clone() else { continue };
        let (their_shared, record, wrap, handler) =
            (Arc::clone(shared), Arc::clone(record), Arc::clone(wrap), Arc::clone(handler));
        let thread = thread::spawn(move || {
            let Ok(control) = raw.try_clone() else { return };
            let _ = match wrap(raw) {
                Ok(Wrapped::One(stream)) => serve(stream, &control, &their_shared, &record, &handler),
                Ok(Wrapped::Two(raw, tls)) => h2::serve(raw, tls, record, handler),
                Err(error) => Err(error),
            };
            // The clones kept for stopping us must not hold the connection open.
            let _ = control.shutdown(Shutdown::Both);
        });
        let mut open = lock(&shared.open);
        // Each holds a descriptor: hundreds of clients that come back would use them up.
        open.retain(|(_, thread)| !thread.is_finished());
        open.push((twin, thread));
    }
}

fn serve(
    stream: Box<dyn Stream>,
    control: &TcpStream,
    shared: &Shared,
    record: &Record,
    handler: &Handler,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(seen) = read_request(&mut stream)? {
        let last = seen.headers.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        record.begin(&seen);
        let going_on = handler(&seen).into_iter().try_fold(true, |going_on, act| {
            if going_on { perform(act, stream.get_mut(), control, shared) } else { Ok(false) }
        });
        record.end();
        if last || !going_on? {
            break;
        }
    }
    Ok(())
}

/// Does one act; false when the connection is over.
fn perform(act: Act, stream: &mut Box<dyn Stream>, control: &TcpStream, shared: &Shared) -> io::Result<bool> {
    match act {
        Act::Send(bytes) => stream.write_all(&bytes)?,
        Act::Drip(bytes, gap) => {
            for byte in bytes {
                stream.write_all(&[byte])?;
                stream.flush()?;
                if !shared.wait(gap) {
                    return Ok(false);
                }
            }
        }
        Act::Endless(bytes) => loop {
            stream.write_all(&bytes)?;
        },
        Act::Wait(time) => return Ok(shared.wait(time)),
        Act::Silence => {
            // Ends when the other side closes, or when we are stopped and our socket is shut.
            let _ = io::copy(stream, &mut io::sink());
            return Ok(false);
        }
        Act::Close => {
            stream.flush()?;
            return Ok(false);
        }
        Act::Reset => {
            stream.flush()?;
            reset(control);
            return Ok(false);
        }
    }
    stream.flush()?;
    Ok(true)
}

/// Ends the connection with a TCP reset, whichever clones of it are open: connecting a socket to
/// "nowhere" (`AF_UNSPEC`) disconnects it at once, and with a linger time of zero by RST (tcp(7)).
fn reset(control: &TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(control, Some(Duration::ZERO));
    let _ = rustix::net::connect_unspec(control);
}

fn read_request(stream: &mut BufReader<Box<dyn Stream>>) -> io::Result<Option<Seen>> {
    let mut line = String::new();
    if stream.by_ref().take(MAX_REQUEST).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let method = words.next().unwrap_or_default().to_owned();
    let path = words.next().unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.by_ref().take(MAX_REQUEST).read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length: u64 = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    stream.by_ref().take(length.min(MAX_REQUEST)).read_to_end(&mut body)?;
    Ok(Some(Seen { method, path, headers, body, at: Instant::now(), http2: false }))
}

/// A well-formed answer, with the headers that both real servers send and in their order.
pub(crate) fn response(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\ndate: {}\r\n\r\n", body.len(), http_date(0)));
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
