//! From the certificates that a token brings along to one that is trusted.
//!
//! Not a web chain: signers are certified by hand, with `openssl x509`, and such a certificate may
//! be of X.509 version 1, which TLS libraries refuse. So the path is built here, small and strict:
//! names, signatures, validity, `CA`, path length, key usage, and no critical extension unread.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
    ECDSA_P521_SHA512_ASN1, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    UnparsedPublicKey, VerificationAlgorithm,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

use super::error::{AnchorsError, ChainError};
use crate::formats::jwk::EcPublicJwk;

/// Most certificates of a chain. Trustee sends its file as it is: signer, intermediates, root.
pub const MAX_CHAIN: usize = 8;

/// Most trusted certificates.
const MAX_ANCHORS: usize = 16;

/// Most bytes of the trusted certificates' PEM, 256 KiB: as much as a whole configuration may have.
const MAX_PEM: usize = 256 * 1024;

/// Most signatures checked for one chain. Names choose what is tried, and names are hostile.
const MAX_CHECKS: usize = 32;

/// id-ecPublicKey (RFC 5480 §2.1.1).
const EC: &str = "1.2.840.10045.2.1";

/// secp256r1 (RFC 5480 §2.1.1.1).
const P256: &str = "1.2.840.10045.3.1.7";

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
        Self { is_p256: key_kind(certificate) == (EC.to_owned(), P256.to_owned()), bits }
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

/// One certificate and nothing behind it, with no critical extension that we do not act on.
fn read(der: &[u8]) -> Option<X509Certificate<'_>> {
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    let understood = certificate.extensions().iter().all(|extension| match extension.parsed_extension() {
        ParsedExtension::ParseError { .. } => false,
        // The names and purposes of a signer are of no concern: its key is.
        ParsedExtension::BasicConstraints(_)
        | ParsedExtension::KeyUsage(_)
        | ParsedExtension::ExtendedKeyUsage(_)
        | ParsedExtension::SubjectAlternativeName(_) => true,
        _ => !extension.critical,
    });
    // Each may stand once; the getters fail where one stands twice.
    let once = certificate.basic_constraints().is_ok() && certificate.key_usage().is_ok();
    (rest.is_empty() && understood && once).then_some(certificate)
}

fn valid(certificate: &X509Certificate<'_>, now: u64) -> bool {
    let validity = certificate.validity();
    i64::try_from(now).is_ok_and(|now| validity.not_before.timestamp() <= now && now <= validity.not_after.timestamp())
}

/// Whether it is an authority that may have so many authorities below it (RFC 5280 §4.2.1.9, §4.2.1.3).
fn may_issue(issuer: &X509Certificate<'_>, below: usize) -> bool {
    let Ok(Some(constraints)) = issuer.basic_constraints() else { return false };
    let fits = match constraints.value.path_len_constraint {
        Some(most) => usize::try_from(most).is_ok_and(|most| below <= most),
        None => true,
    };
    let signs = issuer.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
    constraints.value.ca && fits && signs
}

fn signature_holds(issuer: &X509Certificate<'_>, certificate: &X509Certificate<'_>) -> bool {
    let key = &issuer.tbs_certificate.subject_pki.subject_public_key.data;
    let outer = &certificate.signature_algorithm.algorithm;
    // RFC 5280 §4.1.1.2: the signed copy of the algorithm's name must be the same.
    if *outer != certificate.tbs_certificate.signature.algorithm {
        return false;
    }
    algorithm(&outer.to_id_string(), &key_kind(issuer)).is_some_and(|algorithm| {
        UnparsedPublicKey::new(algorithm, key)
            .verify(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data)
            .is_ok()
    })
}

/// A key's algorithm and, for a curve, which.
fn key_kind(certificate: &X509Certificate<'_>) -> (String, String) {
    let algorithm = &certificate.tbs_certificate.subject_pki.algorithm;
    let curve = algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok()).map(|oid| oid.to_id_string());
    (algorithm.algorithm.to_id_string(), curve.unwrap_or_default())
}

/// How a signature is checked, by its algorithm and its key's. RSA is PKCS#1 v1.5 with keys of 2048
/// to 8192 bits; SHA-1 is not among them.
fn algorithm(signature: &str, (key, curve): &(String, String)) -> Option<&'static dyn VerificationAlgorithm> {
    /// rsaEncryption (RFC 8017 §A.1).
    const RSA: &str = "1.2.840.113549.1.1.1";
    /// secp384r1.
    const P384: &str = "1.3.132.0.34";
    /// secp521r1.
    const P521: &str = "1.3.132.0.35";
    Some(match (signature, key.as_str(), curve.as_str()) {
        ("1.2.840.113549.1.1.11", RSA, _) => &RSA_PKCS1_2048_8192_SHA256,
        ("1.2.840.113549.1.1.12", RSA, _) => &RSA_PKCS1_2048_8192_SHA384,
        ("1.2.840.113549.1.1.13", RSA, _) => &RSA_PKCS1_2048_8192_SHA512,
        ("1.2.840.10045.4.3.2", EC, P256) => &ECDSA_P256_SHA256_ASN1,
        ("1.2.840.10045.4.3.3", EC, P256) => &ECDSA_P256_SHA384_ASN1,
        ("1.2.840.10045.4.3.2", EC, P384) => &ECDSA_P384_SHA256_ASN1,
        ("1.2.840.10045.4.3.3", EC, P384) => &ECDSA_P384_SHA384_ASN1,
        ("1.2.840.10045.4.3.4", EC, P521) => &ECDSA_P521_SHA512_ASN1,
        _ => return None,
    })
}
