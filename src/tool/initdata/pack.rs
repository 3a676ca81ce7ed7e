//! `initdata pack`: the value of the pod annotation.

use std::io::Write as _;
use std::path::Path;

use base64::Engine as _;
use flate2::{Compression, GzBuilder};

use super::dialect;
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
    readable(initdata)?;
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    let bytes = gzip.write_all(initdata.toml().as_bytes()).and_then(|()| gzip.finish());
    let bytes = bytes.map_err(|error| Finding::new(Class::Bug, format!("gzip failed: {error}")))?;
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
}

/// Documents that somebody else's reader reads: the frame, and the agents' own parts.
fn readable(initdata: &Initdata) -> Result<(), Finding> {
    let inner = ["aa.toml", "cdh.toml"].map(|name| (name, initdata.get(name)));
    for (name, text) in [("the frame", Some(initdata.toml()))].into_iter().chain(inner) {
        if let Some((_, newer)) = text.and_then(|text| dialect::newer(text).first().copied()) {
            return Err(Finding::new(Class::Config, format!("the initdata: {name} has {}", newer.what))
                .why("Kata's agent reads TOML 0.5: it would refuse the initdata, and the guest would not start")
                .next(format!("{}; `kubectl countersign initdata check` names its line", newer.next)));
        }
    }
    Ok(())
}
