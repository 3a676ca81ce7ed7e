//! Any bytes → an event log without its padding, or a refusal.

#![no_main]

use countersign::appraise::replay::replay;
use countersign::evidence::eventlog;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(log) = eventlog::trim(bytes) {
        assert!(bytes.starts_with(log.bytes));
        // What was cut is padding: cutting again cuts nothing.
        assert_eq!(eventlog::trim(log.bytes), Ok(log));
        let events = eventlog::events(&log).expect("what was walked once is walked again");
        assert_eq!(events.len(), log.events);
        let _ = replay(&events, &[[0; 48]; 4]);
    }
});
