//! Any bytes → a signed receipt, the receipt in it, and the one beside published files. What parses is written
//! as it was read, and holds under no key that nobody signed with.

#![no_main]

use countersign::formats::delivery::{Delivery, Receipt, Signed};
use countersign::formats::jwk::EcPublicJwk;
use libfuzzer_sys::fuzz_target;

/// RFC 7515, appendix A.3: a public key whose private half is published. The fuzzer does not know
/// how to sign, so a signature that holds is a fault of ours.
const KEY: &[u8] = br#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(receipt) = Receipt::parse(bytes) {
        assert_eq!(receipt.canonical(), bytes);
    }
    let _ = Delivery::parse(bytes);
    if let Ok(signed) = Signed::parse(bytes) {
        assert_eq!(Signed::parse(signed.text().as_bytes()).as_ref(), Ok(&signed));
        let key = EcPublicJwk::parse(KEY).expect("the RFC's key");
        assert!(!key.verifies_es256(&signed.receipt.signing_input(), &signed.signature));
    }
});
