//! Any bytes → a response to a key that nobody encrypted to, which must not be opened.

#![no_main]

use std::sync::LazyLock;

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use countersign::formats::jwe;
use libfuzzer_sys::fuzz_target;

/// Born here: the seeds are for other keys.
static KEY: LazyLock<PrivateKey> = LazyLock::new(|| PrivateKey::generate(&ECDH_P256).expect("randomness"));

fuzz_target!(|bytes: &[u8]| {
    assert!(jwe::open(bytes, &KEY).is_err());
});
