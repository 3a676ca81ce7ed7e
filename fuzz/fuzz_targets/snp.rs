//! Any bytes → an SNP report, or a refusal.

#![no_main]

use countersign::evidence::snp::Report;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(report) = Report::parse(bytes) {
        // Nothing is lost: what a signature covers can be had from what was read.
        assert_eq!(report.to_bytes(), bytes);
    }
});
