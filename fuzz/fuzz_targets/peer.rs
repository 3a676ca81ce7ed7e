//! Any certificate of a peer's → its one identity, or a reason. And any name of a header → whether it
//! claims who calls: whatever its case, and with `_` for `-`.

#![no_main]

use countersign::proxy::headers::is_forged;
use countersign::tls::peer::identity;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(id) = identity(&bytes.to_vec().into()) {
        assert!(!id.to_string().is_empty());
    }
    if let Ok(name) = std::str::from_utf8(bytes) {
        let forged = is_forged(name);
        assert_eq!(is_forged(&name.to_ascii_uppercase()), forged);
        assert_eq!(is_forged(&name.replace('-', "_")), forged);
    }
});
