//! Any bytes → evidence, a token, certificates, a receipt, or a refusal; and what is found is judged.

#![no_main]

use countersign::appraise::{snp, tdx};
use countersign::evidence::shown::{Shown, detect};
use countersign::formats::ear::EarToken;
use libfuzzer_sys::fuzz_target;

/// 2026-11-26.
const NOW: u64 = 1_795_651_200;

fuzz_target!(|bytes: &[u8]| {
    match detect(bytes) {
        Ok(Shown::Snp(evidence)) => {
            let beside = snp::Beside { certificates: &evidence.certificates, crl: evidence.crl.as_deref() };
            let _ = snp::genuine(&evidence.report, &beside, &snp::Roots::amd(), NOW);
        }
        Ok(Shown::Tdx { quote, raw }) => {
            // Nobody finds Intel's key by chance.
            assert!(tdx::genuine(&quote, &raw, None, &tdx::Root::intel(), NOW).is_err() || raw.len() > 4000);
        }
        Ok(Shown::Certificates(ders)) => {
            let _ = snp::key_certificate(&ders, &snp::Roots::amd(), NOW);
        }
        Ok(Shown::Token(text)) => {
            let _ = EarToken::parse(&text).map(|token| token.claims_unverified());
        }
        // Its own target has more.
        Ok(Shown::Receipt(_) | Shown::Other(_)) | Err(_) => {}
    }
});
