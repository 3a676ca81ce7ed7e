//! A certificate request (PKCS#10, RFC 2986), of which one thing is believed: its key.
//!
//! Whatever else a request asks for (CA:TRUE, other names, other purposes) is not even looked at: whoever
//! signs says what stands in a certificate.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::frames::MAX_REQUEST;
use super::x509::{EC, P256, key_kind};

/// Bytes of an uncompressed point on P-256.
const POINT: usize = 65;

/// ecdsa-with-SHA256 (RFC 5758 §3.2).
const ES256: &str = "1.2.840.10045.4.3.2";

/// A key whose holder has asked for a certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestedKey {
    /// `SubjectPublicKeyInfo`, DER, as it stands in the request.
    spki: Vec<u8>,
    point: [u8; POINT],
}

/// Why a request gives no key. Each message continues "the request …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It does not parse, or something follows it.
    #[error("is no PKCS#10 request of at most 4 KiB")]
    Form,
    /// Another kind of key.
    #[error("is for a key that is not P-256")]
    Key,
    /// Not signed by its own key.
    #[error("is not signed by its own key")]
    Signature,
}

impl RequestedKey {
    /// Of a request that its own key has signed, DER.
    pub fn of(request: &[u8]) -> Result<Self, Error> {
        if request.len() > MAX_REQUEST {
            return Err(Error::Form);
        }
        let (rest, parsed) = X509CertificationRequest::from_der(request).map_err(|_| Error::Form)?;
        if !rest.is_empty() {
            return Err(Error::Form);
        }
        let info = &parsed.certification_request_info;
        let (kind, curve) = key_kind(&info.subject_pki);
        let is_p256 = kind == EC && curve == P256;
        let point = info.subject_pki.subject_public_key.data.as_ref();
        // A point that is not on the curve verifies nothing: below.
        let point: [u8; POINT] = point.try_into().ok().filter(|_| is_p256).ok_or(Error::Key)?;
        if parsed.signature_algorithm.algorithm.to_id_string() != ES256 {
            return Err(Error::Signature);
        }
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point);
        key.verify(info.raw, parsed.signature_value.data.as_ref()).map_err(|_| Error::Signature)?;
        Ok(Self { spki: info.subject_pki.raw.to_vec(), point })
    }

    /// `SubjectPublicKeyInfo`, DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The point, uncompressed.
    pub fn point(&self) -> &[u8] {
        &self.point
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};

    fn request(key: &KeyPair) -> Vec<u8> {
        CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn a_request_gives_its_key() {
        let key = KeyPair::generate().unwrap();
        let found = RequestedKey::of(&request(&key)).ok().unwrap();
        assert_eq!(found.spki(), key.subject_public_key_info());
        assert_eq!(found.point(), key.public_key_raw());
    }

    #[test]
    fn a_request_that_its_key_has_not_signed_is_refused() {
        let key = KeyPair::generate().unwrap();
        let good = request(&key);
        let mut other = good.clone();
        let last = other.len() - 1;
        other[last] ^= 1;
        assert_eq!(RequestedKey::of(&other).err(), Some(Error::Signature));
        // Somebody else's key, put in the place of the signer's.
        let place = good.windows(65).position(|bytes| bytes == key.public_key_raw()).unwrap();
        let mut stolen = good.clone();
        stolen[place..place + 65].copy_from_slice(KeyPair::generate().unwrap().public_key_raw());
        assert_eq!(RequestedKey::of(&stolen).err(), Some(Error::Signature));
        let mut nowhere = good;
        nowhere[place + 64] ^= 1;
        assert_eq!(RequestedKey::of(&nowhere).err(), Some(Error::Signature), "not on the curve");
    }

    #[test]
    fn a_request_for_another_kind_of_key_is_refused() {
        for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519, &rcgen::PKCS_RSA_SHA256] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            assert_eq!(RequestedKey::of(&request(&key)).err(), Some(Error::Key));
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let mut longer = request(&KeyPair::generate().unwrap());
        longer.push(0);
        for bytes in [&b""[..], b"x", &[0x30; MAX_REQUEST + 1], &longer] {
            assert_eq!(RequestedKey::of(bytes).err(), Some(Error::Form));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(RequestedKey::of(&bytes).is_err());
        }
    }
}
