//! What a real KBS hashed, encrypted and signed. Reads `../shared/vectors`; where that is absent
//! each test names itself as left out. Nothing of it is copied into the project.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use countersign::finding::chain;
use countersign::formats::ear::{ChainError, EarToken, Error, Expected, Freshness, Signer, Status, TrustAnchors};
use countersign::formats::initdata::{AgentPolicy, Initdata};
use countersign::formats::jwk::{self, EcPublicJwk};
use countersign::formats::runtime_data::{Hash, RuntimeData, report_data};
use countersign::formats::{jcs, jwe};
use countersign_testbed::vectors::{hex, json, read};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::Value;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

countersign_testbed::main! {
    runtime_data_hashes_to_what_a_real_kbs_accepted [Vectors],
    a_response_of_a_real_kbs_is_opened [Vectors],
    responses_to_other_kinds_of_keys_are_refused_by_name [Vectors],
    tokens_of_a_real_kbs_are_believed_in_their_time [Vectors],
    a_real_token_is_refused_under_another_anchor [Vectors],
    chains_get_the_verdicts_that_trustee_gives [Vectors],
    a_policy_of_the_real_generator_is_generated [Vectors],
}

fn runtime_data_hashes_to_what_a_real_kbs_accepted() {
    let vector = json("generated/reportdata/p256.json");
    let given = &vector["runtime_data"];
    let key = EcPublicJwk::parse(given["tee-pubkey"].to_string().as_bytes()).unwrap();
    let data = RuntimeData::new(given["nonce"].as_str().unwrap().to_owned(), key).unwrap();
    assert_eq!(data.to_json(), *given);
    for (hash, expected) in [
        (Hash::Sha256, &vector["sha256_hex"]),
        (Hash::Sha384, &vector["sha384_hex"]),
        (Hash::Sha512, &vector["sha512_hex"]),
    ] {
        assert_eq!(*expected, hex(&data.digest(hash, "")));
    }
    assert_eq!(vector["report_data_64_hex"], hex(&report_data(&data.digest(Hash::default(), ""))));
    assert_eq!(vector["device_sha384_hex"], hex(&data.device_digest(Hash::Sha384)));
    assert_eq!(vector["device_canonical_bytes_utf8"].as_str().unwrap().as_bytes(), jcs::canonical(given).unwrap());
}

/// The key and the response of a captured exchange.
fn response(vector: &Value) -> (PrivateKey, Vec<u8>) {
    let pem = vector["recipient_private_key_pem"].as_str().unwrap();
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    (PrivateKey::from_private_key_der(&ECDH_P256, key.secret_der()).unwrap(), vector["jwe"].to_string().into_bytes())
}

fn a_response_of_a_real_kbs_is_opened() {
    let vector = json("generated/jwe/jwe-P-256.json");
    let (key, body) = response(&vector);
    let secret = jwe::open(&body, &key).unwrap();
    assert_eq!(vector["plaintext_base64"], STANDARD.encode(secret.expose()));
}

fn responses_to_other_kinds_of_keys_are_refused_by_name() {
    let (key, _) = response(&json("generated/jwe/jwe-P-256.json"));
    for (name, word) in [("P-521", "P-521"), ("RSA-OAEP-256", "RSA-OAEP-256"), ("RSA1_5", "RSA1_5")] {
        let body = json(&format!("generated/jwe/jwe-{name}.json"))["jwe"].to_string();
        let Err(error) = jwe::open(body.as_bytes(), &key) else { panic!("{name} was opened") };
        assert!(chain(&error).contains(word), "{name}: {}", chain(&error));
    }
}

fn token(name: &str) -> String {
    String::from_utf8(read(&format!("generated/tokens/{name}.jwt"))).unwrap().trim_end().to_owned()
}

fn tokens_of_a_real_kbs_are_believed_in_their_time() {
    let anchors = TrustAnchors::from_pem(&read("generated/tokens/token-issuer-ca-cert.pem")).unwrap();
    for name in ["token-p256", "token-initdata", "token-sampledevice"] {
        let token = EarToken::parse(&token(name)).unwrap();
        let seen = token.claims_unverified().unwrap();
        let runtime = seen.cpu().runtime.as_ref().unwrap();
        let (signer, tee_pubkey) = (Signer::EndorsedBy(&anchors), &runtime.tee_pubkey);
        let good = Expected { signer, now: seen.issued_at, tee_pubkey, freshness: Freshness::Nonce(&runtime.nonce) };
        let verified = token.verify(&good).unwrap();
        let cpu = verified.claims().cpu();
        assert_eq!(cpu.status, Status::Contraindicated, "{name}");
        assert!(cpu.is_sample(), "{name}");
        assert_eq!((cpu.vector.executables, cpu.vector.hardware), (33, 97), "{name}");
        assert_eq!(cpu.init_data_claims.is_some(), name == "token-initdata");
        // As the KBS judged it: good until a minute after `exp`.
        let at = |now| token.verify(&Expected { now, ..good }).err();
        assert_eq!((at(seen.expires_at + 60), at(seen.expires_at + 61)), (None, Some(Error::Expired)), "{name}");
        let aged = Expected { freshness: Freshness::MaxAge(Duration::from_secs(3600)), ..good };
        assert!(token.verify(&Expected { now: seen.issued_at + 3600, ..aged }).is_ok(), "{name}");
    }
}

fn a_real_token_is_refused_under_another_anchor() {
    let anchors = TrustAnchors::from_pem(&read("trustee/kbs/test_data/jwk/scenario01-trust.pem")).unwrap();
    let token = EarToken::parse(&token("token-p256")).unwrap();
    let seen = token.claims_unverified().unwrap();
    let tee_pubkey = &seen.cpu().runtime.as_ref().unwrap().tee_pubkey;
    let signer = Signer::EndorsedBy(&anchors);
    let expected = Expected { signer, now: seen.issued_at, tee_pubkey, freshness: Freshness::Unexpired };
    assert_eq!(token.verify(&expected).unwrap_err(), Error::Chain(ChainError::NoAnchor));
}

/// Trustee's own scenarios have RSA keys, which we refuse in a token. Their chains we judge.
fn chains_get_the_verdicts_that_trustee_gives() {
    // 2027-01-01, inside the certificates of all scenarios.
    const NOW: u64 = 1_798_761_600;
    for (number, expected) in [
        (1, Ok(true)),
        (2, Ok(false)),
        (3, Err(ChainError::Missing)),
        (4, Err(ChainError::NoAnchor)),
        (5, Ok(true)),
        (6, Ok(true)),
        (7, Ok(true)),
    ] {
        let scenario = format!("trustee/kbs/test_data/jwk/scenario{number:02}");
        let key = json(&format!("{scenario}-jwk.json"));
        assert_eq!(EcPublicJwk::parse(key.to_string().as_bytes()).unwrap_err(), jwk_refusal(&key));
        let chain: Vec<Vec<u8>> = key["x5c"]
            .as_array()
            .map(|list| list.iter().map(|der| STANDARD.decode(der.as_str().unwrap()).unwrap()).collect())
            .unwrap_or_default();
        let anchors = TrustAnchors::from_pem(&read(&format!("{scenario}-trust.pem"))).unwrap();
        let endorsed = anchors.endorse(&chain, NOW);
        assert_eq!(endorsed.map(|_| is_key_of(&chain[0], &key)), expected, "scenario {number}");
    }
}

/// A long key is too long before it is an RSA key.
fn jwk_refusal(key: &Value) -> jwk::Error {
    if key.to_string().len() > jwk::MAX_BYTES { jwk::Error::TooLong } else { jwk::Error::Rsa }
}

/// Whether a certificate is of the RSA key in a JWK.
fn is_key_of(der: &[u8], key: &Value) -> bool {
    let (_, certificate) = X509Certificate::from_der(der).unwrap();
    let Ok(PublicKey::RSA(rsa)) = certificate.public_key().parsed() else { return false };
    let modulus: Vec<u8> = rsa.modulus.iter().copied().skip_while(|byte| *byte == 0).collect();
    URL_SAFE_NO_PAD.decode(key["n"].as_str().unwrap()).unwrap() == modulus
}

fn a_policy_of_the_real_generator_is_generated() {
    let initdata = Initdata::parse(&read("trustee/integration-tests/tests/init-data-with-policy.toml")).unwrap();
    assert_eq!(initdata.agent_policy(), AgentPolicy::Generated);
    let initdata = Initdata::parse(&read("generated/initdata/initdata.toml")).unwrap();
    assert_eq!(initdata.agent_policy(), AgentPolicy::Permissive);
}
