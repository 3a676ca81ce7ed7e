//! Tokens as CoCo's attestation service makes them: an EAR as ES256 JWT, the signer's certificate
//! chain in its header (seen on the wire, tokens/*.jwt).

use std::time::SystemTime;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::pki::Ca;

/// How long a token counts after its end, seconds: Trustee's library's leeway, seen on the wire,.
const LEEWAY: u64 = 60;

/// Who signs tokens.
pub(super) struct Signer {
    key: EcdsaKeyPair,
    chain: Vec<String>,
    root: String,
}

impl Signer {
    pub(super) fn new() -> Self {
        let ca = Ca::new("token root");
        let identity = ca.leaf(&["coco-as.example.test"]);
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, identity.key().secret_der())
            .expect("the key that rcgen just made");
        let mut chain: Vec<String> = identity.chain().iter().map(|der| STANDARD.encode(der)).collect();
        // As in the recordings: the whole content of `cert_path`, root included.
        chain.push(STANDARD.encode(ca.der()));
        Self { key, chain, root: ca.pem().to_owned() }
    }

    /// The root that vouches for the signer, PEM.
    pub(super) fn root(&self) -> &str {
        &self.root
    }

    pub(super) fn sign(&self, payload: &Value) -> String {
        let (x, y) = self.key.public_key().as_ref().get(1..).expect("an uncompressed point").split_at(32);
        let header = json!({"typ": "JWT", "alg": "ES256", "jwk": {
            "alg": "ES256", "x5c": self.chain, "kty": "EC", "crv": "P-256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }});
        let signed =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(payload.to_string()));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).expect("randomness");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    /// The claims of a token of ours that has not run out.
    pub(super) fn verify(&self, token: &str) -> Option<Value> {
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key())
            .verify(signed.as_bytes(), &signature)
            .ok()?;
        let (_, payload) = signed.split_once('.')?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        (now() <= claims.get("exp")?.as_u64()?.saturating_add(LEEWAY)).then_some(claims)
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What an appraisal of the three that Trustee's default policy sets comes to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vector {
    pub(super) executables: i8,
    pub(super) hardware: i8,
    pub(super) configuration: i8,
}

impl Vector {
    pub(super) fn json(self) -> Value {
        json!({"instance-identity": 0, "configuration": self.configuration, "executables": self.executables,
               "file-system": 0, "hardware": self.hardware, "runtime-opaque": 0, "storage-opaque": 0,
               "sourced-data": 0})
    }

    /// The worst of the three, in AR4SI's tiers.
    pub(super) fn status(self) -> &'static str {
        let tier = |value: i8| match value {
            -1..=1 => 0,
            2..=31 | -32..=-2 => 1,
            32..=95 | -96..=-33 => 2,
            _ => 3,
        };
        match tier(self.executables).max(tier(self.hardware)).max(tier(self.configuration)) {
            0 => "none",
            1 => "affirming",
            2 => "warning",
            _ => "contraindicated",
        }
    }
}
