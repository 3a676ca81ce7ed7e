//! Any bytes → a TDX quote, or a refusal.

#![no_main]

use countersign::evidence::tdx::Quote;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(quote) = Quote::parse(bytes) {
        // Nothing is lost but the padding behind it.
        assert!(bytes.starts_with(&quote.to_bytes()));
    }
});
