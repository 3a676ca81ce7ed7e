//! Any body → the class of a KBS's refusal, the probe's verdict on it, a key, and what an attestation
//! result says of initdata, or a refusal.

#![no_main]

use countersign::formats::initdata::Content;
use countersign::formats::jwk::EcPublicJwk;
use countersign::formats::kbs_error;
use countersign::formats::sealed;
use countersign::kbs::probe;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = kbs_error::classify_body(bytes);
    for status in [200, 401, 404] {
        let _ = probe::judge(status, bytes);
    }
    let _ = EcPublicJwk::parse(bytes);
    let _ = sealed::payload_name(bytes);
    if let Ok(claims) = serde_json::from_slice(bytes) {
        let _ = Content::from_claims(&claims);
    }
});
