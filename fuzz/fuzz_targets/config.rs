//! Any text → a configuration, or every mistake in it; the same for the environment's grammar.

#![no_main]

use std::collections::BTreeMap;

use countersign::config::{self, Inputs, KbsUrl, RelativePath, Source};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // A refusal names at least one mistake, and each says where.
    if let Err(problems) = config::parse(text) {
        assert!(!problems.is_empty());
    }
    let env = BTreeMap::from([("COUNTERSIGN_SECRETS".into(), text.into()), ("COUNTERSIGN_GATE".into(), text.into())]);
    if let Ok(config) = config::resolve(&Inputs { document: None, env: &env, args: &[], role: None }) {
        // From the environment alone nothing sealed is believed.
        assert!(config.secrets.files.iter().all(|file| matches!(file.from, Source::Resource(_))));
    }
    if let Ok(url) = KbsUrl::parse(text) {
        assert_eq!(KbsUrl::parse(&url.to_string()).as_ref(), Ok(&url));
    }
    if let Ok(path) = RelativePath::parse(text) {
        assert!(!path.as_str().split('/').any(|part| part.is_empty() || part.starts_with("..") || part == "."));
    }
});
