//! What a peer states about the connection it is on, and signs with the key that was attested: the
//! object of `docs/protocol.md` §4.
//!
//! A key in evidence says who made the key, not who is at the other end of this connection: whoever
//! holds a leaked TLS key could pass the evidence of a live peer on. So each statement names the
//! certificate (`spki`, `names`), the verifier's challenge (`nonce`) and the session's own secret
//! (`exporter`). A statement of another session, or of the other side, is never the expected one.

use std::fmt;

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::json;
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
use x509_parser::parse_x509_certificate;

use super::{jcs, json};

/// Bytes of a nonce, of an exporter's value, and of SHA-256.
pub const LENGTH: usize = 32;

/// Label of the TLS exporter (RFC 8446 §7.5), with the verifier's nonce as its context. Labels that
/// nobody registered begin with `EXPERIMENTAL` (RFC 5705 §4).
pub const EXPORTER_LABEL: &[u8] = b"EXPERIMENTAL-countersign/1";

/// Stands before a statement when it is signed. The same key signs TLS handshakes and certificates:
/// none of those begins with these bytes.
pub const DOMAIN: &[u8] = b"countersign/1 statement\0";

/// Stands before a statement when the hardware reports over it.
const REPORT_DOMAIN: &[u8] = b"countersign/1 report\0";

/// Most bytes of a statement: all its members have fixed lengths, which come to 321 at most.
pub const MAX_BYTES: usize = 512;

/// Before a hash, so that another one could take its place in a later version.
const HASH: &str = "sha256:";

/// The version that is spoken.
const VERSION: u64 = 1;

/// Who states it. A statement that comes back to its own maker has the wrong one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The side that connected.
    ChannelClient,
    /// The side that was connected to.
    ChannelServer,
    /// Whoever wants a certificate from the issuer that it is connected to.
    Issue,
}

impl Purpose {
    fn label(self) -> &'static str {
        match self {
            Self::ChannelClient => "channel-client",
            Self::ChannelServer => "channel-server",
            Self::Issue => "issue",
        }
    }
}

/// The certificate that a side shows in TLS, or that it wants, as statements name it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LeafBinding {
    /// SHA-256 of its `SubjectPublicKeyInfo`, DER, as it stands in the certificate.
    pub spki: [u8; LENGTH],
    /// SHA-256 of its `subjectAltName` extension's value, DER, as it stands in the certificate; of the
    /// payload of the frame `names` where it is only wanted.
    pub names: [u8; LENGTH],
}

/// A statement.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Statement {
    /// Who states it.
    pub purpose: Purpose,
    /// The certificate that whoever states it shows.
    pub leaf: LeafBinding,
    /// The challenge of whoever it is stated to.
    pub nonce: [u8; LENGTH],
    /// What the session exports for that challenge.
    pub exporter: [u8; LENGTH],
}

/// Why bytes are no statement, or not the expected one. Each message continues "the statement …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Over [`MAX_BYTES`].
    #[error("is longer than 512 bytes")]
    TooLong,
    /// Not one JSON object with exactly the six members, each of its type, each once.
    #[error("is not one JSON object with exactly its six members")]
    Form,
    /// Another version.
    #[error("is of another version")]
    Version,
    /// Another purpose than those.
    #[error("has a `purpose` that is not known")]
    Purpose,
    /// A value that is not 32 bytes of base64url, with `sha256:` before hashes.
    #[error("has a `{0}` that is not 32 bytes in base64url")]
    Value(&'static str),
    /// The same object, written in another way.
    #[error("is not in its canonical form")]
    NotCanonical,
    /// A member is not the expected one.
    #[error("is for another `{0}`")]
    Other(&'static str),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    v: u64,
    purpose: String,
    spki: String,
    nonce: String,
    exporter: String,
    names: String,
}

impl LeafBinding {
    /// Of a certificate, DER. `None` where it cannot be read, or names nobody.
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(certificate).ok()?;
        let names = certificate.get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME).ok()??;
        Some(Self { spki: sha256(certificate.public_key().raw), names: sha256(names.value) })
    }

    /// Of a certificate that is wanted: for this key (`SubjectPublicKeyInfo`, DER) and these names.
    pub fn of_wanted(spki: &[u8], names: &[u8]) -> Self {
        Self { spki: sha256(spki), names: sha256(names) }
    }
}

impl Statement {
    /// Parses, strictly: what is accepted is exactly what [`Statement::canonical`] writes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::TooLong);
        }
        let raw: Raw = json::object(bytes).ok_or(Error::Form)?;
        if raw.v != VERSION {
            return Err(Error::Version);
        }
        let purposes = [Purpose::ChannelClient, Purpose::ChannelServer, Purpose::Issue];
        let purpose = purposes.into_iter().find(|purpose| purpose.label() == raw.purpose).ok_or(Error::Purpose)?;
        let hash = |name, text: &str| bytes32(name, text.strip_prefix(HASH).unwrap_or_default());
        let statement = Self {
            purpose,
            leaf: LeafBinding { spki: hash("spki", &raw.spki)?, names: hash("names", &raw.names)? },
            nonce: bytes32("nonce", &raw.nonce)?,
            exporter: bytes32("exporter", &raw.exporter)?,
        };
        if statement.canonical() == bytes { Ok(statement) } else { Err(Error::NotCanonical) }
    }

    /// Its bytes: canonical JSON (RFC 8785).
    pub fn canonical(&self) -> Vec<u8> {
        let text = |bytes: &[u8; LENGTH]| URL_SAFE_NO_PAD.encode(bytes);
        let value = json!({
            "v": VERSION,
            "purpose": self.purpose.label(),
            "spki": format!("{HASH}{}", text(&self.leaf.spki)),
            "nonce": text(&self.nonce),
            "exporter": text(&self.exporter),
            "names": format!("{HASH}{}", text(&self.leaf.names)),
        });
        // `None` is for numbers without an exact form only, and the version has one.
        jcs::canonical(&value).unwrap_or_default()
    }

    /// What is signed, ES256: [`DOMAIN`], then the canonical bytes.
    pub fn signing_input(&self) -> Vec<u8> {
        [DOMAIN, &self.canonical()].concat()
    }

    /// What the hardware is asked to report over: SHA-512 of `countersign/1 report`, a zero byte and the
    /// canonical bytes, as wide as the field of SEV-SNP and TDX.
    pub fn report_data(&self) -> [u8; 64] {
        let hash = digest(&SHA512, &[REPORT_DOMAIN, &self.canonical()].concat());
        // SHA-512 has 64 bytes; zeros are no hash of anything.
        hash.as_ref().try_into().unwrap_or([0; 64])
    }

    /// Holds it to the expected one, and says in which member it differs.
    pub fn is(&self, expected: &Self) -> Result<(), Error> {
        let pairs = [
            ("purpose", self.purpose == expected.purpose),
            ("spki", self.leaf.spki == expected.leaf.spki),
            ("names", self.leaf.names == expected.leaf.names),
            ("nonce", self.nonce == expected.nonce),
            ("exporter", self.exporter == expected.exporter),
        ];
        pairs.into_iter().find(|(_, same)| !same).map_or(Ok(()), |(name, _)| Err(Error::Other(name)))
    }
}

/// Names nothing but its purpose: the exporter's value is the session's.
impl fmt::Debug for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Statement").field("purpose", &self.purpose).finish_non_exhaustive()
    }
}

impl fmt::Debug for LeafBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeafBinding")
    }
}

fn sha256(bytes: &[u8]) -> [u8; LENGTH] {
    let mut hash = [0; LENGTH];
    for (to, from) in hash.iter_mut().zip(digest(&SHA256, bytes).as_ref()) {
        *to = *from;
    }
    hash
}

fn bytes32(name: &'static str, text: &str) -> Result<[u8; LENGTH], Error> {
    URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(Error::Value(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn statement() -> Statement {
        Statement {
            purpose: Purpose::ChannelServer,
            leaf: LeafBinding { spki: [1; 32], names: [2; 32] },
            nonce: [3; 32],
            exporter: [4; 32],
        }
    }

    fn text() -> String {
        String::from_utf8(statement().canonical()).unwrap()
    }

    #[test]
    fn a_statement_has_these_bytes() {
        assert_eq!(
            text(),
            "{\"exporter\":\"BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ\",\
             \"names\":\"sha256:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI\",\
             \"nonce\":\"AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM\",\"purpose\":\"channel-server\",\
             \"spki\":\"sha256:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE\",\"v\":1}"
        );
        assert_eq!(Statement::parse(text().as_bytes()), Ok(statement()));
        assert!(statement().signing_input().starts_with(b"countersign/1 statement\0{\"exporter\""));
    }

    #[test]
    fn what_is_not_exactly_a_statement_is_refused() {
        let with = |from: &str, to: &str| {
            assert!(text().contains(from), "{from}");
            Statement::parse(text().replace(from, to).as_bytes())
        };
        assert_eq!(with("\"v\":1", "\"v\":1,\"x\":1"), Err(Error::Form), "an unknown member");
        assert_eq!(with("\"v\":1", "\"v\":1,\"v\":1"), Err(Error::Form), "a member twice");
        assert_eq!(with("\"v\":1", "\"v\":\"1\""), Err(Error::Form), "a member of another type");
        assert_eq!(with(",\"v\":1", ""), Err(Error::Form), "a member missing");
        assert_eq!(with("\"v\":1", "\"v\":2"), Err(Error::Version));
        assert_eq!(with("channel-server", "tls-cert"), Err(Error::Purpose));
        assert!(
            with("channel-server", "issue").is_ok_and(|other| other.is(&statement()) == Err(Error::Other("purpose")))
        );
        assert_eq!(with("\"BAQ", "\"BAQA"), Err(Error::Value("exporter")), "longer");
        assert_eq!(with("\"AwMD", "\""), Err(Error::Value("nonce")), "shorter");
        assert_eq!(with("sha256:AQ", "sha384:AQ"), Err(Error::Value("spki")), "another hash");
        assert_eq!(with("sha256:Ag", "Ag"), Err(Error::Value("names")), "no hash named");
        assert_eq!(with(",\"v\"", ", \"v\""), Err(Error::NotCanonical));
        assert_eq!(with("channel-server", "channel-serve\\u0072"), Err(Error::NotCanonical));
        assert_eq!(Statement::parse(b"[1,\"channel-server\"]"), Err(Error::Form));
        assert_eq!(Statement::parse(&[b' '; MAX_BYTES + 1]), Err(Error::TooLong));
    }

    #[test]
    fn a_statement_of_anything_else_is_told_by_its_member() {
        let other = |change: &dyn Fn(&mut Statement)| {
            let mut other = statement();
            change(&mut other);
            other.is(&statement()).unwrap_err()
        };
        assert_eq!(statement().is(&statement()), Ok(()));
        assert_eq!(other(&|it| it.purpose = Purpose::ChannelClient), Error::Other("purpose"), "our own, reflected");
        assert_eq!(other(&|it| it.leaf.spki = [9; 32]), Error::Other("spki"));
        assert_eq!(other(&|it| it.leaf.names = [9; 32]), Error::Other("names"));
        assert_eq!(other(&|it| it.nonce = [9; 32]), Error::Other("nonce"));
        assert_eq!(other(&|it| it.exporter = [9; 32]), Error::Other("exporter"));
    }

    #[test]
    fn a_leaf_is_named_by_its_key_and_its_names_as_they_stand_in_it() {
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = |names: Vec<String>| {
            rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap().der().to_vec()
        };
        let one = LeafBinding::of(&leaf(vec!["a.example".to_owned()])).unwrap();
        let other = LeafBinding::of(&leaf(vec!["b.example".to_owned()])).unwrap();
        assert_eq!(one.spki, other.spki);
        assert_ne!(one.names, other.names);
        assert_eq!(one.spki, sha256(&rcgen::PublicKeyData::subject_public_key_info(&key)));
        assert_eq!(LeafBinding::of(&leaf(vec![])), None, "nobody's");
        assert_eq!(LeafBinding::of(b"x"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Statement::parse(&bytes);
        }

        #[test]
        fn what_is_written_is_read(spki: [u8; 32], names: [u8; 32], nonce: [u8; 32], exporter: [u8; 32]) {
            let leaf = LeafBinding { spki, names };
            let statement = Statement { purpose: Purpose::ChannelClient, leaf, nonce, exporter };
            let bytes = statement.canonical();
            prop_assert!(bytes.len() <= MAX_BYTES);
            prop_assert_eq!(Statement::parse(&bytes), Ok(statement));
        }
    }
}
