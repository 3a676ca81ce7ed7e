//! What the attestation protocol has the hardware sign: a nonce and a public key, as canonical JSON,
//! hashed (RCAR 0.4.0).
//!
//! The server hashes its own rendering of the same values. So the key has exactly the members that
//! it keeps, and nothing is taken from a text that somebody else wrote.

use aws_lc_rs::digest;
use serde_json::{Value, json};

use super::jcs;
use super::jwe::ALG;
use super::jwk::EcPublicJwk;

/// Bytes of `REPORT_DATA` on SNP, TDX and CCA.
pub const REPORT_DATA_LEN: usize = 64;

/// Most bytes of a nonce, 16 KiB: Trustee's has 44 characters (32 bytes in base64); for IBM SE it is
/// a document of some KiB. A bound of ours.
pub const MAX_NONCE: usize = 16 * 1024;

/// The server's nonce is longer than [`MAX_NONCE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("has a nonce that is longer than 16 KiB")]
pub struct NonceTooLong;

/// The hash over the runtime data. The server may select one; without a choice it is SHA-384.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hash {
    /// 32 bytes.
    Sha256,
    /// 48 bytes.
    #[default]
    Sha384,
    /// 64 bytes.
    Sha512,
}

/// The nonce of a challenge and the key that is to be attested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeData {
    nonce: String,
    tee_pubkey: EcPublicJwk,
}

impl Hash {
    /// By the names that the protocol uses (`sha256`, `sha384`, `sha512`), in any case. `None` for
    /// every other: a hash that we do not know cannot be agreed on.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Sha256, Self::Sha384, Self::Sha512].into_iter().find(|hash| hash.name().eq_ignore_ascii_case(name))
    }

    /// The protocol's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    fn of(self, bytes: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, bytes).as_ref().to_vec()
    }
}

impl RuntimeData {
    /// The nonce as the challenge gave it, byte for byte; it is base64 text and is not decoded.
    pub fn new(nonce: String, tee_pubkey: EcPublicJwk) -> Result<Self, NonceTooLong> {
        if nonce.len() > MAX_NONCE { Err(NonceTooLong) } else { Ok(Self { nonce, tee_pubkey }) }
    }

    /// The nonce.
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// The member `runtime-data` of the request to `/attest`.
    pub fn to_json(&self) -> Value {
        json!({"nonce": self.nonce, "tee-pubkey": tee_pubkey(&self.tee_pubkey)})
    }

    /// What the CPU's hardware signs. `additional_evidence` is the very text that the request
    /// carries under that name, empty where there are no further devices.
    pub fn digest(&self, hash: Hash, additional_evidence: &str) -> Vec<u8> {
        let mut value = self.to_json();
        if let Some(members) = value.as_object_mut() {
            members.insert("additional-evidence".to_owned(), Value::from(additional_evidence));
        }
        hash_of(hash, &value)
    }

    /// What a further device's hardware signs.
    pub fn device_digest(&self, hash: Hash) -> Vec<u8> {
        hash_of(hash, &self.to_json())
    }
}

/// A key as `tee-pubkey`: the five members that the server keeps. It drops every other before it
/// hashes, so one more here would be a digest that it never computes.
pub fn tee_pubkey(key: &EcPublicJwk) -> Value {
    let [x, y] = key.coordinates();
    json!({"kty": "EC", "crv": "P-256", "alg": ALG, "x": x, "y": y})
}

/// A digest as `REPORT_DATA`: zeros after it up to 64 bytes; what is longer is cut, which no hash of
/// ours is.
pub fn report_data(digest: &[u8]) -> [u8; REPORT_DATA_LEN] {
    let mut out = [0; REPORT_DATA_LEN];
    for (to, from) in out.iter_mut().zip(digest) {
        *to = *from;
    }
    out
}

/// Every member is a text, and texts always have a canonical form. Were it otherwise, the hash of
/// nothing is one that no server expects.
fn hash_of(hash: Hash, value: &Value) -> Vec<u8> {
    hash.of(&jcs::canonical(value).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    // The base point of P-256 (FIPS 186-4 D.1.2.3): a public key that everybody has.
    const JWK: &str = r#"{"kty":"EC","crv":"P-256","kid":"dropped","use":"enc","x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}"#;

    fn sample() -> RuntimeData {
        RuntimeData::new("n+/=\"".to_owned(), EcPublicJwk::parse(JWK.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn the_key_has_exactly_the_members_that_the_server_keeps() {
        let value = sample().to_json();
        let names: Vec<_> = value["tee-pubkey"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["alg", "crv", "kty", "x", "y"]);
        assert_eq!(value["tee-pubkey"]["alg"], "ECDH-ES+A256KW");
    }

    #[test]
    fn the_digest_is_over_canonical_json() {
        let key = r#"{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}"#;
        let primary = format!(r#"{{"additional-evidence":"{{\"a\":1}}","nonce":"n+/=\"","tee-pubkey":{key}}}"#);
        let device = format!(r#"{{"nonce":"n+/=\"","tee-pubkey":{key}}}"#);
        assert_eq!(sample().digest(Hash::Sha384, r#"{"a":1}"#), Hash::Sha384.of(primary.as_bytes()));
        assert_eq!(sample().device_digest(Hash::Sha512), Hash::Sha512.of(device.as_bytes()));
        assert_ne!(sample().digest(Hash::Sha384, ""), sample().device_digest(Hash::Sha384));
    }

    #[test]
    fn hashes_are_named_in_any_case_and_others_refused() {
        assert_eq!(Hash::parse("SHA384"), Some(Hash::Sha384));
        assert_eq!(Hash::parse("sha512"), Some(Hash::Sha512));
        assert_eq!(Hash::parse("Sha256"), Some(Hash::Sha256));
        for other in ["sha-384", "sha1", "", "sha3-384", "sha384 "] {
            assert_eq!(Hash::parse(other), None, "{other}");
        }
        assert_eq!(Hash::default(), Hash::Sha384);
    }

    #[test]
    fn every_hash_fits_report_data() {
        for (hash, len) in [(Hash::Sha256, 32), (Hash::Sha384, 48), (Hash::Sha512, 64)] {
            let digest = sample().digest(hash, "");
            assert_eq!(digest.len(), len);
            let padded = report_data(&digest);
            assert_eq!(padded[..len], digest);
            assert!(padded[len..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn an_oversize_nonce_is_refused() {
        let key = EcPublicJwk::parse(JWK.as_bytes()).unwrap();
        assert!(RuntimeData::new("n".repeat(MAX_NONCE), key.clone()).is_ok());
        assert_eq!(RuntimeData::new("n".repeat(MAX_NONCE + 1), key), Err(NonceTooLong));
    }
}
