//! Any bytes → the certificates of a report's table, or a refusal.

#![no_main]

use countersign::evidence::cert_table;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(entries) = cert_table::parse(bytes) {
        // Entries may overlap; written apart they can be longer than any table.
        let written = cert_table::to_bytes(&entries);
        if written.len() <= cert_table::MAX_BYTES {
            assert_eq!(cert_table::parse(&written).as_ref(), Ok(&entries));
        }
        // An empty list would be refused by the server: it is never made.
        assert!(cert_table::chain(entries).is_none_or(|chain| !chain.is_empty()));
    }
});
