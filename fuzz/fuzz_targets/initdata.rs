//! Any bytes → initdata, or a refusal.

#![no_main]

use countersign::formats::initdata::Initdata;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Decoding is bounded: a small gzip must not become a large document. libFuzzer's
    // -rss_limit_mb is the judge of that.
    if let Ok(initdata) = Initdata::parse(bytes) {
        let _ = initdata.kbs();
    }
});
