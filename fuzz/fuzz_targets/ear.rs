//! Any text → an attestation token, which must never verify under a key that nobody signed with.

#![no_main]

use countersign::formats::ear::{EarToken, Expected, Freshness, Signer};
use countersign::formats::jwk::EcPublicJwk;
use libfuzzer_sys::fuzz_target;

/// RFC 7515, appendix A.3: a public key whose private half is published. The fuzzer does not know
/// how to sign, so an accepted signature is a fault of ours.
const KEY: &[u8] = br#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

fuzz_target!(|text: &str| {
    let key = EcPublicJwk::parse(KEY).expect("the RFC's key");
    if let Ok(token) = EarToken::parse(text) {
        let _ = token.claims_unverified();
        let signer = Signer::Keys(std::slice::from_ref(&key));
        let expected = Expected { signer, now: 0, tee_pubkey: &key, freshness: Freshness::Unexpired };
        assert!(token.verify(&expected).is_err());
    }
});
