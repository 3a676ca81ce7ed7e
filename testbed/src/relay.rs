//! An attacker between two peers, who has the TLS keys of both.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::oneshot;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::mesh::Anyone;
use crate::pki::Identity;
use crate::world::{Connector, World};

/// How long a connection through the relay may last. Tests take seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// A relay that runs until it is dropped: it ends the TLS of whoever dials it with the one's leaked key,
/// dials the live peer with the other's, and carries every byte in the clear between them.
pub struct Relay {
    read: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<()>>,
}

/// Both ends of it.
#[derive(Clone)]
struct Between {
    near: TlsAcceptor,
    far: TlsConnector,
    dial: Connector,
    to: String,
    read: Arc<AtomicU64>,
}

impl Relay {
    /// Listens on `address` inside the world as `near`, and dials `to` as `far`. `alpn` is what it
    /// speaks on both sides, in the order of preference.
    ///
    /// # Panics
    /// When the address cannot be had, or an identity cannot be used.
    pub fn start(world: &World, address: &str, near: &Identity, to: &str, far: &Identity, alpn: &[&str]) -> Self {
        let listener =
            world.place().tcp(address.parse().expect("a literal address")).expect("the relay's address is free");
        let read = Arc::new(AtomicU64::new(0));
        let between = Between {
            near: TlsAcceptor::from(Arc::new(server(near, alpn))),
            far: TlsConnector::from(Arc::new(client(far, alpn))),
            dial: world.connector(),
            to: to.to_owned(),
            read: Arc::clone(&read),
        };
        let (stop, stopped) = oneshot::channel();
        let running = thread::spawn(move || run(listener, &between, stopped).expect("a runtime"));
        Self { read, stop: Some(stop), running: Some(running) }
    }

    /// Bytes that it has read in the clear, of both directions.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(running) = self.running.take() {
            let _ = running.join();
        }
    }
}

fn run(listener: TcpListener, between: &Between, stopped: oneshot::Receiver<()>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let accepting = async {
            while let Ok((stream, _)) = listener.accept().await {
                let between = between.clone();
                // What fails between two peers is for them to tell.
                tokio::spawn(async move { tokio::time::timeout(PATIENCE, carry(between, stream)).await });
            }
        };
        tokio::select! { () = accepting => {}, _ = stopped => {} }
        Ok(())
    })
}

async fn carry(between: Between, stream: tokio::net::TcpStream) -> io::Result<()> {
    let near = between.near.accept(stream).await?;
    let far = between.dial.connect(&between.to)?;
    far.set_nonblocking(true)?;
    let far = tokio::net::TcpStream::from_std(far)?;
    let name = ServerName::try_from("sidecar.test").map_err(io::Error::other)?;
    let far = between.far.connect(name, far).await?;
    let ((near_in, near_out), (far_in, far_out)) = (tokio::io::split(near), tokio::io::split(far));
    // Both are closed when either is.
    tokio::select! {
        ended = copy(near_in, far_out, &between.read) => ended,
        ended = copy(far_in, near_out, &between.read) => ended,
    }
}

async fn copy<A, B>(mut from: ReadHalf<A>, mut to: WriteHalf<B>, read: &AtomicU64) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        read.fetch_add(u64::try_from(length).unwrap_or(u64::MAX), Ordering::SeqCst);
        to.write_all(buffer.get(..length).unwrap_or_default()).await?;
        to.flush().await?;
    }
}

fn names(alpn: &[&str]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.as_bytes().to_vec()).collect()
}

fn server(identity: &Identity, alpn: &[&str]) -> ServerConfig {
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(Arc::new(AnyClient(provider)));
    let mut config = builder.with_single_cert(identity.chain(), identity.key()).expect("an identity of the test's");
    config.alpn_protocols = names(alpn);
    config
}

fn client(identity: &Identity, alpn: &[&str]) -> ClientConfig {
    let provider = Arc::new(default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
    let mut config =
        builder.with_client_auth_cert(identity.chain(), identity.key()).expect("an identity of the test's");
    config.alpn_protocols = names(alpn);
    config
}

/// Takes any client, as long as it shows something.
#[derive(Debug)]
struct AnyClient(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, leaf, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
