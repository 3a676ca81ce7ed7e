//! Any bytes → a frame's head, a hello, a statement, pins. No head makes room for more than its kind may
//! have; what parses is written as it was read.

#![no_main]

use countersign::formats::frames::{HEAD, Head, Hello, Kind, MAX_EVIDENCE};
use countersign::formats::pins::Pins;
use countersign::formats::statement::Statement;
use libfuzzer_sys::fuzz_target;

const ALL: [Kind; 5] = [Kind::Hello, Kind::Ear, Kind::Statement, Kind::Signature, Kind::Decline];

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
});
