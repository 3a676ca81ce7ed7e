//! TLS towards servers that configured roots vouch for, judged by a clock that the host cannot turn
//! back.
//!
//! Such a server may say what time it is (`Date`), and that raises the clock's floor. So its own
//! certificate is judged once more by the time that it gave: an expired one is refused although the
//! host turned the guest's clock back to a day when it was good.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::problem::{TlsProblem, explain};
use super::{Error, provider};
use crate::clock::Clock;

/// Most servers whose certificates are kept: configuration names 8 KBSes at most.
const MAX_SERVERS: usize = 16;

/// A client's TLS and what it has seen. Clones share both.
#[derive(Clone, Debug)]
pub struct Anchored {
    config: Arc<ClientConfig>,
    verifier: Arc<Verifier>,
}

#[derive(Debug)]
struct Verifier {
    /// `None`: nobody is trusted.
    inner: Option<Arc<WebPkiServerVerifier>>,
    clock: Clock,
    seen: Mutex<BTreeMap<String, Vec<CertificateDer<'static>>>>,
}

impl Anchored {
    pub(super) fn new(roots: RootCertStore, clock: &Clock) -> Result<Self, Error> {
        let provider = provider();
        let inner = if roots.is_empty() {
            None
        } else {
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            Some(builder.build().map_err(|_| Error::Provider)?)
        };
        let verifier = Arc::new(Verifier { inner, clock: clock.clone(), seen: Mutex::default() });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|_| Error::Provider)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::<Verifier>::clone(&verifier))
            .with_no_client_auth();
        // A resumed session skips the check of the server's certificate.
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        Ok(Self { config: Arc::new(config), verifier })
    }

    /// For whoever makes connections.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// The server of `host` said, over TLS that it proved itself in, that it is `unix` (seconds since
    /// 1970). Raises the clock's floor, and judges the server's certificate by it.
    pub fn server_says(&self, host: &str, unix: u64) -> Result<(), TlsProblem> {
        let Some(name) = ServerName::try_from(host.to_owned()).ok() else { return Ok(()) };
        let seen = self.verifier.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&key(&name)).cloned();
        // Who was never seen has proven nothing, so its word counts nothing.
        let Some(chain) = seen else { return Ok(()) };
        let Some((leaf, others)) = chain.split_first() else { return Ok(()) };
        self.verifier.clock.raise(unix);
        self.verifier.judge(leaf, others, &name, &[]).map(drop).map_err(|error| explain(&error))
    }
}

impl Verifier {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else {
            return Err(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer));
        };
        let now = UnixTime::since_unix_epoch(Duration::from_secs(self.clock.now()));
        inner.verify_server_cert(leaf, others, name, ocsp, now)
    }
}

/// The time that rustls hands in is the machine's, and is not looked at.
impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.judge(leaf, others, name, ocsp)?;
        let chain = std::iter::once(leaf).chain(others).map(|der| der.clone().into_owned()).collect();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() < MAX_SERVERS || seen.contains_key(&key(name)) {
            seen.insert(key(name), chain);
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // TLS 1.3 is the only version that is offered.
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match &self.inner {
            Some(inner) => inner.verify_tls13_signature(message, leaf, signature),
            None => Err(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn key(name: &ServerName<'_>) -> String {
    name.to_str().to_ascii_lowercase()
}
