//! Our own certificate: checked as strictly as a peer's before it is shown to anybody.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::SignatureAlgorithm;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use x509_parser::parse_x509_certificate;

use super::peer::{self, Reason};
use super::{provider, roots};
use crate::config::spiffe::{PeerId, SpiffeId};
use crate::formats::statement::LeafBinding;
use crate::secret::Secret;

/// Most certificates of our own chain.
const MAX_CHAIN: usize = 8;

/// A certificate and its key, as issued: not checked yet.
pub struct Issued {
    /// Leaf first, DER.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS#8, DER.
    pub key: Secret,
}

/// What our certificate must be.
#[derive(Clone, Debug)]
pub struct Expected<'e> {
    /// Whose it must be. `None`: nobody has said, any single identity will do.
    pub spiffe: Option<&'e SpiffeId>,
    /// DNS names that must all be in it.
    pub dns: &'e [String],
    /// PEM of the roots that it must lead to. `None` where we signed it ourselves.
    pub roots: Option<&'e str>,
    /// Whether its key may be RSA. Never, in the strict image.
    pub rsa: bool,
    /// Seconds since 1970.
    pub now: u64,
}

/// Why a certificate is not shown. Each message continues "the certificate …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// No certificate, or too many.
    #[error("chain has {0} certificates")]
    Chain(usize),
    /// It does not parse.
    #[error("cannot be read")]
    Unreadable,
    /// The key is not its own.
    #[error("does not belong to the private key")]
    OtherKey,
    /// Not a key that is spoken here.
    #[error("has a private key of a kind that is not spoken here (P-256, P-384 and Ed25519 are)")]
    KeyKind,
    /// `CA:TRUE`.
    #[error("is a CA's (CA:TRUE)")]
    Ca,
    /// Over.
    #[error("has expired ({0} s ago by this guest's clock)")]
    Expired(u64),
    /// From the future.
    #[error("is not valid yet (for another {0} s by this guest's clock)")]
    NotYetValid(u64),
    /// Another identity, several, or none.
    #[error("is not for `identity.spiffe`")]
    OtherIdentity,
    /// A DNS name is missing.
    #[error("is not for all of `identity.dns`")]
    OtherNames,
    /// Not by the roots.
    #[error("does not lead to the roots of `peers.roots` ({0})")]
    NotByRoots(&'static str),
}

/// A certificate that may be shown: checked by [`Leaf::check`], which alone makes one.
pub struct Leaf {
    certified: Arc<CertifiedKey>,
    id: Option<PeerId>,
    from: u64,
    until: u64,
}

impl Leaf {
    /// Checks what was issued: it parses, belongs to its key, is no CA's, is valid now, is ours, and
    /// leads to the mesh's roots.
    pub fn check(issued: Issued, expected: &Expected<'_>) -> Result<Self, LeafError> {
        let Issued { chain, key } = issued;
        let count = chain.len();
        let Some((leaf, others)) = chain.split_first().filter(|_| count <= MAX_CHAIN) else {
            return Err(LeafError::Chain(count));
        };
        let (from, until) = peer::validity(leaf).ok_or(LeafError::Unreadable)?;
        {
            let (_, parsed) = parse_x509_certificate(leaf).map_err(|_| LeafError::Unreadable)?;
            if parsed.is_ca() {
                return Err(LeafError::Ca);
            }
        }
        if expected.now >= until {
            return Err(LeafError::Expired(expected.now.saturating_sub(until)));
        }
        if expected.now < from {
            return Err(LeafError::NotYetValid(from.saturating_sub(expected.now)));
        }
        let id = peer::identity(leaf).ok();
        match (expected.spiffe, &id) {
            (None, _) => {}
            (Some(ours), Some(PeerId::Spiffe(id))) if ours == id => {}
            (Some(_), _) => return Err(LeafError::OtherIdentity),
        }
        let parsed = ParsedCertificate::try_from(leaf).map_err(|_| LeafError::Unreadable)?;
        for name in expected.dns {
            let name = name.clone().try_into().map_err(|_| LeafError::OtherNames)?;
            rustls::client::verify_server_name(&parsed, &name).map_err(|_| LeafError::OtherNames)?;
        }
        if let Some(pem) = expected.roots {
            leads_to(pem, leaf, others, expected.now)?;
        }
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.expose().to_vec()));
        let key = provider().key_provider.load_private_key(key).map_err(|_| LeafError::KeyKind)?;
        // rustls takes RSA too. A signature with it costs about thirty of P-256's, which is what a flood is for.
        if key.algorithm() == SignatureAlgorithm::RSA && !expected.rsa {
            return Err(LeafError::KeyKind);
        }
        let certified = CertifiedKey::new(chain, key);
        // `Unknown` where the key cannot tell its public half: that would let another one through.
        certified.keys_match().map_err(|_| LeafError::OtherKey)?;
        Ok(Self { certified: Arc::new(certified), id, from, until })
    }

    /// For rustls.
    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    /// DER, for tests.
    #[cfg(test)]
    pub(crate) fn der(&self) -> Vec<u8> {
        self.certified.cert.first().map(|leaf| leaf.to_vec()).unwrap_or_default()
    }

    /// Whose it is, if it names exactly one.
    pub fn id(&self) -> Option<&PeerId> {
        self.id.as_ref()
    }

    /// As statements name it. `None` where it has no names.
    pub fn binding(&self) -> Option<LeafBinding> {
        self.certified.cert.first().and_then(|leaf| LeafBinding::of(leaf))
    }

    /// From when it is valid, seconds since 1970.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// When it ends, seconds since 1970: from then on nobody may be shown it.
    pub fn until(&self) -> u64 {
        self.until
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("id", &self.id).field("until", &self.until).finish_non_exhaustive()
    }
}

/// As a client's and as a server's: peers will ask for both.
fn leads_to(pem: &str, leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>], now: u64) -> Result<(), LeafError> {
    let time = UnixTime::since_unix_epoch(Duration::from_secs(now));
    let store = Arc::new(roots(pem).map_err(|_| LeafError::NotByRoots("the roots cannot be read"))?);
    let parsed = ParsedCertificate::try_from(leaf).map_err(|_| LeafError::Unreadable)?;
    let algorithms = provider().signature_verification_algorithms.all;
    rustls::client::verify_server_cert_signed_by_trust_anchor(&parsed, &store, others, time, algorithms)
        .map_err(|error| why(&error))?;
    let clients = WebPkiClientVerifier::builder_with_provider(store, provider())
        .build()
        .map_err(|_| LeafError::NotByRoots("the roots cannot be used"))?;
    clients.verify_client_cert(leaf, others, time).map(drop).map_err(|error| why(&error))
}

fn why(error: &rustls::Error) -> LeafError {
    LeafError::NotByRoots(match super::trust::reason(error) {
        Reason::UnknownIssuer => "it is by another CA",
        Reason::WrongPurpose => "it is not for servers and clients: extendedKeyUsage needs both",
        Reason::Expired => "a certificate above it has expired",
        Reason::NotYetValid => "a certificate above it is not valid yet",
        _ => "it is malformed",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_rsa_key_is_refused_unless_it_was_asked_for() {
        let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        let params = rcgen::CertificateParams::new(vec!["api.example".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let issued = || Issued { chain: vec![certificate.der().clone()], key: Secret::new(key.serialize_der()) };
        let expected = |rsa| Expected { spiffe: None, dns: &[], roots: None, rsa, now: 1_800_000_000 };
        assert_eq!(Leaf::check(issued(), &expected(false)).err(), Some(LeafError::KeyKind));
        assert!(Leaf::check(issued(), &expected(true)).is_ok());
    }
}
