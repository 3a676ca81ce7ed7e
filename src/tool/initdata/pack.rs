//! `initdata pack`: the value of the pod annotation.

use std::io::Write as _;
use std::path::Path;

use base64::Engine as _;
use flate2::{Compression, GzBuilder};

use crate::finding::{Class, Finding};
use crate::formats::initdata::Initdata;

/// Name of the annotation that every current Kata and peer-pod shim reads, on the pod.
pub(in crate::tool) const ANNOTATION: &str = "io.katacontainers.config.hypervisor.cc_init_data";

pub(super) fn run(file: &Path) -> Result<String, Finding> {
    Ok(packed(&super::load(file)?)? + "\n")
}

/// Base64 of gzip of the exact TOML. No time stamp, no file name: the same initdata gives the same
/// annotation everywhere.
pub(super) fn packed(initdata: &Initdata) -> Result<String, Finding> {
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    let bytes = gzip.write_all(initdata.toml().as_bytes()).and_then(|()| gzip.finish());
    let bytes = bytes.map_err(|error| Finding::new(Class::Bug, format!("gzip failed: {error}")))?;
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
}
