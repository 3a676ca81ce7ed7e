//! Configuration: raw → resolved, with the provenance of what was read.
//!
//! Pure: files and the environment are read elsewhere and handed in as text.
//!
//! [`resolve()`] is the way in. [`keys::KEYS`] is the one table of keys; [`schema`] writes the JSON
//! Schema and the documentation from it, [`explain()`] says where each value came from.

#[cfg(feature = "compat")]
pub mod compat;
mod decode;
pub mod env;
pub mod explain;
pub mod flags;
pub mod grammar;
pub mod keys;
pub mod problem;
mod raw;
pub mod resolve;
pub mod roles;
pub mod schema;
pub mod spiffe;
pub mod types;
mod url;

pub use decode::MAX_DOCUMENT;
pub use env::{Arg, Bootstrap, Role, bootstrap};
pub use explain::explain;
pub use problem::{Origin, Problem};
pub use resolve::{Document, Inputs, Sources, parse, resolve, resolve_with_sources};
pub use types::{
    Config, Expect, For, Format, Gate, Kbs, KbsUrl, Log, LogFormat, Provenance, RelativePath, SecretFile, Secrets,
    Source, Via,
};
