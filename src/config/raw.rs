//! What a document says, before anything else is known: no defaults, no other source.

mod roles;

use std::time::Duration;

use super::decode::{Decoder, Section};
use super::grammar::{absolute, exact, mode, namespace, sha256, workload};
use super::problem::Origin;
use super::roles::Roles;
use super::types::{
    CEILING_MAX_BYTES, DEFAULT_MAX_BYTES, DEFAULT_MODE, Expect, For, Format, Gate, KbsUrl, LogFormat, RelativePath,
    SecretFile, Source, Via,
};
use crate::formats::kbs_uri::KbsUri;

/// A document, read. `None` where the key is absent or wrong.
#[derive(Debug, Default)]
pub(crate) struct Raw {
    pub(crate) serial: Option<u64>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) audience: Option<For>,
    pub(crate) kbs: RawKbs,
    pub(crate) secrets: RawSecrets,
    pub(crate) level: Option<tracing::Level>,
    pub(crate) format: Option<LogFormat>,
    pub(crate) roles: Roles,
    pub(crate) allow_env: Vec<&'static str>,
}

#[derive(Debug, Default)]
pub(crate) struct RawKbs {
    /// With the key of each, for messages.
    pub(crate) url: Vec<KbsUrl>,
    pub(crate) ca: Option<String>,
    pub(crate) system_roots: bool,
    pub(crate) allow_http: bool,
    pub(crate) via: Option<Vec<Via>>,
    pub(crate) canary: Option<KbsUri>,
}

#[derive(Debug, Default)]
pub(crate) struct RawSecrets {
    pub(crate) directory: Option<std::path::PathBuf>,
    pub(crate) sealed_keys: Vec<KbsUri>,
    pub(crate) refresh: Option<Duration>,
    /// With the key of each (`secrets.file[3]`): one that was not understood leaves a gap.
    pub(crate) files: Vec<(String, SecretFile)>,
    pub(crate) gates: Vec<(String, Gate)>,
}

/// Reads a document. What is wrong with it is in the decoder; what could be read is returned even
/// then, so that later checks can add what they see. `None`: it could not be read at all.
pub(crate) fn read(text: &str, origin: Origin) -> (Decoder, Option<Raw>) {
    let mut decoder = Decoder::new(text, origin);
    let Some(mut top) = decoder.top(text) else { return (decoder, None) };
    let d = &mut decoder;
    let mut raw = Raw::default();
    // Only the one version there is gets through.
    let _version = top.integer(d, "version");
    raw.serial = top.integer(d, "serial");
    raw.deadline = top.duration(d, "deadline");
    raw.audience = top.table(d, "for").and_then(|section| audience(d, section));
    if let Some(section) = top.table(d, "kbs") {
        raw.kbs = kbs(d, section);
    }
    if let Some(section) = top.table(d, "secrets") {
        raw.secrets = secrets(d, section);
    }
    raw.roles = roles::read(d, &mut top);
    if let Some(mut log) = top.table(d, "log") {
        raw.level = log.word(d, "level").and_then(level);
        raw.format = log.word(d, "format").and_then(log_format);
        log.finish(d);
    }
    if let Some(mut overrides) = top.table(d, "overrides") {
        raw.allow_env = overrides.words(d, "allow_env").unwrap_or_default();
        overrides.finish(d);
    }
    top.finish(d);
    (decoder, Some(raw))
}

/// `log.level` and `COUNTERSIGN_LOG`.
pub(crate) fn level(word: &str) -> Option<tracing::Level> {
    word.parse().ok()
}

/// `log.format` and `COUNTERSIGN_LOG_FORMAT`.
pub(crate) fn log_format(word: &str) -> Option<LogFormat> {
    match word {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => None,
    }
}

fn audience(d: &mut Decoder, mut section: Section<'_>) -> Option<For> {
    let namespace = section.text(d, "namespace", namespace);
    let workload = section.text(d, "workload", workload);
    section.finish(d);
    Some(For { namespace: namespace?, workload: workload? })
}

fn kbs(d: &mut Decoder, mut section: Section<'_>) -> RawKbs {
    let raw = RawKbs {
        url: section.texts(d, "url", KbsUrl::parse).unwrap_or_default(),
        ca: section.text(d, "ca", ca),
        system_roots: section.flag(d, "system_roots").unwrap_or_default(),
        allow_http: section.flag(d, "allow_http").unwrap_or_default(),
        via: section.words(d, "via").map(|words| words.into_iter().filter_map(via).collect()),
        canary: section.text(d, "canary", KbsUri::parse),
    };
    section.finish(d);
    raw
}

fn via(word: &str) -> Option<Via> {
    Via::ALL.into_iter().find(|via| via.label() == word)
}

/// Most certificates in `kbs.ca`. A private CA has one root, two while it is being replaced.
const MAX_ROOTS: usize = 32;

/// Checks that a text is PEM with certificates and nothing that should not lie in the open. What
/// the certificates say is judged by the TLS room.
fn ca(text: &str) -> Result<String, &'static str> {
    use rustls_pki_types::pem::{PemObject, SectionKind};
    if text.len() > super::grammar::PEM.max {
        return Err("is longer than 64 KiB");
    }
    let mut roots = 0_usize;
    for block in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
        match block {
            Ok((SectionKind::Certificate, der)) if !der.is_empty() => roots = roots.saturating_add(1),
            Ok((SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey, _)) => {
                return Err("holds a private key, which must not lie in a configuration");
            }
            Ok(_) => return Err("holds a PEM block that is not a certificate"),
            Err(_) => return Err("has a PEM block that cannot be decoded"),
        }
    }
    match roots {
        0 => Err("holds no certificate"),
        1..=MAX_ROOTS => Ok(text.to_owned()),
        _ => Err("holds more than 32 certificates"),
    }
}

/// How many certificates a checked `kbs.ca` holds.
pub(crate) fn count_certificates(pem: &str) -> usize {
    pem.matches("-----BEGIN CERTIFICATE-----").count()
}

fn secrets(d: &mut Decoder, mut section: Section<'_>) -> RawSecrets {
    let directory = section.text(d, "directory", absolute);
    let sealed_keys = section.texts(d, "sealed_keys", KbsUri::parse).unwrap_or_default();
    let refresh = section.duration(d, "refresh");
    let mut files = Vec::new();
    for (key, mut section) in numbered(d, &mut section, "file") {
        if let Some(file) = file(d, &mut section) {
            files.push((key, file));
        }
        section.finish(d);
    }
    let mut gates = Vec::new();
    for (key, mut section) in numbered(d, &mut section, "gate") {
        let (from, equals) = (section.text(d, "from", KbsUri::parse), section.text(d, "equals", exact));
        if let (Some(from), Some(equals)) = (from, equals) {
            gates.push((key, Gate { from, equals }));
        }
        section.finish(d);
    }
    section.finish(d);
    RawSecrets { directory, sealed_keys, refresh, files, gates }
}

fn numbered<'t>(d: &mut Decoder, section: &mut Section<'t>, name: &'static str) -> Vec<(String, Section<'t>)> {
    section.tables(d, name).into_iter().map(|section| (section.path().to_owned(), section)).collect()
}

fn file(d: &mut Decoder, section: &mut Section<'_>) -> Option<SecretFile> {
    let path = section.text(d, "path", RelativePath::parse);
    let from = section.text(d, "from", Source::parse);
    let resource = section.text(d, "resource", KbsUri::parse);
    let mode = section.text(d, "mode", mode).unwrap_or(DEFAULT_MODE);
    let owner = section.integer(d, "owner").and_then(|id| u32::try_from(id).ok());
    let group = section.integer(d, "group").and_then(|id| u32::try_from(id).ok());
    let expect = section.table(d, "expect").map(|section| expect(d, section)).unwrap_or_default();
    Some(SecretFile { path: path?, from: from?, resource, mode, owner, group, expect })
}

fn expect(d: &mut Decoder, mut section: Section<'_>) -> Expect {
    let word = section.word(d, "format").unwrap_or("any");
    let key = section.text(d, "key", RelativePath::parse);
    if key.is_some() && word != "tls-pair" {
        d.problem(
            &section.full("key"),
            "has a meaning only with `format = \"tls-pair\"`",
            "remove `key`, or set `format`",
        );
    }
    let format = match word {
        "utf8" => Format::Utf8,
        "json" => Format::Json,
        "pem" => Format::Pem,
        "tls-pair" => Format::TlsPair { key },
        _ => Format::Any,
    };
    let bytes = |number: Option<u64>| number.and_then(|n| usize::try_from(n).ok());
    let min_bytes = bytes(section.integer(d, "min_bytes"));
    let max_bytes = bytes(section.integer(d, "max_bytes")).unwrap_or(DEFAULT_MAX_BYTES).min(CEILING_MAX_BYTES);
    if min_bytes.is_some_and(|min| min > max_bytes) {
        let message = format!("is more than `max_bytes` ({max_bytes})");
        d.problem(&section.full("min_bytes"), message, "lower `min_bytes`, or raise `max_bytes`");
    }
    let sha256 = section.text(d, "sha256", sha256);
    let equals = section.text(d, "equals", exact);
    let min_bytes = min_bytes.unwrap_or(Expect::default().min_bytes);
    if equals.as_ref().is_some_and(|text| !(min_bytes..=max_bytes).contains(&text.len())) {
        d.problem(&section.full("equals"), "is not within `min_bytes` and `max_bytes`", "correct one of the three");
    }
    section.finish(d);
    Expect { format, min_bytes, max_bytes, sha256, equals }
}
