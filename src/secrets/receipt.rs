//! The receipt beside the published files: what was delivered, from where, believed how far.
//! Never a value, a digest or a length.

use serde::Serialize;

use super::fetch::Value;
use crate::config::Config;

#[derive(Serialize)]
struct Receipt<'a> {
    v: u8,
    countersign: &'static str,
    /// Seconds since 1970 by the guest's wall clock, which the host sets.
    written: u64,
    provenance: &'static str,
    via: &'static str,
    serial: u64,
    files: Vec<File<'a>>,
}

#[derive(Serialize)]
struct File<'a> {
    path: &'a str,
    from: &'a str,
    mode: String,
}

/// The receipt's bytes: one JSON object, pretty-printed.
pub(super) fn write(config: &Config, values: &[Value], now: u64) -> Vec<u8> {
    let files = config
        .secrets
        .files
        .iter()
        .zip(values)
        .map(|(file, value)| File { path: file.path.as_str(), from: &value.origin, mode: format!("{:04o}", file.mode) })
        .collect();
    let receipt = Receipt {
        v: 1,
        countersign: env!("CARGO_PKG_VERSION"),
        written: now,
        provenance: config.provenance.label(),
        via: "cdh",
        serial: config.serial,
        files,
    };
    let mut bytes = serde_json::to_vec_pretty(&receipt).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}
