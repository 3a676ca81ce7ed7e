//! Keys, as rcgen wants them: our own, which sign, and others', which are certified. One type for both, so
//! that there is one copy of what writes certificates; and no private key lies in it as bytes.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
};
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PublicKeyData, SignatureAlgorithm, SigningKey};

use super::Error;
use crate::formats::csr::RequestedKey;
use crate::secret::Secret;

/// A key.
pub(super) struct Key {
    point: Vec<u8>,
    kind: &'static SignatureAlgorithm,
    /// `None`: somebody else's.
    pair: Option<EcdsaKeyPair>,
}

impl Key {
    /// Ours, PKCS#8, on P-256.
    pub(super) fn own(pkcs8: &Secret) -> Result<Self, Error> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.expose());
        Ok(Self::of(pair.map_err(|_| Error::Key)?, &PKCS_ECDSA_P256_SHA256))
    }

    /// A CA's, PKCS#8, on P-256 or P-384.
    pub(super) fn of_ca(pkcs8: &Secret) -> Result<Self, Error> {
        Self::own(pkcs8).or_else(|_| {
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, pkcs8.expose());
            Ok(Self::of(pair.map_err(|_| Error::CaKey)?, &PKCS_ECDSA_P384_SHA384))
        })
    }

    /// Somebody else's.
    pub(super) fn requested(key: &RequestedKey) -> Self {
        Self { point: key.point().to_vec(), kind: &PKCS_ECDSA_P256_SHA256, pair: None }
    }

    fn of(pair: EcdsaKeyPair, kind: &'static SignatureAlgorithm) -> Self {
        Self { point: pair.public_key().as_ref().to_vec(), kind, pair: Some(pair) }
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.kind
    }
}

impl SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let pair = self.pair.as_ref().ok_or(rcgen::Error::RemoteKeyError)?;
        let signature = pair.sign(&SystemRandom::new(), message).map_err(|_| rcgen::Error::RemoteKeyError)?;
        Ok(signature.as_ref().to_vec())
    }
}
