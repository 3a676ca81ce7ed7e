//! `kubectl countersign initdata …`: written, packed, compared and checked by the people who own
//! what the hardware commits to.
//!
//! Initdata holds no secrets: the KBS and every verifier see it whole. So these tools may show it.

pub mod check;
mod configmap;
mod dialect;
mod diff;
mod digest;
mod new;
pub(super) mod pack;
mod unpack;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write as _};
use std::path::Path;

pub(super) use self::configmap::configmaps;
use super::Output;
use crate::cli::Initdata as Command;
use crate::finding::{Class, Finding};
use crate::formats::initdata::{Initdata, MAX_TOML};
use crate::ports::Ports;

pub(super) fn run(ports: &Ports, command: &Command) -> Result<Output, Finding> {
    match command {
        Command::New(arguments) => new::run(arguments),
        Command::Pack { file } => pack::run(file).map(Output::text),
        Command::Unpack { file, to } => unpack::run(file, to.as_deref()),
        Command::Check(arguments) => check::run(arguments, ports.clock.now()),
        Command::Digest { file, format } => digest::run(file, *format).map(Output::text),
        Command::Diff { old, new } => diff::run(old, new),
        Command::Configmap(arguments) => configmap::run(arguments),
    }
}

/// Reads a file, or standard input for `-`, of at most [`MAX_TOML`] bytes: no form of initdata is
/// longer, and no manifest should be. What does not end (a device, a pipe) is cut off and refused.
fn read(path: &Path) -> Result<Vec<u8>, Finding> {
    let limit = u64::try_from(MAX_TOML).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let ended = if path.as_os_str() == "-" {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    ended.map_err(|error| {
        refuse(format!("{} cannot be read: {}", path.display(), error.kind()))
            .next(format!("correct the path {}", path.display()))
    })?;
    if bytes.len() > MAX_TOML {
        return Err(refuse(format!("{} is longer than 4 MiB", path.display()))
            .next(format!("correct the path {}: nothing that is read here is that long", path.display())));
    }
    Ok(bytes)
}

/// The same, as text.
pub(super) fn read_text(path: &Path) -> Result<String, Finding> {
    String::from_utf8(read(path)?).map_err(|_| {
        refuse(format!("{} is not text in UTF-8", path.display()))
            .next(format!("write {} as plain text", path.display()))
    })
}

/// The same, parsed.
pub(super) fn load(path: &Path) -> Result<Initdata, Finding> {
    Initdata::parse(&read(path)?).map_err(|error| {
        Finding::new(Class::Config, format!("{}: the initdata {error}", path.display()))
            .why("Kata, the attestation agent and Trustee would refuse it too, or crash on it")
            .next(format!("run `kubectl countersign initdata check {}` and correct what it names", path.display()))
    })
}

/// Writes a file that is not there yet.
fn write_new(path: &Path, text: &str) -> Result<(), Finding> {
    let created = OpenOptions::new().write(true).create_new(true).open(path);
    created.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| {
        refuse(format!("{} cannot be written: {}", path.display(), error.kind()))
            .why("nothing is overwritten, so that nobody's edits are lost")
            .next(format!("name another place than {}", path.display()))
    })
}

fn refuse(saw: String) -> Finding {
    Finding::new(Class::Usage, saw)
        .why("initdata is what the hardware vouches for: it is written from checked parts only")
        .next("run `kubectl countersign initdata --help` and correct the command")
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len().saturating_mul(2)), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
