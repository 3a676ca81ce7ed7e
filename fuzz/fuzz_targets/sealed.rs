//! Any text → a sealed secret, which must never verify under a key that nobody signed with.

#![no_main]

use countersign::formats::jwk::EcPublicJwk;
use countersign::formats::kbs_uri::KbsUri;
use countersign::formats::sealed::SealedSecret;
use libfuzzer_sys::fuzz_target;

/// RFC 7515, appendix A.3: a public key whose private half is published. The fuzzer does not
/// know how to sign, so an accepted signature is a fault of ours.
const KEY: &[u8] = br#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

fuzz_target!(|text: &str| {
    let listed = KbsUri::parse("kbs:///a/b/c").expect("a name");
    let key = EcPublicJwk::parse(KEY).expect("the RFC's key");
    if let Ok(sealed) = SealedSecret::parse(text) {
        assert!(sealed.verify(&[(listed, key)]).is_err());
    }
});
