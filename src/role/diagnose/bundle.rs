//! `--bundle FILE.tar.gz`: what a colleague or a maintainer may read.
//!
//! It is built from a list of what may be printed. All else is there by its name and the class of its
//! length, so that nobody has to guess which of the rest is a secret. No token, cookie, evidence, key or
//! id of the hardware is ever at hand here: the walk keeps none.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::config::{self, Config};
use crate::finding::{Class, Finding, printable};
use crate::ports::Ports;

/// Variables whose values are printed: they name a role, a level, a workload.
const VARIABLES: [&str; 7] = [
    "COUNTERSIGN_ROLE",
    "COUNTERSIGN_LOG",
    "COUNTERSIGN_LOG_FORMAT",
    "COUNTERSIGN_DEADLINE",
    "COUNTERSIGN_NAMESPACE",
    "COUNTERSIGN_WORKLOAD",
    "KUBERNETES_SERVICE_PORT",
];

/// Keys of the configuration whose values are printed, without the places in lists.
const KEYS: [&str; 32] = [
    "serial",
    "deadline",
    "drain",
    "for.namespace",
    "for.workload",
    "kbs.url",
    "kbs.system_roots",
    "kbs.allow_http",
    "kbs.via",
    "secrets.directory",
    "secrets.refresh",
    "secrets.file.path",
    "secrets.file.mode",
    "secrets.file.owner",
    "secrets.file.group",
    "secrets.file.expect.format",
    "secrets.file.expect.min_bytes",
    "secrets.file.expect.max_bytes",
    "identity.source",
    "identity.lifetime",
    "peers.trust",
    "peers.refresh",
    "peers.evidence.max_age",
    "inbound.listen",
    "inbound.protocol",
    "inbound.forward_identity",
    "inbound.response_timeout",
    "inbound.exposure",
    "health.listen",
    "metrics.listen",
    "log.level",
    "log.format",
];

/// Bytes of a tar header and of its blocks (POSIX.1-2001, ustar).
const BLOCK: usize = 512;

/// Writes the bundle into a new file that only we may read.
pub(super) fn write(file: &Path, ports: &Ports, config: Option<&Config>, walk: &Value) -> Result<(), Finding> {
    let refuse = |error: &std::io::Error| {
        Finding::new(Class::Usage, format!("the bundle {} cannot be written: {}", file.display(), error.kind()))
            .why("it is made anew, and nothing is overwritten")
            .next("name a file that does not exist, in a directory that you may write to, with --bundle")
    };
    let mut walk = serde_json::to_string_pretty(walk).unwrap_or_default();
    walk.push('\n');
    let texts = [
        ("about.txt", ABOUT.to_owned()),
        ("diagnose.json", walk),
        ("environment.txt", environment(ports)),
        ("configuration.txt", config.map_or_else(|| "none was read\n".to_owned(), configuration)),
    ];
    let mut tar = Vec::new();
    for (name, text) in &texts {
        entry(&mut tar, name, text.as_bytes());
    }
    tar.resize(tar.len().saturating_add(2 * BLOCK), 0);
    let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let mut gzip = GzEncoder::new(open.map_err(|error| refuse(&error))?, Compression::default());
    gzip.write_all(&tar).and_then(|()| gzip.try_finish()).map_err(|error| refuse(&error))
}

const ABOUT: &str = "Written by `countersign diagnose --bundle`. Values stand here where a list in the program\n\
                     allows them; all else is a name and how long its value is. docs/diagnose.md says which.\n";

fn environment(ports: &Ports) -> String {
    let mut text = String::new();
    for (name, value) in &ports.env {
        let allowed = VARIABLES.iter().any(|allowed| name == allowed);
        let value = if allowed {
            printable(&value.to_string_lossy(), 120)
        } else {
            length(value.as_encoded_bytes().len()).to_owned()
        };
        let _ = writeln!(text, "{} = {value}", printable(&name.to_string_lossy(), 120));
    }
    text
}

fn configuration(config: &Config) -> String {
    let mut text = format!("provenance = {}\n", config.provenance);
    for (key, value) in config::explain::values(config) {
        // What is not set says so.
        let shown = value == "-" || KEYS.contains(&general(&key).as_str());
        let value = if shown { value } else { length(value.len()).to_owned() };
        let _ = writeln!(text, "{key} = {value}");
    }
    text
}

/// A key without its places in lists: `inbound[0].listen` is `inbound.listen`.
fn general(key: &str) -> String {
    let mut general = String::with_capacity(key.len());
    let mut inside = false;
    for c in key.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            c if !inside => general.push(c),
            _ => {}
        }
    }
    general
}

/// How long something is, roughly: an exact length may tell one password from another.
fn length(bytes: usize) -> &'static str {
    match bytes {
        0 => "(empty)",
        1..=16 => "(up to 16 bytes)",
        17..=64 => "(17 to 64 bytes)",
        65..=256 => "(65 to 256 bytes)",
        257..=4096 => "(257 to 4096 bytes)",
        _ => "(more than 4096 bytes)",
    }
}

/// One file as ustar has it: a header of 512 bytes, and the content filled up to the next block.
fn entry(tar: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    let size = format!("{:011o}\0", bytes.len());
    let fields: [(usize, &[u8]); 9] = [
        (0, name.as_bytes()),
        (100, b"0000600\0"),
        (108, b"0000000\0"),
        (116, b"0000000\0"),
        (124, size.as_bytes()),
        (136, b"00000000000\0"),
        // While it is summed up, the sum itself is blanks.
        (148, b"        "),
        (156, b"0"),
        (257, b"ustar\x0000"),
    ];
    let mut header = [0_u8; BLOCK];
    put_all(&mut header, &fields);
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    put_all(&mut header, &[(148, format!("{sum:06o}\0 ").as_bytes())]);
    tar.extend_from_slice(&header);
    tar.extend_from_slice(bytes);
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
}

fn put_all(header: &mut [u8; BLOCK], fields: &[(usize, &[u8])]) {
    for (at, bytes) in fields {
        for (place, byte) in header.iter_mut().skip(*at).zip(*bytes) {
            *place = *byte;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_not_on_the_list_is_only_its_length() {
        let mut config = config::parse(
            "version = 1\n[[secrets.file]]\npath = \"a\"\nfrom = \"kbs:///c4n4ry/x/y\"\nexpect = { equals = \"c4n4ry\" }\n",
        )
        .unwrap();
        config.kbs.ca = Some("c4n4ry".to_owned());
        let printed = configuration(&config);
        assert!(!printed.contains("c4n4ry"), "{printed}");
        assert!(printed.contains("secrets.file[0].path = a\n"), "{printed}");
        assert!(printed.contains("secrets.file[0].from = (17 to 64 bytes)\n"), "{printed}");
    }

    #[test]
    fn a_key_is_allowed_wherever_it_stands_in_a_list() {
        assert_eq!(general("secrets.file[12].expect.format"), "secrets.file.expect.format");
        assert_eq!(general("serial"), "serial");
    }
}
