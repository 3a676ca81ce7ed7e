//! What real servers, guests and firmware were seen to say: `../shared/vectors`, read by tests that
//! have [`Need::Vectors`](crate::Need::Vectors). Nothing of it is copied into the project.

use serde_json::Value;

pub use crate::runner::vectors as directory;
pub use crate::tee::hex;

/// A file's bytes, by its path below the directory.
///
/// # Panics
/// Where there is no such file.
#[track_caller]
pub fn read(path: &str) -> Vec<u8> {
    let directory = directory().expect("the test has the need `Vectors`");
    std::fs::read(directory.join(path)).expect(path)
}

/// A file of JSON.
///
/// # Panics
/// Where there is no such file, or it is not JSON.
#[track_caller]
pub fn json(path: &str) -> Value {
    serde_json::from_slice(&read(path)).expect("a vector of JSON")
}

/// The bytes of hex digits; white space around them is fine.
///
/// # Panics
/// On anything else.
#[track_caller]
pub fn unhex(text: &str) -> Vec<u8> {
    let pair = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2);
        text.and_then(|pair| u8::from_str_radix(pair, 16).ok()).expect("pairs of hex digits")
    };
    text.trim().as_bytes().chunks(2).map(pair).collect()
}
