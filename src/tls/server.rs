//! What peers are served with: our leaf, and a door.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::client::Exit;
use super::exchange::OURS_ISSUE;
use super::leaf::Leaf;
use super::peer::{Reason, Refusal};
use super::prover::Prover;
use super::trust::Door;
use super::{Error, provider};

/// ALPN of HTTP/2 (RFC 9113 §3.1).
pub const H2: &[u8] = b"h2";
/// ALPN of HTTP/1.1 (RFC 7301 §6).
pub const HTTP1: &[u8] = b"http/1.1";

/// All of TLS that is spoken.
pub(super) static ONLY: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// One listener, at one moment: a certificate to show and a rule to come in by. Replaced as a whole.
#[derive(Debug)]
pub struct Entrance {
    /// For the handshake with whoever offers no protocol of ours.
    plain: Arc<ServerConfig>,
    /// For the handshake with whoever does. A list of protocols turns away all who offer others, so
    /// that ours must not stand in a list for everybody.
    ours: Arc<ServerConfig>,
    /// For connections that live on.
    pub door: Arc<Door>,
    /// What is shown.
    pub leaf: Arc<Leaf>,
}

impl Entrance {
    /// TLS 1.3, a client certificate demanded, nothing resumed: a resumed session skips the check of
    /// the client's certificate, and with it the allow-list. `ours` are the protocols that begin with the
    /// exchange of evidence, `plain` those that do not, each in the order of preference.
    pub fn new(leaf: Arc<Leaf>, door: Arc<Door>, ours: &[&[u8]], plain: &[&[u8]]) -> Result<Self, Error> {
        let config = |alpn: &[&[u8]]| {
            let verifier = Arc::<Door>::clone(&door);
            let mut config = ServerConfig::builder_with_provider(ciphers())
                .with_protocol_versions(ONLY)
                .map_err(|_| Error::Provider)?
                .with_client_cert_verifier(verifier)
                .with_cert_resolver(Arc::new(Always(leaf.certified())));
            close(&mut config, alpn);
            Ok(Arc::new(config))
        };
        Ok(Self { plain: config(plain)?, ours: config(ours)?, door, leaf })
    }

    /// For the handshake with this client.
    pub fn config(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let mut offered = hello.alpn().into_iter().flatten();
        let has_ours = offered.any(|name| self.ours.alpn_protocols.iter().any(|ours| ours == name));
        Arc::clone(if has_ours { &self.ours } else { &self.plain })
    }
}

/// An issuer's, for whoever has no certificate yet: TLS 1.3, nothing resumed, one protocol.
pub fn for_requests(leaf: &Leaf) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(ciphers())
        .with_protocol_versions(ONLY)
        .map_err(|_| Error::Provider)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Always(leaf.certified())));
    close(&mut config, &[OURS_ISSUE]);
    Ok(Arc::new(config))
}

/// Nothing is resumed: a resumed session skips the check of certificates. And no other protocols.
fn close(config: &mut ServerConfig, alpn: &[&[u8]]) {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.ignore_client_order = true;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
}

/// Ours, AES-128-GCM first: its handshake hashes with SHA-256, which processors have instructions for,
/// and whoever offers only the others is served by them. Which is taken is ours to say.
fn ciphers() -> Arc<CryptoProvider> {
    let cipher_suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(CryptoProvider { cipher_suites, ..CryptoProvider::clone(&provider()) })
}

/// Everything that peers are met with, of one epoch: one entrance for each `[[inbound]]`, in order, then
/// that of `[metrics]` where it has a list; one exit for each `[[outbound]]`, in order.
#[derive(Debug)]
pub struct Served {
    /// The entrances.
    pub entrances: Vec<Entrance>,
    /// The exits.
    pub exits: Vec<Exit>,
    /// What peers that demand evidence are shown. `None`: this guest has nothing to show.
    pub prover: Option<Arc<Prover>>,
    /// When the leaf that all of them show ends, seconds since 1970.
    pub until: u64,
    /// When the KBS released what they rest on, seconds since 1970.
    pub since: u64,
}

impl Served {
    /// Whether peers are shown the same certificate and the same evidence by both.
    pub fn shows_the_same(&self, other: &Self) -> bool {
        let same = match (&self.prover, &other.prover) {
            (Some(one), Some(another)) => Arc::ptr_eq(one, another),
            (None, None) => true,
            _ => false,
        };
        same && self.until == other.until
    }
}

/// Whatever name is asked for: which one a peer expects is the peer's to check.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Why a handshake failed, as far as rustls says.
pub fn refusal(error: &std::io::Error) -> Refusal {
    let bare = |reason| Refusal { reason, subject: String::new(), names: String::new() };
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        // What the connection itself says of a stranger who sends without end; rustls gives its own error.
        let too_much = error.kind() == std::io::ErrorKind::InvalidData;
        return bare(if too_much { Reason::TooMuch } else { Reason::Gone });
    };
    match error {
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => {
            other.0.downcast_ref::<Refusal>().cloned().unwrap_or_else(|| bare(Reason::BadCertificate))
        }
        rustls::Error::NoCertificatesPresented => bare(Reason::NoCertificate),
        rustls::Error::InvalidCertificate(_) => bare(Reason::BadCertificate),
        rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => bare(Reason::Incompatible),
        rustls::Error::InvalidMessage(_) => bare(Reason::NotTls),
        rustls::Error::AlertReceived(_) => bare(Reason::Gone),
        _ => bare(Reason::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aes_128_comes_first_and_no_suite_is_lost() {
        let (ours, all) = (ciphers(), provider());
        assert_eq!(ours.cipher_suites[0], cipher_suite::TLS13_AES_128_GCM_SHA256);
        let tls13 = all.cipher_suites.iter().filter(|suite| suite.tls13().is_some());
        assert!(tls13.clone().all(|suite| ours.cipher_suites.contains(suite)));
        assert_eq!(tls13.count(), ours.cipher_suites.len());
    }
}
