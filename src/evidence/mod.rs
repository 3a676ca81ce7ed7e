//! What hardware reports and quotes say, read from raw bytes. Pure, total, no panics.
//!
//! Parsing believes nothing: a report is evidence of something only once a verifier has checked its
//! signature against the maker's roots.
//!
//! What is read can be written again (`to_bytes`). It is how a judge gets the bytes that a signature
//! covers, and how the testbed makes evidence of its own.

mod bytes;
pub mod cert_table;
pub mod eventlog;
pub mod kds;
pub mod pcs;
pub mod quote_signature;
pub mod shown;
pub mod snp;
pub mod tdx;
pub mod trustee;
pub mod twin;
