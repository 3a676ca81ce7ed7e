//! Any bytes → a frame's head, a hello, a statement, pins, and what an issuer is asked. No head makes room for more than its kind may
//! have; what parses is written as it was read.

#![no_main]

use countersign::formats::csr::RequestedKey;
use countersign::formats::frames::{HEAD, Head, Hello, Kind, MAX_EVIDENCE};
use countersign::formats::pins::Pins;
use countersign::formats::statement::Statement;
use countersign::formats::wanted::Wanted;
use libfuzzer_sys::fuzz_target;

const ALL: [Kind; 9] = [
    Kind::Hello,
    Kind::Ear,
    Kind::Statement,
    Kind::Signature,
    Kind::Decline,
    Kind::Names,
    Kind::Request,
    Kind::Chain,
    Kind::Refusal,
];

fuzz_target!(|bytes: &[u8]| {
    if let Some(head) = bytes.get(..HEAD).and_then(|head| <[u8; HEAD]>::try_from(head).ok())
        && let Ok(head) = Head::parse(head, &ALL)
    {
        assert!(head.length <= MAX_EVIDENCE);
    }
    if let Ok(hello) = Hello::parse(bytes) {
        assert_eq!(hello.payload(), bytes);
    }
    if let Ok(statement) = Statement::parse(bytes) {
        assert_eq!(statement.canonical(), bytes);
    }
    let _ = Pins::parse(bytes);
    if let Ok(wanted) = Wanted::parse(bytes) {
        assert_eq!(wanted.text().as_bytes(), bytes);
    }
    let _ = RequestedKey::of(bytes);
});
