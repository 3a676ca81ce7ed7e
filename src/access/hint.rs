//! Which KBS to ask when CDH gives no reason: the one of `[kbs]`, else the one in the initdata that
//! is mounted for us. Advice only: nothing is sent there but a request for a challenge.

use std::io::Read as _;
use std::path::Path;

use super::cdh::KbsHint;
use crate::config::{Kbs, KbsUrl};
use crate::formats::initdata::Initdata;

/// Most bytes of mounted initdata that are read: a `ConfigMap` holds 1 MiB.
const MAX_BYTES: u64 = 1024 * 1024;

/// Names under which the initdata may lie in the mounted `ConfigMap`.
const KEYS: [&str; 4] = ["initdata.toml", "INITDATA", "data", "initdata"];

/// The hint for this run.
pub fn find(kbs: Option<&Kbs>, mount: &Path) -> KbsHint {
    match kbs {
        Some(kbs) if !kbs.url.is_empty() => KbsHint::from_config(kbs),
        _ => from_initdata(mount).unwrap_or_default(),
    }
}

fn from_initdata(mount: &Path) -> Option<KbsHint> {
    let bytes = KEYS.iter().map(|key| mount.join(key)).chain([mount.to_path_buf()]).find_map(|path| read(&path))?;
    let initdata = Initdata::parse(&bytes).ok()?;
    let kbs = initdata.kbs()?;
    let url = KbsUrl::parse(&kbs.url).ok()?;
    Some(KbsHint { url: vec![url], ca: kbs.cert, named_in: "the mounted initdata" })
}

fn read(path: &Path) -> Option<Vec<u8>> {
    // Asked before opening: opening a pipe would wait for a writer that never comes.
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
