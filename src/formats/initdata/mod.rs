//! Initdata: the measured configuration of a confidential pod, in the three forms it travels in.
//!
//! * TOML, as it lies in the guest and in a mounted `ConfigMap`;
//! * gzip of it;
//! * standard base64 of that gzip: the value of the pod annotation
//!   `io.katacontainers.config.hypervisor.cc_init_data`.
//!
//! The hardware vouches for the digest of the exact TOML bytes, so those are kept as they came.
//! Parsing proves nothing: whether it is *this* guest's initdata is for others to check.
//!
//! Source: the initdata specification of CoCo, and what Kata and Trustee accept where they differ
//! from it.

use std::collections::BTreeMap;
use std::io::Read as _;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

mod content;
pub mod launch;
mod policy;

pub use content::Content;
pub use policy::{AgentPolicy, policy_data};

/// Most bytes of the compressed form, 1 MiB: annotations of a pod are limited to 256 KiB together,
/// a `ConfigMap` to 1 MiB.
pub const MAX_COMPRESSED: usize = 1024 * 1024;

/// Most bytes of the TOML, 4 MiB: a generated agent policy has 60 KiB and packs 10:1. The bound is
/// on what a small file may unfold to.
pub const MAX_TOML: usize = 4 * 1024 * 1024;

/// Base64 of gzip always starts so: 1f 8b 08. No TOML of ours does.
const BASE64_OF_GZIP: &[u8] = b"H4sI";

/// First bytes of gzip (RFC 1952).
const GZIP: &[u8] = &[0x1f, 0x8b];

/// The only version there is.
const VERSION: &str = "0.1.0";

/// A parsed initdata document.
#[derive(Clone, Debug)]
pub struct Initdata {
    toml: String,
    algorithm: Algorithm,
    data: BTreeMap<String, String>,
}

/// How the document says its digest is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `sha256`; the one that Azure's vTPM needs.
    Sha256,
    /// `sha384`; on SNP the first 32 of its 48 bytes are what the hardware holds.
    Sha384,
    /// `sha512`; the one that Arm CCA needs.
    Sha512,
}

impl Algorithm {
    /// `sha256`, `sha384` or `sha512`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }
}

/// A KBS as the guest's own services are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KbsEndpoint {
    /// Its URL, as written; not checked.
    pub url: String,
    /// PEM of the certificate that it is trusted by, as written. The guest's services *add* it to
    /// the web's roots.
    pub cert: Option<String>,
}

/// Why bytes are not initdata. Each message continues "the initdata …" and quotes nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing there.
    #[error("is empty")]
    Empty,
    /// Compressed form over [`MAX_COMPRESSED`].
    #[error("is longer than 1 MiB in its compressed form")]
    CompressedTooLong,
    /// TOML over [`MAX_TOML`].
    #[error("is longer than 4 MiB of TOML")]
    TooLong,
    /// The annotation's form is damaged.
    #[error("starts like base64 of gzip, but is not standard base64 with padding on one line")]
    Base64,
    /// The gzip is damaged, or something stands behind it.
    #[error("starts like gzip, but is damaged, cut off, or followed by something else")]
    Gzip,
    /// Not text.
    #[error("is not text in UTF-8")]
    NotText,
    /// Not the TOML it must be; with the line, counted from 1, where that is known.
    #[error("is not TOML with `algorithm`, `version` and a table `data` of texts{}", at_line(*.line))]
    Toml {
        /// Line of the first fault.
        line: Option<usize>,
    },
    /// The version is another.
    #[error("has a `version` other than \"0.1.0\"")]
    Version,
    /// `sha-256` and the like: the specification's spelling, which no implementation accepts.
    #[error("spells its `algorithm` with a hyphen; write sha256, sha384 or sha512: Kata and Trustee refuse sha-256")]
    HyphenatedAlgorithm,
    /// Another algorithm.
    #[error("has an `algorithm` other than sha256, sha384 and sha512")]
    Algorithm,
    /// A document inside is not TOML.
    #[error("holds a {0} that is not valid TOML, or whose KBS url or certificate is not text")]
    Inner(&'static str),
}

/// Other members are let be: Kata and Trustee do, and some put a name of the pod there for the
/// KBS's policy. They are measured like everything else.
#[derive(Deserialize)]
struct Raw {
    algorithm: String,
    version: String,
    data: BTreeMap<String, String>,
}

impl Initdata {
    /// Parses any of the three forms. A newline behind the base64 is accepted, since every editor
    /// and `base64` itself write one.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        Self::parse_toml(plain(bytes)?)
    }

    fn parse_toml(toml: String) -> Result<Self, Error> {
        if toml.trim_ascii().is_empty() {
            return Err(Error::Empty);
        }
        let raw: Raw = toml::from_str(&toml).map_err(|error| Error::Toml { line: line_of(&toml, &error) })?;
        if raw.version != VERSION {
            return Err(Error::Version);
        }
        let algorithm = match raw.algorithm.as_str() {
            "sha256" => Algorithm::Sha256,
            "sha384" => Algorithm::Sha384,
            "sha512" => Algorithm::Sha512,
            other if other.to_ascii_lowercase().starts_with("sha-") => return Err(Error::HyphenatedAlgorithm),
            _ => return Err(Error::Algorithm),
        };
        Ok(Self { toml, algorithm, data: raw.data })
    }

    /// The exact TOML, byte for byte as it came (uncompressed).
    pub fn toml(&self) -> &str {
        &self.toml
    }

    /// What `algorithm` says.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Digest of the exact TOML bytes under `algorithm`: 32, 48 or 64 bytes. What the hardware
    /// holds is this, cut or padded with zeros to the width of its field.
    pub fn digest(&self) -> Vec<u8> {
        let algorithm = match self.algorithm {
            Algorithm::Sha256 => &digest::SHA256,
            Algorithm::Sha384 => &digest::SHA384,
            Algorithm::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, self.toml.as_bytes()).as_ref().to_vec()
    }

    /// One entry of the table `data`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.data.get(name).map(String::as_str)
    }

    /// The names in the table `data`, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.data.keys().map(String::as_str)
    }

    /// Our own configuration, `countersign.toml`, if it is in there.
    pub fn countersign(&self) -> Option<&str> {
        self.get("countersign.toml")
    }

    /// The policy of the Kata agent, `policy.rego`, if it is in there.
    pub fn policy(&self) -> Option<&str> {
        self.get("policy.rego")
    }

    /// What kind of policy that is, told from its text.
    pub fn agent_policy(&self) -> AgentPolicy {
        AgentPolicy::of(self.policy())
    }

    /// The KBS that the attestation agent attests to: `[token_configs.kbs]` of `aa.toml`.
    pub fn aa_kbs(&self) -> Result<Option<KbsEndpoint>, Error> {
        self.endpoint("aa.toml", &["token_configs", "kbs"], "cert")
    }

    /// The KBS that the confidential data hub fetches from: `[kbc]` of `cdh.toml`.
    pub fn cdh_kbs(&self) -> Result<Option<KbsEndpoint>, Error> {
        self.endpoint("cdh.toml", &["kbc"], "kbs_cert")
    }

    /// The KBS of this guest: the data hub's, else the attestation agent's. `None` also where the
    /// documents cannot be read; ask for one of them to learn why.
    pub fn kbs(&self) -> Option<KbsEndpoint> {
        [self.cdh_kbs(), self.aa_kbs()].into_iter().find_map(|found| found.ok().flatten())
    }

    fn endpoint(&self, document: &'static str, tables: &[&str], cert: &str) -> Result<Option<KbsEndpoint>, Error> {
        let Some(text) = self.get(document) else { return Ok(None) };
        let root: toml::Table = text.parse().map_err(|_| Error::Inner(document))?;
        let mut table = &root;
        for name in tables {
            match table.get(*name) {
                Some(toml::Value::Table(inner)) => table = inner,
                Some(_) => return Err(Error::Inner(document)),
                None => return Ok(None),
            }
        }
        let text = |key: &str| match table.get(key) {
            None => Ok(None),
            Some(toml::Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.trim().is_empty())),
            Some(_) => Err(Error::Inner(document)),
        };
        let cert = text(cert)?;
        Ok(text("url")?.map(|url| KbsEndpoint { url, cert }))
    }
}

/// The TOML text of any of the three forms, not parsed yet.
pub fn plain(bytes: &[u8]) -> Result<String, Error> {
    let toml = if bytes.starts_with(GZIP) {
        inflate(bytes)?
    } else if bytes.starts_with(BASE64_OF_GZIP) {
        inflate(&unbase64(bytes)?)?
    } else if bytes.len() > MAX_TOML {
        return Err(Error::TooLong);
    } else {
        bytes.to_vec()
    };
    String::from_utf8(toml).map_err(|_| Error::NotText)
}

fn at_line(line: Option<usize>) -> String {
    line.map(|line| format!(" (line {line})")).unwrap_or_default()
}

/// The parser's own message quotes the text; its place does not.
fn line_of(toml: &str, error: &toml::de::Error) -> Option<usize> {
    let before = toml.as_bytes().get(..error.span()?.start)?;
    Some(before.split(|byte| *byte == b'\n').count())
}

fn unbase64(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    // Four characters stand for three bytes.
    if text.len() / 4 > MAX_COMPRESSED / 3 {
        return Err(Error::CompressedTooLong);
    }
    STANDARD.decode(text).map_err(|_| Error::Base64)
}

fn inflate(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    if bytes.len() > MAX_COMPRESSED {
        return Err(Error::CompressedTooLong);
    }
    let limit = u64::try_from(MAX_TOML).unwrap_or(u64::MAX).saturating_add(1);
    let mut reader = flate2::bufread::GzDecoder::new(bytes).take(limit);
    let mut out = Vec::new();
    reader.read_to_end(&mut out).map_err(|_| Error::Gzip)?;
    if out.len() > MAX_TOML {
        return Err(Error::TooLong);
    }
    // Kata's decoder reads a row of gzip members as one text, ours only the first. What is read
    // twice must not be read differently.
    if !reader.into_inner().into_inner().is_empty() {
        return Err(Error::Gzip);
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
