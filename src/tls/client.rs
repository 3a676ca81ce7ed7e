//! What peers are called with: our leaf, and a door that one identity alone may stand behind.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::SignatureScheme;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::sign::CertifiedKey;

use super::exchange::{OURS_HTTP1, OURS_ISSUE};
use super::leaf::Leaf;
use super::server::{HTTP1, ONLY};
use super::trust::Door;
use super::{Error, provider};

/// One `[[outbound]]`, at one moment. Replaced as a whole.
#[derive(Debug)]
pub struct Exit {
    /// For the handshake.
    pub config: Arc<ClientConfig>,
    /// Who must answer, and how it must prove that. Also for connections that live on.
    pub door: Arc<Door>,
}

impl Exit {
    /// TLS 1.3, our certificate shown, nothing resumed: a resumed session skips the check of the server's
    /// certificate. `alpn` is what is offered, in the order of preference.
    pub fn new(leaf: &Leaf, door: Arc<Door>, alpn: &[&[u8]]) -> Result<Self, Error> {
        Self::of(door, alpn, Some(leaf.certified()))
    }

    /// Towards an issuer: whoever wants a certificate has none to show.
    pub fn to_issuer(door: Arc<Door>) -> Result<Self, Error> {
        Self::of(door, &[OURS_ISSUE], None)
    }

    fn of(door: Arc<Door>, alpn: &[&[u8]], leaf: Option<Arc<CertifiedKey>>) -> Result<Self, Error> {
        let verifier = Arc::<Door>::clone(&door);
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(ONLY)
            .map_err(|_| Error::Provider)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match leaf {
            Some(leaf) => config.with_client_cert_resolver(Arc::new(Always(leaf))),
            None => config.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Self { config: Arc::new(config), door })
    }

    /// The same, for a handshake after which nothing but HTTP/1.1 may be spoken.
    #[must_use]
    pub fn http1(&self) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols.retain(|name| [OURS_HTTP1, HTTP1].contains(&name.as_slice()));
        Self { config: Arc::new(config), door: Arc::clone(&self.door) }
    }
}

/// Whatever roots a server names: it knows ours, or refuses us.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
