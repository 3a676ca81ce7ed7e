//! Tokens and chains of our own making, for tests of this crate. Not compiled into anything else.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use serde_json::{Value, json};

use super::{EarToken, Error, Expected, Freshness, Signer, TrustAnchors, Verified};
use crate::formats::jwk::EcPublicJwk;

/// 2026-06-01, well inside the certificates below.
pub(crate) const NOW: u64 = 1_780_272_000;

pub(crate) const NONCE: &str = "bm9uY2U=";

/// A name, its key, and its certificate.
pub(crate) struct Party {
    pub(crate) params: CertificateParams,
    pub(crate) key: KeyPair,
    pub(crate) der: Vec<u8>,
}

pub(crate) fn params(name: &str, is_ca: IsCa) -> CertificateParams {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = is_ca;
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    params
}

pub(crate) fn authority() -> IsCa {
    IsCa::Ca(BasicConstraints::Unconstrained)
}

pub(crate) fn root(name: &str) -> Party {
    let (params, key) = (params(name, authority()), KeyPair::generate().unwrap());
    let der = params.self_signed(&key).unwrap().der().to_vec();
    Party { params, key, der }
}

impl Party {
    pub(crate) fn issue(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let der = params.signed_by(&key, &issuer).unwrap().der().to_vec();
        Self { params, key, der }
    }

    pub(crate) fn anchors(&self) -> TrustAnchors {
        anchors(&[self])
    }

    pub(crate) fn public(&self) -> EcPublicJwk {
        EcPublicJwk::from_point(self.key.public_key_raw()).unwrap()
    }

    /// A token over `payload`, its header with this key and `chain`.
    pub(crate) fn token(&self, chain: &[&Self], payload: &Value) -> String {
        let [x, y] = self.public().coordinates();
        let x5c: Vec<_> = chain.iter().map(|party| STANDARD.encode(&party.der)).collect();
        let jwk = json!({"kty": "EC", "alg": "ES256", "crv": "P-256", "x": x, "y": y, "x5c": x5c});
        self.sign(&json!({"typ": "JWT", "alg": "ES256", "jwk": jwk}), payload)
    }

    pub(crate) fn sign(&self, header: &Value, payload: &Value) -> String {
        let signed = format!("{}.{}", encode(header), encode(payload));
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.key.serialize_der()).unwrap();
        let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

pub(crate) fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

pub(crate) fn anchors(parties: &[&Party]) -> TrustAnchors {
    let pem: String = parties.iter().map(|party| pem(&party.der)).collect();
    TrustAnchors::from_pem(pem.as_bytes()).unwrap()
}

pub(crate) fn pem(der: &[u8]) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der))
}

/// The claims of an affirming token for `key`, issued now.
pub(crate) fn claims(key: &EcPublicJwk) -> Value {
    let [x, y] = key.coordinates();
    json!({
        "eat_profile": "tag:github.com,2024:confidential-containers/Trustee",
        "iat": NOW, "exp": NOW + 300,
        "submods": {"cpu0": {
            "ear.status": "affirming",
            "ear.trustworthiness-vector": {"executables": 3, "hardware": 2, "configuration": 2, "file-system": -1},
            "ear.appraisal-policy-id": "default",
            "ear.veraison.annotated-evidence": {
                "init_data": "00ff", "init_data_claims": {"my.key": "hello"}, "report_data": "",
                "runtime_data_claims": {
                    "additional-evidence": "", "nonce": NONCE,
                    "tee-pubkey": {"kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW", "x": x, "y": y},
                },
                "snp": {"measurement": "00"},
            },
        }},
    })
}

/// A root, a signer below it, and the key that was attested.
pub(crate) struct World {
    pub(crate) root: Party,
    pub(crate) signer: Party,
    pub(crate) guest: EcPublicJwk,
    pub(crate) anchors: TrustAnchors,
}

impl World {
    pub(crate) fn new() -> Self {
        let (top, guest) = (root("root"), root("guest").public());
        let signer = top.issue(params("signer", IsCa::NoCa));
        Self { anchors: top.anchors(), root: top, signer, guest }
    }

    pub(crate) fn expected(&self) -> Expected<'_> {
        let signer = Signer::EndorsedBy(&self.anchors);
        Expected { signer, now: NOW, tee_pubkey: &self.guest, freshness: Freshness::Nonce(NONCE) }
    }

    pub(crate) fn token(&self, payload: &Value) -> String {
        self.signer.token(&[&self.signer, &self.root], payload)
    }

    /// The verdict on a token whose claims were changed before it was signed.
    pub(crate) fn judge(&self, change: impl Fn(&mut Value)) -> Result<Verified, Error> {
        let mut payload = claims(&self.guest);
        change(&mut payload);
        EarToken::parse(&self.token(&payload))?.verify(&self.expected())
    }
}
