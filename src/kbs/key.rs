//! The key that is attested: P-256, born here, in memory only.
//!
//! Its public half goes into the hash that the hardware signs, so whatever the KBS encrypts to it
//! can be opened by this process and by nobody else.

use std::fmt;

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::encoding::{AsBigEndian as _, AsDer as _, EcPublicKeyUncompressedBin, Pkcs8V1Der};
use serde_json::Value;

use crate::formats::jwk::EcPublicJwk;
use crate::formats::runtime_data::tee_pubkey;
use crate::secret::Secret;

/// `aws-lc-rs` could not make the key, or the bytes are no P-256 key. Says nothing of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no P-256 key")]
pub struct KeyError;

/// A P-256 key pair for key agreement. The private half leaves it in one way only:
/// [`TeeKey::to_pkcs8`].
pub struct TeeKey {
    private: PrivateKey,
    public: EcPublicJwk,
}

impl TeeKey {
    /// A new key from the operating system's randomness.
    pub fn generate() -> Result<Self, KeyError> {
        Self::from_private(PrivateKey::generate(&ECDH_P256).map_err(|_| KeyError)?)
    }

    /// Reads a key in PKCS#8 form (DER, RFC 5958). Refuses other curves.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        Self::from_private(PrivateKey::from_private_key_der(&ECDH_P256, der).map_err(|_| KeyError)?)
    }

    fn from_private(private: PrivateKey) -> Result<Self, KeyError> {
        let public = private.compute_public_key().map_err(|_| KeyError)?;
        let point: EcPublicKeyUncompressedBin<'_> = public.as_be_bytes().map_err(|_| KeyError)?;
        let public = EcPublicJwk::from_point(point.as_ref()).map_err(|_| KeyError)?;
        Ok(Self { private, public })
    }

    /// The public half as `tee-pubkey`, with the members that the KBS keeps and no other.
    pub fn public_jwk(&self) -> Value {
        tee_pubkey(&self.public)
    }

    /// The public half.
    pub fn public(&self) -> &EcPublicJwk {
        &self.public
    }

    /// The private half as PKCS#8 (DER): for the TLS identity that this key becomes once the last
    /// response is opened. Nothing else may take it.
    pub fn to_pkcs8(&self) -> Result<Secret, KeyError> {
        let der: Pkcs8V1Der<'_> = self.private.as_der().map_err(|_| KeyError)?;
        Ok(Secret::new(der.as_ref().to_vec()))
    }

    pub(super) fn private(&self) -> &PrivateKey {
        &self.private
    }
}

/// Says that there is a key, and nothing of it.
impl fmt::Debug for TeeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TeeKey")
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    #[test]
    fn the_public_half_has_exactly_the_members_that_the_kbs_keeps() {
        let key = TeeKey::generate().unwrap();
        let jwk = key.public_jwk();
        let names: Vec<&String> = jwk.as_object().unwrap().keys().collect();
        assert_eq!(names, ["alg", "crv", "kty", "x", "y"]);
        assert_eq!(jwk["alg"], "ECDH-ES+A256KW");
        for name in ["x", "y"] {
            assert_eq!(URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap().len(), 32);
        }
    }

    #[test]
    fn a_key_survives_its_export_and_two_keys_differ() {
        let key = TeeKey::generate().unwrap();
        let again = TeeKey::from_pkcs8(key.to_pkcs8().unwrap().expose()).unwrap();
        assert_eq!(again.public_jwk(), key.public_jwk());
        assert_ne!(TeeKey::generate().unwrap().public_jwk(), key.public_jwk());
    }

    #[test]
    fn another_curve_and_other_bytes_are_no_key() {
        let p384 = PrivateKey::generate(&aws_lc_rs::agreement::ECDH_P384).unwrap();
        let der: Pkcs8V1Der<'_> = p384.as_der().unwrap();
        assert_eq!(TeeKey::from_pkcs8(der.as_ref()).unwrap_err(), KeyError);
        assert_eq!(TeeKey::from_pkcs8(b"").unwrap_err(), KeyError);
    }

    #[test]
    fn debug_shows_nothing_of_the_key() {
        assert_eq!(format!("{:?}", TeeKey::generate().unwrap()), "TeeKey");
    }
}
