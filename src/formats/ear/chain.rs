//! From the certificates that a token brings along to one that is trusted.
//!
//! Not a web chain: signers are certified by hand, with `openssl x509`, and such a certificate may
//! be of X.509 version 1, which TLS libraries refuse. So the path is built here, small and strict:
//! names, signatures, validity, `CA`, path length, key usage, and no critical extension unread.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use x509_parser::prelude::X509Certificate;

use super::error::{AnchorsError, ChainError};
use crate::formats::jwk::EcPublicJwk;
use crate::formats::x509::{EC, P256, key_kind, may_issue, read, signature_holds, valid};

/// Most certificates of a chain. Trustee sends its file as it is: signer, intermediates, root.
pub const MAX_CHAIN: usize = 8;

/// Most trusted certificates.
const MAX_ANCHORS: usize = 16;

/// Most bytes of the trusted certificates' PEM, 256 KiB: as much as a whole configuration may have.
const MAX_PEM: usize = 256 * 1024;

/// Most signatures checked for one chain. Names choose what is tried, and names are hostile.
const MAX_CHECKS: usize = 32;

/// Certificates that are trusted to certify signers of tokens, or are a signer's own. Never empty.
#[derive(Clone)]
pub struct TrustAnchors(Vec<CertificateDer<'static>>);

/// The key of a signer whom an anchor vouches for.
#[derive(Clone, PartialEq, Eq)]
pub struct EndorsedKey {
    is_p256: bool,
    bits: Vec<u8>,
}

impl TrustAnchors {
    /// Reads PEM: certificates and nothing else, at least one.
    pub fn from_pem(pem: &[u8]) -> Result<Self, AnchorsError> {
        if pem.len() > MAX_PEM {
            return Err(AnchorsError::TooLong);
        }
        let mut anchors = Vec::new();
        for block in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
            let Ok((SectionKind::Certificate, der)) = block else { return Err(AnchorsError::Pem) };
            if anchors.len() == MAX_ANCHORS {
                return Err(AnchorsError::TooMany);
            }
            read(&der).ok_or(AnchorsError::Certificate(anchors.len().saturating_add(1)))?;
            anchors.push(CertificateDer::from(der));
        }
        if anchors.is_empty() { Err(AnchorsError::None) } else { Ok(Self(anchors)) }
    }

    /// The key of the chain's first certificate, if a path leads from it to an anchor. `chain` is
    /// DER, in any order after the first; what leads nowhere is left aside. `now` is seconds since
    /// 1970.
    pub fn endorse(&self, chain: &[Vec<u8>], now: u64) -> Result<EndorsedKey, ChainError> {
        let (leaf_der, others) = chain.split_first().ok_or(ChainError::Missing)?;
        if chain.len() > MAX_CHAIN {
            return Err(ChainError::TooLong);
        }
        let leaf = read(leaf_der).ok_or(ChainError::Certificate(1))?;
        let mut between = Vec::new();
        for (index, der) in others.iter().enumerate() {
            between.push(read(der).ok_or(ChainError::Certificate(index.saturating_add(2)))?);
        }
        if !valid(&leaf, now) {
            return Err(ChainError::NotValidNow);
        }
        if leaf.key_usage().ok().flatten().is_some_and(|usage| !usage.value.digital_signature()) {
            return Err(ChainError::Usage);
        }
        // They were read once already; one that fails now is one trusted certificate fewer.
        let anchors: Vec<_> = self.0.iter().filter_map(|der| read(der)).filter(|anchor| valid(anchor, now)).collect();
        between.retain(|certificate| valid(certificate, now));
        let pinned = self.0.iter().any(|anchor| anchor.as_ref() == leaf_der.as_slice());
        let mut search = Search { anchors: &anchors, between: &between, checks: MAX_CHECKS };
        if pinned || search.leads_to_anchor(&leaf, 0) { Ok(EndorsedKey::of(&leaf)) } else { Err(ChainError::NoAnchor) }
    }
}

/// Counts them: which they are is the configuration's business.
impl std::fmt::Debug for TrustAnchors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TrustAnchors({})", self.0.len())
    }
}

impl EndorsedKey {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        let key = &certificate.tbs_certificate.subject_pki;
        let bits = key.subject_public_key.data.to_vec();
        Self { is_p256: key_kind(key) == (EC.to_owned(), P256.to_owned()), bits }
    }

    /// Whether it is this key.
    pub fn is(&self, key: &EcPublicJwk) -> bool {
        self.is_p256 && self.bits == key.point()
    }

    /// The key as the certificate has it: a point, or an RSA key's DER.
    pub fn bits(&self) -> &[u8] {
        &self.bits
    }
}

impl std::fmt::Debug for EndorsedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EndorsedKey").field("is_p256", &self.is_p256).finish_non_exhaustive()
    }
}

struct Search<'a> {
    anchors: &'a [X509Certificate<'a>],
    between: &'a [X509Certificate<'a>],
    /// Signatures that may still be checked.
    checks: usize,
}

impl Search<'_> {
    /// Whether a path leads on from `certificate`, below which `below` authorities stand.
    fn leads_to_anchor(&mut self, certificate: &X509Certificate<'_>, below: usize) -> bool {
        if below > MAX_CHAIN {
            return false;
        }
        let (anchors, between) = (self.anchors, self.between);
        anchors.iter().any(|anchor| self.issued(anchor, certificate, below))
            || between.iter().any(|issuer| {
                // A certificate that issued itself leads nowhere new.
                issuer.subject().as_raw() != issuer.issuer().as_raw()
                    && self.issued(issuer, certificate, below)
                    && self.leads_to_anchor(issuer, below.saturating_add(1))
            })
    }

    fn issued(&mut self, issuer: &X509Certificate<'_>, certificate: &X509Certificate<'_>, below: usize) -> bool {
        if issuer.subject().as_raw() != certificate.issuer().as_raw() || !may_issue(issuer, below) || self.checks == 0 {
            return false;
        }
        self.checks = self.checks.saturating_sub(1);
        signature_holds(issuer, certificate)
    }
}
