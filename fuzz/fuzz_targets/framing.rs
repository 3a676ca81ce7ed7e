//! Any bytes of a connection → which head, if any, must not be served. The same however they are cut. And a
//! first head that says its end twice to hyper's own reader, httparse, is always found.

#![no_main]

use countersign::proxy::framing::Framing;
use libfuzzer_sys::fuzz_target;

fn first_bad(bytes: &[u8], piece: usize) -> Option<u64> {
    let mut framing = Framing::default();
    for piece in bytes.chunks(piece) {
        framing.follow(piece);
    }
    framing.first_bad()
}

fuzz_target!(|bytes: &[u8]| {
    let whole = first_bad(bytes, bytes.len().max(1));
    for piece in [1, 3, 64] {
        assert_eq!(first_bad(bytes, piece), whole);
    }
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut fields);
    let Ok(httparse::Status::Complete(_)) = request.parse(bytes) else { return };
    let count = |name: &str| request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).count();
    let (lengths, encodings) = (count("content-length"), count("transfer-encoding"));
    if lengths + encodings > 1 || (encodings > 0 && request.version == Some(0)) {
        assert_eq!(whole, Some(1));
    }
});
