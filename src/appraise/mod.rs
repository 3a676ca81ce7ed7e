//! Judges: pure functions that hold what was found to what was expected. Expectations are mandatory
//! arguments; nothing here reads a file, a socket or a clock.

pub mod check;
pub mod expect;
pub mod launch;
pub mod peer;
pub mod replay;
pub mod snp;
pub mod tdx;
pub mod token;
pub mod words;
