//! X.509 certificates where no TLS library judges them: names, signatures, validity, and what a
//! certificate allows its holder to certify.
//!
//! Signers of tokens, the keys of AMD's chips and of Intel's quoting enclaves are certified outside
//! the web's rules (version 1, RSA-PSS, extensions of the vendor's own). Reading is strict: what is
//! critical and not understood is refused.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
    ECDSA_P521_SHA512_ASN1, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA384, UnparsedPublicKey, VerificationAlgorithm,
};
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use x509_parser::prelude::{AlgorithmIdentifier, FromDer as _, ParsedExtension, SubjectPublicKeyInfo, X509Certificate};

/// id-ecPublicKey (RFC 5480 §2.1.1).
pub(crate) const EC: &str = "1.2.840.10045.2.1";

/// secp256r1 (RFC 5480 §2.1.1.1).
pub(crate) const P256: &str = "1.2.840.10045.3.1.7";

/// secp384r1 (RFC 5480 §2.1.1.1).
pub(crate) const P384: &str = "1.3.132.0.34";

/// The DER of every certificate in a PEM text. `None` where it is no PEM, holds something else than
/// certificates, none at all, or more than `most`.
pub fn pem_certificates(pem: &[u8], most: usize) -> Option<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    for block in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        let Ok((SectionKind::Certificate, der)) = block else { return None };
        if found.len() == most {
            return None;
        }
        found.push(der);
    }
    (!found.is_empty()).then_some(found)
}

/// One certificate and nothing behind it, with no critical extension that we do not act on.
pub(crate) fn read(der: &[u8]) -> Option<X509Certificate<'_>> {
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

/// Whether it is valid at `now`, seconds since 1970.
pub(crate) fn valid(certificate: &X509Certificate<'_>, now: u64) -> bool {
    let validity = certificate.validity();
    i64::try_from(now).is_ok_and(|now| validity.not_before.timestamp() <= now && now <= validity.not_after.timestamp())
}

/// Whether it is an authority that may have so many authorities below it (RFC 5280 §4.2.1.9, §4.2.1.3).
pub(crate) fn may_issue(issuer: &X509Certificate<'_>, below: usize) -> bool {
    let Ok(Some(constraints)) = issuer.basic_constraints() else { return false };
    let fits = match constraints.value.path_len_constraint {
        Some(most) => usize::try_from(most).is_ok_and(|most| below <= most),
        None => true,
    };
    let signs = issuer.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
    constraints.value.ca && fits && signs
}

/// Whether `issuer`'s key signed `certificate`. Names and validity are the caller's to look at.
pub(crate) fn signature_holds(issuer: &X509Certificate<'_>, certificate: &X509Certificate<'_>) -> bool {
    let outer = &certificate.signature_algorithm;
    // RFC 5280 §4.1.1.2: the signed copy of the algorithm must be the same.
    if outer.algorithm != certificate.tbs_certificate.signature.algorithm {
        return false;
    }
    signed_by(issuer, outer, certificate.tbs_certificate.as_ref(), &certificate.signature_value.data)
}

/// Whether `issuer`'s key signed these bytes, by the algorithm that stands beside the signature.
pub(crate) fn signed_by(
    issuer: &X509Certificate<'_>,
    by: &AlgorithmIdentifier<'_>,
    bytes: &[u8],
    signature: &[u8],
) -> bool {
    let key = &issuer.tbs_certificate.subject_pki;
    algorithm(&by.algorithm.to_id_string(), &key_kind(key)).is_some_and(|algorithm| {
        UnparsedPublicKey::new(algorithm, &key.subject_public_key.data).verify(bytes, signature).is_ok()
    })
}

/// A key's algorithm and, for a curve, which.
pub(crate) fn key_kind(key: &SubjectPublicKeyInfo<'_>) -> (String, String) {
    let curve = key.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok()).map(|oid| oid.to_id_string());
    (key.algorithm.algorithm.to_id_string(), curve.unwrap_or_default())
}

/// How a signature is checked, by its algorithm and its key's. RSA has keys of 2048 to 8192 bits;
/// SHA-1 is not among the hashes. PSS is AMD's form only: SHA-384 throughout and a salt of 48 bytes;
/// with other parameters the signature does not hold.
fn algorithm(signature: &str, (key, curve): &(String, String)) -> Option<&'static dyn VerificationAlgorithm> {
    /// rsaEncryption (RFC 8017 §A.1).
    const RSA: &str = "1.2.840.113549.1.1.1";
    /// id-RSASSA-PSS (RFC 8017 §A.2.3); also a key's algorithm (RFC 4055 §1.2).
    const PSS: &str = "1.2.840.113549.1.1.10";
    /// secp521r1.
    const P521: &str = "1.3.132.0.35";
    Some(match (signature, key.as_str(), curve.as_str()) {
        (PSS, RSA | PSS, _) => &RSA_PSS_2048_8192_SHA384,
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
