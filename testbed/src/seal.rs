//! Sealed secrets, made as Trustee's own tool makes them.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A P-256 key that seals.
#[derive(Debug)]
pub struct SealingKey(EcdsaKeyPair);

impl SealingKey {
    /// A new one.
    ///
    /// # Panics
    /// When the machine has no randomness.
    pub fn generate() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("randomness"))
    }

    /// Its public half as a JWK, as it lies at the KBS.
    pub fn public_jwk(&self) -> String {
        let point = self.0.public_key().as_ref();
        // Uncompressed: 4, then both coordinates.
        let (x, y) = point.get(1..).expect("65 bytes").split_at(32);
        serde_json::json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        })
        .to_string()
    }

    /// Seals a pointer to a KBS resource.
    pub fn seal(&self, kid: &str, name: &str) -> String {
        self.seal_raw(
            &serde_json::json!({"b64": true, "alg": "ES256", "kid": kid}).to_string(),
            &serde_json::json!({
                "version": "0.1.0", "type": "vault", "name": name, "provider": "kbs",
                "provider_settings": {}, "annotations": {},
            })
            .to_string(),
        )
    }

    /// Seals any header and payload.
    ///
    /// # Panics
    /// When the machine has no randomness.
    pub fn seal_raw(&self, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).expect("randomness");
        format!("sealed.{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}
