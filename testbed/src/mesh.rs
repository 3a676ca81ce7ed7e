//! The other side of a sidecar: the app behind it, and the peers in front.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, ServerConfig, ServerConnection,
    SignatureScheme, StreamOwned,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::http::{self, Act, Record, Seen, Server, Wrap, Wrapped, response};
use crate::pki::{Ca, Identity};
use crate::world::World;

/// How long a peer waits for a byte before the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// An app that runs. Derefs to the [`Record`] of what it was asked.
pub struct RunningApp {
    server: Server,
}

impl RunningApp {
    /// Ends the connections that are open now.
    pub fn cut(&self) {
        self.server.cut();
    }
}

impl Deref for RunningApp {
    type Target = Record;

    fn deref(&self) -> &Record {
        self.server.record()
    }
}

/// What an app does with a request.
pub type Respond = fn(&Seen) -> Vec<Act>;

/// Answers 200 with the request's headers, a line each, and its body.
pub fn echo(seen: &Seen) -> Vec<Act> {
    let mut body = format!("{} {}\n", seen.method, seen.path);
    for (name, value) in &seen.headers {
        body.push_str(&format!("{name}: {value}\n"));
    }
    let mut body = body.into_bytes();
    body.extend_from_slice(b"\n");
    body.extend_from_slice(&seen.body);
    vec![Act::Send(response("200 OK", &[("content-type", "text/plain")], &body))]
}

/// Starts an app inside the world.
///
/// # Panics
/// When the address cannot be had.
pub fn app(world: &World, address: &str, respond: Respond) -> RunningApp {
    serve(world, address, Arc::new(|raw| Ok(Wrapped::One(Box::new(raw)))), respond)
}

/// Starts a peer inside the world that is no sidecar: TLS with this certificate, which asks for none. With
/// `h2` it speaks HTTP/2 with whoever offers it.
///
/// # Panics
/// When the address cannot be had.
pub fn far(world: &World, address: &str, identity: &Identity, h2: bool, respond: Respond) -> RunningApp {
    serve(world, address, http::in_tls(identity, h2), respond)
}

/// The server's end of a connection that the test accepted, for what no server should say.
pub fn receive(
    raw: TcpStream,
    identity: &Identity,
    alpn: &[&str],
) -> io::Result<StreamOwned<ServerConnection, TcpStream>> {
    raw.set_read_timeout(Some(PATIENCE))?;
    raw.set_nodelay(true)?;
    let connection = ServerConnection::new(http::tls_config(identity, alpn)).map_err(io::Error::other)?;
    Ok(StreamOwned::new(connection, raw))
}

fn serve(world: &World, address: &str, wrap: Wrap, respond: Respond) -> RunningApp {
    let place = world.place();
    let address = address.parse().expect("a literal address");
    let server = Server::start(move || place.tcp(address), Duration::ZERO, wrap, Arc::new(respond));
    RunningApp { server: server.expect("the app's address is free in this world") }
}

/// A peer's connection, after its own half of the handshake. In TLS 1.3 the other half's verdict comes
/// with the first read.
pub struct Peer {
    tls: StreamOwned<ClientConnection, TcpStream>,
}

impl Peer {
    /// Connects to `address` inside the world, showing `identity`, offering `alpn`.
    pub fn connect(world: &World, address: &str, identity: Option<&Identity>, alpn: &[&str]) -> io::Result<Self> {
        Self::over(world.connect(address)?, identity, alpn)
    }

    /// The same over a connection that the test made.
    pub fn over(socket: TcpStream, identity: Option<&Identity>, alpn: &[&str]) -> io::Result<Self> {
        Self::shake(socket, config(identity, alpn)?)
    }

    /// The same as one of many that [`many`] made ready.
    pub fn shake(socket: TcpStream, config: Arc<ClientConfig>) -> io::Result<Self> {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from("sidecar.test").map_err(io::Error::other)?;
        let mut client = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut socket = socket;
        while client.is_handshaking() {
            client.complete_io(&mut socket)?;
        }
        Ok(Self { tls: StreamOwned::new(client, socket) })
    }

    /// The certificate that was shown.
    pub fn shown(&self) -> Option<Vec<u8>> {
        self.tls.conn.peer_certificates().and_then(<[_]>::first).map(|der| der.to_vec())
    }

    /// The key exchange, as rustls names it.
    pub fn key_exchange(&self) -> Option<String> {
        self.tls.conn.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name()))
    }

    /// The cipher suite, as rustls names it. This client names AES-256 first.
    pub fn cipher(&self) -> Option<String> {
        self.tls.conn.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()))
    }

    /// The protocol that was chosen.
    pub fn alpn(&self) -> Option<String> {
        self.tls.conn.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned())
    }

    /// What this session exports for `label` and `context` (RFC 8446 §7.5).
    pub fn exporter(&self, label: &[u8], context: &[u8]) -> io::Result<[u8; 32]> {
        self.tls.conn.export_keying_material([0; 32], label, Some(context)).map_err(io::Error::other)
    }

    /// How many session tickets have come.
    pub fn tickets(&self) -> u32 {
        self.tls.conn.tls13_tickets_received()
    }

    /// The TCP connection beneath.
    pub fn socket(&self) -> &TcpStream {
        &self.tls.sock
    }

    /// Says that no more will be sent, and goes on listening.
    pub fn end(&mut self) -> io::Result<()> {
        self.tls.conn.send_close_notify();
        self.tls.flush()?;
        self.tls.sock.shutdown(std::net::Shutdown::Write)
    }

    /// Sends a request and reads its answer.
    pub fn ask(&mut self, request: &str) -> io::Result<Reply> {
        self.write_all(request.as_bytes())?;
        self.reply()
    }

    /// `GET` of a path on a connection that stays open.
    pub fn get(&mut self, path: &str) -> io::Result<Reply> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: api\r\n\r\n"))
    }

    /// Reads one answer.
    pub fn reply(&mut self) -> io::Result<Reply> {
        read_reply(self)
    }
}

impl Read for Peer {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.tls.read(buf)
    }
}

impl Write for Peer {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.tls.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tls.flush()
    }
}

/// TLS of a server that shows `identity` and wants a certificate by `roots`: a sidecar's, without the exchange
/// and without a list.
///
/// # Panics
/// When either cannot be used.
pub fn bare_server(identity: &Identity, roots: &Ca) -> Arc<ServerConfig> {
    let mut store = RootCertStore::empty();
    store.add(CertificateDer::from_pem_slice(roots.pem().as_bytes()).expect("a certificate")).expect("a root");
    let provider = Arc::new(aws_lc_rs::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider));
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(clients.build().expect("a verifier"))
        .with_single_cert(identity.chain(), identity.key());
    Arc::new(config.expect("its own key"))
}

/// An answer to an HTTP/1.1 request.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status.
    pub status: u16,
    /// The head, as it came.
    pub head: String,
    /// The body.
    pub body: String,
}

/// Reads one HTTP/1.1 answer: to its length, to its last chunk, or to the end.
pub fn read_reply(from: &mut impl Read) -> io::Result<Reply> {
    let mut head = Vec::new();
    let mut byte = [0_u8; 1];
    while !head.ends_with(b"\r\n\r\n") {
        if from.read(&mut byte)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("after {:?}", text(&head))));
        }
        head.extend_from_slice(&byte);
    }
    let head = text(&head);
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let mut body = Vec::new();
    if status == 101 || status == 204 {
    } else if let Some(length) = header("content-length").and_then(|text| text.parse::<usize>().ok()) {
        body = vec![0; length];
        from.read_exact(&mut body)?;
    } else if header("transfer-encoding").is_some() {
        body = chunks(from)?;
    } else {
        from.read_to_end(&mut body)?;
    }
    Ok(Reply { status, head, body: text(&body) })
}

fn chunks(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = usize::from_str_radix(line(from)?.trim(), 16).map_err(io::Error::other)?;
        if size == 0 {
            while !line(from)?.is_empty() {}
            return Ok(body);
        }
        let begin = body.len();
        body.resize(begin + size, 0);
        from.read_exact(body.get_mut(begin..).unwrap_or_default())?;
        line(from)?;
    }
}

fn line(from: &mut impl Read) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0_u8; 1];
    while !line.ends_with(b"\r\n") {
        from.read_exact(&mut byte)?;
        line.extend_from_slice(&byte);
    }
    line.truncate(line.len() - 2);
    Ok(text(&line))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Closing this connection resets it.
pub fn reset_on_close(socket: &TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

/// From now on a process may have so many open files. What it has stays open.
///
/// # Panics
/// When the process is not ours.
pub fn limit_descriptors(pid: i32, most: u64) {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let pid = Pid::from_raw(pid).expect("a process");
    let before = prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(most), maximum: None });
    if before.is_err() {
        // Without privileges the ceiling cannot be lifted, only kept.
        let maximum = std::fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_nonzero())).ok();
        let maximum = maximum.as_deref().and_then(|text| text.lines().find(|line| line.starts_with("Max open files")));
        let maximum = maximum.and_then(|line| line.split_whitespace().nth(4)).and_then(|word| word.parse().ok());
        prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(most), maximum }).expect("our own child");
    }
}

/// Plain HTTP inside the world: what kubelet and Prometheus do. Each question has its own connection.
pub fn plain(world: &World, address: &str, request: &str) -> io::Result<Reply> {
    let mut socket = world.connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(request.as_bytes())?;
    read_reply(&mut socket)
}

/// `GET` as [`plain`]; the status alone, 0 where nobody answers.
pub fn status(world: &World, address: &str, path: &str) -> u16 {
    let request = format!("GET {path} HTTP/1.1\r\nhost: pod\r\n\r\n");
    plain(world, address, &request).map_or(0, |reply| reply.status)
}

/// For very many connections: made once, and with the cheaper key exchange.
///
/// # Panics
/// When the identity cannot be used.
pub fn many(identity: &Identity, alpn: &[&str]) -> Arc<ClientConfig> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let provider = Arc::new(provider);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
    let mut cheap = builder.with_client_auth_cert(identity.chain(), identity.key()).expect("an identity of the test's");
    cheap.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(cheap)
}

/// How many files this process, and what it starts, may have open: as many as it can be given.
pub fn raise_descriptors() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
    getrlimit(Resource::Nofile).current.and_then(|count| usize::try_from(count).ok()).unwrap_or(1_000_000)
}

fn config(identity: Option<&Identity>, alpn: &[&str]) -> io::Result<Arc<ClientConfig>> {
    let mut provider = aws_lc_rs::default_provider();
    // As browsers and Go do by now: the hybrid's share is sent at once.
    provider.kx_groups.insert(0, aws_lc_rs::kx_group::X25519MLKEM768);
    let provider = Arc::new(provider);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
    let mut config = match identity {
        Some(identity) => builder.with_client_auth_cert(identity.chain(), identity.key()).map_err(io::Error::other)?,
        None => builder.with_no_client_auth(),
    };
    // A peer that would resume if it could: tickets are counted.
    config.resumption = Resumption::in_memory_sessions(8);
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// Takes any server: what it shows is looked at by the test.
#[derive(Debug)]
pub(crate) struct Anyone(pub(crate) Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 was spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
