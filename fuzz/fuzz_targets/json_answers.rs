//! Any body → the class of a KBS's refusal, the probe's verdict on it, and a key, or a refusal.

#![no_main]

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
});
