//! Reports as the JSON that Trustee's types make of them, both ways.

use serde_json::{Value, json};

use super::super::{field, put};
use super::{HALF, REPORT, SIGNATURE, Tcb};

/// Members of the JSON that are arrays of bytes, with their places.
const ARRAYS: [(&str, usize, usize); 10] = [
    ("family_id", 0x10, 16),
    ("image_id", 0x20, 16),
    ("report_data", 0x50, 64),
    ("measurement", 0x90, 48),
    ("host_data", 0xC0, 32),
    ("id_key_digest", 0xE0, 48),
    ("author_key_digest", 0x110, 48),
    ("report_id", 0x140, 32),
    ("report_id_ma", 0x160, 32),
    ("chip_id", 0x1A0, 64),
];
const WORDS: [(&str, usize); 5] =
    [("version", 0), ("guest_svn", 4), ("vmpl", 0x30), ("sig_algo", 0x34), ("key_info", 0x48)];
const LONGS: [(&str, usize); 2] = [("policy", 8), ("plat_info", 0x40)];
const TCBS: [(&str, usize); 4] =
    [("current_tcb", 0x38), ("reported_tcb", 0x180), ("committed_tcb", 0x1E0), ("launch_tcb", 0x1F0)];
const VERSIONS: [(&str, usize); 2] = [("current", 0x1E8), ("committed", 0x1EC)];
/// From version 3 on; null before.
const CPUID: [(&str, usize); 3] = [("cpuid_fam_id", 0x188), ("cpuid_mod_id", 0x189), ("cpuid_step", 0x18A)];
/// From version 5 on; null before.
const VECTORS: [(&str, usize); 2] = [("launch_mit_vector", 0x1F8), ("current_mit_vector", 0x200)];

/// A report as Trustee's JSON; none when it is none.
pub fn to_json(report: &[u8]) -> Option<Value> {
    let version = u32::from_le_bytes(field(report, 0)?);
    let turin = version >= 3 && report.get(0x188) == Some(&0x1A);
    let mut json = serde_json::Map::new();
    for (name, at, length) in ARRAYS {
        json.insert(name.to_owned(), json!(report.get(at..at + length)?));
    }
    for (name, at) in WORDS {
        json.insert(name.to_owned(), json!(u32::from_le_bytes(field(report, at)?)));
    }
    for (name, at) in LONGS {
        json.insert(name.to_owned(), json!(u64::from_le_bytes(field(report, at)?)));
    }
    for (name, at) in TCBS {
        json.insert(name.to_owned(), Tcb::from_bytes(field(report, at)?, turin).json());
    }
    for (name, at) in VERSIONS {
        let [build, minor, major] = field(report, at)?;
        json.insert(name.to_owned(), json!({"major": major, "minor": minor, "build": build}));
    }
    for (name, at) in CPUID {
        json.insert(name.to_owned(), json!((version >= 3).then_some(*report.get(at)?)));
    }
    for (name, at) in VECTORS {
        json.insert(name.to_owned(), json!((version >= 5).then_some(u64::from_le_bytes(field(report, at)?))));
    }
    let half = |at: usize| report.get(at..at + HALF).map(|half| json!(half));
    json.insert("signature".to_owned(), json!({"r": half(SIGNATURE)?, "s": half(SIGNATURE + HALF)?}));
    Some(Value::Object(json))
}

/// The report that such JSON was made from.
pub fn from_json(json: &Value) -> Option<Vec<u8>> {
    let mut report = vec![0; REPORT];
    let bytes = |value: &Value, length: usize| {
        let bytes: Option<Vec<u8>> =
            value.as_array()?.iter().map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok())).collect();
        bytes.filter(|bytes| bytes.len() == length)
    };
    for (name, at, length) in ARRAYS {
        put(&mut report, at, &bytes(json.get(name)?, length)?);
    }
    for (name, at) in WORDS {
        put(&mut report, at, &u32::try_from(json.get(name)?.as_u64()?).ok()?.to_le_bytes());
    }
    for (name, at) in LONGS {
        put(&mut report, at, &json.get(name)?.as_u64()?.to_le_bytes());
    }
    for (name, at) in TCBS {
        put(&mut report, at, &Tcb::from_json(json.get(name)?)?.to_bytes());
    }
    for (name, at) in VERSIONS {
        for (member, offset) in [("build", 0), ("minor", 1), ("major", 2)] {
            put(&mut report, at + offset, &[u8::try_from(json.get(name)?.get(member)?.as_u64()?).ok()?]);
        }
    }
    for (name, at) in CPUID {
        let byte = json.get(name).and_then(Value::as_u64).and_then(|byte| u8::try_from(byte).ok());
        put(&mut report, at, &[byte.unwrap_or(0)]);
    }
    for (name, at) in VECTORS {
        put(&mut report, at, &json.get(name).and_then(Value::as_u64).unwrap_or(0).to_le_bytes());
    }
    let signature = json.get("signature")?;
    put(&mut report, SIGNATURE, &bytes(signature.get("r")?, HALF)?);
    put(&mut report, SIGNATURE + HALF, &bytes(signature.get("s")?, HALF)?);
    Some(report)
}
