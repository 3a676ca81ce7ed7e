//! The receipt beside the published files: what was delivered, from where, believed how far.
//! Never a value, a digest or a length.

use serde::Serialize;

use super::fetch::Value;
use crate::config::Config;

#[derive(Serialize)]
struct Receipt<'a> {
    v: u8,
    countersign: &'static str,
    /// Seconds since 1970 by the guest's clock, which the host sets and which has a floor.
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
pub(super) fn write(config: &Config, values: &[Value], via: &'static str, now: u64) -> Vec<u8> {
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
        via,
        serial: config.serial,
        files,
    };
    let mut bytes = serde_json::to_vec_pretty(&receipt).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// What an earlier receipt says of the configuration behind it. `None` where it is not one of ours.
pub(super) fn serial(receipt: &[u8]) -> Option<u64> {
    serde_json::from_slice::<serde_json::Value>(receipt).ok()?.get("serial")?.as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Via};
    use crate::formats::delivery::Delivery;
    use crate::secret::Secret;

    #[test]
    fn a_receipt_is_read_as_it_was_written() {
        let config = config::parse(
            "version = 1\nserial = 7\n[secrets]\ndirectory = \"/run/s\"\n[[secrets.file]]\npath = \"db/password\"\n\
             from = \"kbs:///payments/db/password\"\nmode = \"0400\"\n",
        );
        let value = Value { bytes: Secret::new(b"hush".to_vec()), origin: "kbs:///payments/db/password".to_owned() };
        let read = Delivery::parse(&write(&config.unwrap(), &[value], "cdh", 60)).unwrap();
        assert_eq!((read.written, read.via, read.serial), (60, Via::Cdh, 7));
        assert_eq!(read.countersign, env!("CARGO_PKG_VERSION"));
        let [file] = &read.files[..] else { panic!("one file") };
        assert_eq!((file.path.as_str(), file.mode), ("db/password", 0o400));
        assert_eq!(file.from, "kbs:///payments/db/password");
    }

    #[test]
    fn a_receipt_says_its_serial_to_a_later_run() {
        let config =
            config::parse("version = 1\nserial = 7\n[[secrets.gate]]\nfrom = \"kbs:///a/b/c\"\nequals = \"x\"\n");
        let receipt = write(&config.unwrap(), &[], "cdh", 0);
        assert_eq!(serial(&receipt), Some(7));
        for other in [&b""[..], b"{}", b"{\"serial\":-1}", b"[7]"] {
            assert_eq!(serial(other), None);
        }
    }
}
