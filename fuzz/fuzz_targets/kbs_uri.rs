//! Any text → a resource's name, or a refusal.

#![no_main]

use countersign::formats::kbs_uri::KbsUri;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let lenient = KbsUri::parse_ignoring_host(text);
    let Ok(uri) = KbsUri::parse(text) else { return };
    // What parses prints as it was read, and the lenient form agrees.
    assert_eq!(uri.to_string(), text);
    assert_eq!(lenient.as_ref(), Ok(&uri));
    // It goes into a URL's path as it is: nothing in it may mean anything there.
    assert_eq!(uri.path().split('/').count(), 3);
    assert!(uri.path().bytes().all(|b| b.is_ascii_alphanumeric() || b"/_-.".contains(&b)));
    assert!(uri.path().split('/').all(|segment| !segment.is_empty() && !segment.starts_with('.')));
});
