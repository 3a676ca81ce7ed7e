//! A signed receipt, `docs/protocol.md` §9: what was delivered to a guest, from where, believed how far,
//! signed by the key that was attested, beside the attestation result that names it.
//!
//! Never a value, a digest or a length. Whoever asks may send a nonce, so that an old answer cannot be
//! shown again.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::frames::{MAX_EVIDENCE, SIGNATURE};
use super::kbs_uri::KbsUri;
use super::{jcs, json};
use crate::config::grammar;
use crate::config::keys::MAX_FILES;
use crate::config::spiffe::PeerId;
use crate::config::{Provenance, RelativePath, Via};

/// Bytes of a nonce.
pub const NONCE: usize = 32;

/// Stands before a receipt when it is signed. The same key signs statements, TLS handshakes and
/// certificates: none of those begins with these bytes.
pub const DOMAIN: &[u8] = b"countersign/1 receipt\0";

/// Most bytes of a signed receipt, 1 MiB: 683 KiB of it in base64url, and 256 KiB of attestation result.
pub const MAX_BYTES: usize = 1024 * 1024;

/// Most bytes of the canonical receipt, and of the published file, 512 KiB: 256 files with paths of 512
/// bytes and origins of 826 have 350 KiB.
pub const MAX_RECEIPT: usize = 512 * 1024;

/// The version that is spoken.
const VERSION: u64 = 1;

/// Longest name of a countersign version, bytes. A bound of ours.
const MAX_VERSION: usize = 64;

/// Before the resource of a value that came sealed.
const SEALED: &str = "sealed secret for ";

/// The receipt that lies beside the published files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Version of the countersign that published.
    pub countersign: String,
    /// When, seconds since 1970 by the guest's clock.
    pub written: u64,
    /// How far the configuration was believed.
    pub provenance: Provenance,
    /// By which road the values came.
    pub via: Via,
    /// Of the configuration.
    pub serial: u64,
    /// What was published: no path twice.
    pub files: Vec<DeliveredFile>,
}

/// One file of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveredFile {
    /// Below the secrets' directory.
    pub path: RelativePath,
    /// `kbs:///…`, or `sealed secret for kbs:///…`.
    pub from: String,
    /// Permission bits, at most 0777, not writable for others.
    pub mode: u32,
}

/// What is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// What was delivered, as it was published.
    pub delivered: Delivery,
    /// Who the guest is to its peers.
    pub id: PeerId,
    /// The challenge of whoever asked, where there was one.
    pub nonce: Option<[u8; NONCE]>,
    /// When it was signed, seconds since 1970 by the guest's clock.
    pub signed: u64,
}

/// A receipt, its signature, and the attestation result that names the key. Nothing of it is believed yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Signed {
    /// What it says.
    pub receipt: Receipt,
    /// ES256 over [`Receipt::signing_input`], r then s.
    pub signature: [u8; SIGNATURE],
    /// Compact JWS. A bearer token until its `exp`.
    pub ear: String,
}

/// Why bytes are no receipt. Each message continues "the receipt …" and quotes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Over [`MAX_BYTES`], or [`MAX_RECEIPT`].
    #[error("is longer than a receipt can be (1 MiB signed, 512 KiB by itself)")]
    TooLong,
    /// Not one JSON object with exactly its members, each of its type, each once.
    #[error("is not one JSON object with exactly its members")]
    Form,
    /// Another version.
    #[error("is of another version")]
    Version,
    /// A value that the member cannot have.
    #[error("has a `{0}` that cannot be")]
    Value(&'static str),
    /// The same object, written in another way.
    #[error("is not in its canonical form")]
    NotCanonical,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSigned {
    v: u64,
    receipt: String,
    signature: String,
    ear: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReceipt {
    v: u64,
    delivered: RawDelivery,
    id: String,
    nonce: Option<String>,
    signed: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDelivery {
    v: u64,
    countersign: String,
    written: u64,
    provenance: String,
    via: String,
    serial: u64,
    files: Vec<RawFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    path: String,
    from: String,
    mode: String,
}

impl Signed {
    /// Parses, strictly. Neither the signature nor the attestation result is looked into.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::TooLong);
        }
        let raw: RawSigned = json::object(bytes).ok_or(Error::Form)?;
        if raw.v != VERSION {
            return Err(Error::Version);
        }
        let compact = raw.ear.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if raw.ear.is_empty() || raw.ear.len() > MAX_EVIDENCE || !compact {
            return Err(Error::Value("ear"));
        }
        let signature = fixed(&raw.signature).ok_or(Error::Value("signature"))?;
        let receipt = URL_SAFE_NO_PAD.decode(&raw.receipt).map_err(|_| Error::Value("receipt"))?;
        Ok(Self { receipt: Receipt::parse(&receipt)?, signature, ear: raw.ear })
    }

    /// As it is sent: one line of JSON.
    pub fn text(&self) -> String {
        let value = json!({
            "v": VERSION,
            "receipt": URL_SAFE_NO_PAD.encode(self.receipt.canonical()),
            "signature": URL_SAFE_NO_PAD.encode(self.signature),
            "ear": self.ear,
        });
        format!("{value}\n")
    }
}

impl Receipt {
    /// Parses, strictly: what is accepted is exactly what [`Receipt::canonical`] writes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_RECEIPT {
            return Err(Error::TooLong);
        }
        let raw: RawReceipt = json::object(bytes).ok_or(Error::Form)?;
        if raw.v != VERSION {
            return Err(Error::Version);
        }
        let receipt = Self {
            delivered: Delivery::of(raw.delivered)?,
            id: PeerId::parse(&raw.id).map_err(|_| Error::Value("id"))?,
            nonce: raw.nonce.map(|text| nonce(&text).ok_or(Error::Value("nonce"))).transpose()?,
            signed: raw.signed,
        };
        if receipt.canonical() == bytes { Ok(receipt) } else { Err(Error::NotCanonical) }
    }

    /// Its bytes: canonical JSON (RFC 8785). Empty where a number has no exact form in it (over 2^53): that
    /// parses as nothing.
    pub fn canonical(&self) -> Vec<u8> {
        let mut value = json!({
            "v": VERSION,
            "delivered": self.delivered.value(),
            "id": self.id.to_string(),
            "signed": self.signed,
        });
        if let (Some(nonce), Some(members)) = (&self.nonce, value.as_object_mut()) {
            members.insert("nonce".to_owned(), URL_SAFE_NO_PAD.encode(nonce).into());
        }
        jcs::canonical(&value).unwrap_or_default()
    }

    /// What is signed, ES256: [`DOMAIN`], then the canonical bytes.
    pub fn signing_input(&self) -> Vec<u8> {
        [DOMAIN, &self.canonical()].concat()
    }
}

impl Delivery {
    /// Parses the file that lies beside the published ones.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_RECEIPT {
            return Err(Error::TooLong);
        }
        json::object(bytes).ok_or(Error::Form).and_then(Self::of)
    }

    fn of(raw: RawDelivery) -> Result<Self, Error> {
        if raw.v != VERSION {
            return Err(Error::Version);
        }
        let named = |text: &String| text.bytes().all(|b| b.is_ascii_alphanumeric() || b".+-".contains(&b));
        if raw.countersign.is_empty() || raw.countersign.len() > MAX_VERSION || !named(&raw.countersign) {
            return Err(Error::Value("countersign"));
        }
        if raw.files.len() > MAX_FILES {
            return Err(Error::Value("files"));
        }
        let files: Vec<_> = raw.files.into_iter().map(DeliveredFile::of).collect::<Result<_, _>>()?;
        let twice =
            (1_usize..).zip(&files).any(|(at, file)| files.iter().skip(at).any(|other| other.path == file.path));
        if twice {
            return Err(Error::Value("files"));
        }
        let provenance = Provenance::ALL.into_iter().find(|known| known.label() == raw.provenance);
        let via = Via::ALL.into_iter().find(|known| known.label() == raw.via);
        Ok(Self {
            countersign: raw.countersign,
            written: raw.written,
            provenance: provenance.ok_or(Error::Value("provenance"))?,
            via: via.ok_or(Error::Value("via"))?,
            serial: raw.serial,
            files,
        })
    }

    fn value(&self) -> Value {
        let file = |file: &DeliveredFile| json!({"path": file.path.as_str(), "from": file.from, "mode": format!("{:04o}", file.mode)});
        json!({
            "v": VERSION,
            "countersign": self.countersign,
            "written": self.written,
            "provenance": self.provenance.label(),
            "via": self.via.label(),
            "serial": self.serial,
            "files": self.files.iter().map(file).collect::<Vec<_>>(),
        })
    }
}

impl DeliveredFile {
    fn of(raw: RawFile) -> Result<Self, Error> {
        let path = RelativePath::parse(&raw.path).map_err(|_| Error::Value("path"))?;
        let mode = grammar::mode(&raw.mode).map_err(|_| Error::Value("mode"))?;
        let uri = raw.from.strip_prefix(SEALED).unwrap_or(&raw.from);
        KbsUri::parse(uri).map_err(|_| Error::Value("from"))?;
        Ok(Self { path, from: raw.from, mode })
    }
}

/// Says whose it is: the attestation result is for whoever judges it.
impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed").field("id", &self.receipt.id).finish_non_exhaustive()
    }
}

/// The nonce that a text is: 32 bytes in base64url without padding.
pub fn nonce(text: &str) -> Option<[u8; NONCE]> {
    fixed(text)
}

fn fixed<const N: usize>(text: &str) -> Option<[u8; N]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
pub(crate) mod testing {
    //! A receipt for tests of this crate.

    use super::{DeliveredFile, Delivery, Receipt};
    use crate::config::spiffe::PeerId;
    use crate::config::{Provenance, RelativePath, Via};

    pub(crate) const API: &str = "spiffe://example.org/ns/payments/sa/api";

    pub(crate) fn receipt(signed: u64) -> Receipt {
        let file = |path: &str, from: &str, mode| DeliveredFile {
            path: RelativePath::parse(path).unwrap(),
            from: from.to_owned(),
            mode,
        };
        let delivered = Delivery {
            countersign: "0.1.0".to_owned(),
            written: signed - 60,
            provenance: Provenance::Measured,
            via: Via::ConfigfsTsm,
            serial: 7,
            files: vec![
                file("db/password", "kbs:///payments/db/password", 0o440),
                file("key", "sealed secret for kbs:///payments/tls/key", 0o400),
            ],
        };
        Receipt { delivered, id: PeerId::parse(API).unwrap(), nonce: Some([3; 32]), signed }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::receipt;
    use super::*;
    use proptest::prelude::*;

    const AT: u64 = 1_780_272_000;

    fn text() -> String {
        String::from_utf8(receipt(AT).canonical()).unwrap()
    }

    fn signed() -> Signed {
        Signed { receipt: receipt(AT), signature: [5; SIGNATURE], ear: "eyJh.eyJi.YWJj".to_owned() }
    }

    #[test]
    fn a_receipt_has_these_bytes() {
        assert_eq!(
            text(),
            "{\"delivered\":{\"countersign\":\"0.1.0\",\"files\":[\
             {\"from\":\"kbs:///payments/db/password\",\"mode\":\"0440\",\"path\":\"db/password\"},\
             {\"from\":\"sealed secret for kbs:///payments/tls/key\",\"mode\":\"0400\",\"path\":\"key\"}],\
             \"provenance\":\"measured\",\"serial\":7,\"v\":1,\"via\":\"configfs-tsm\",\"written\":1780271940},\
             \"id\":\"spiffe://example.org/ns/payments/sa/api\",\
             \"nonce\":\"AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM\",\"signed\":1780272000,\"v\":1}"
        );
        assert_eq!(Receipt::parse(text().as_bytes()), Ok(receipt(AT)));
        assert!(receipt(AT).signing_input().starts_with(b"countersign/1 receipt\0{\"delivered\""));
        let unasked = Receipt { nonce: None, ..receipt(AT) };
        assert!(!String::from_utf8(unasked.canonical()).unwrap().contains("nonce"));
        assert_eq!(Receipt::parse(&unasked.canonical()), Ok(unasked));
    }

    #[test]
    fn what_is_not_exactly_a_receipt_is_refused() {
        let with = |from: &str, to: &str| {
            assert!(text().contains(from), "{from}");
            Receipt::parse(text().replacen(from, to, 1).as_bytes())
        };
        assert_eq!(with("\"signed\"", "\"x\":1,\"signed\""), Err(Error::Form), "an unknown member");
        assert_eq!(with("\"serial\"", "\"value\":\"s\",\"serial\""), Err(Error::Form), "an unknown member within");
        assert_eq!(with("\"mode\"", "\"sha256\":\"00\",\"mode\""), Err(Error::Form), "an unknown member of a file");
        assert_eq!(with("\"signed\"", "\"signed\":1,\"signed\""), Err(Error::Form), "a member twice");
        assert_eq!(with("\"written\":1780271940", "\"written\":-1"), Err(Error::Form), "another type");
        assert_eq!(with("\"serial\":7,\"v\":1", "\"serial\":7,\"v\":2"), Err(Error::Version));
        assert_eq!(with("1780272000,\"v\":1", "1780272000,\"v\":2"), Err(Error::Version));
        assert_eq!(with("0.1.0", ""), Err(Error::Value("countersign")));
        assert_eq!(with("0.1.0", "0.1.0 \\u001b[2J"), Err(Error::Value("countersign")));
        assert_eq!(with("measured", "trusted"), Err(Error::Value("provenance")));
        assert_eq!(with("configfs-tsm", "carrier-pigeon"), Err(Error::Value("via")));
        assert_eq!(with("db/password\"}", "../password\"}"), Err(Error::Value("path")));
        assert_eq!(with("\"path\":\"key\"", "\"path\":\"db/password\""), Err(Error::Value("files")), "a path twice");
        assert_eq!(with("kbs:///payments/db/password", "https://x"), Err(Error::Value("from")));
        assert_eq!(with("0440", "0442"), Err(Error::Value("mode")));
        assert_eq!(with("0440", "440"), Err(Error::NotCanonical));
        assert_eq!(with("sa/api", "sa/*"), Err(Error::Value("id")), "a pattern");
        assert_eq!(with("\"AwMD", "\"AwMDAw"), Err(Error::Value("nonce")), "longer");
        assert_eq!(with("AwM\"", "AwM=\""), Err(Error::Value("nonce")), "padding");
        assert_eq!(
            with("\"nonce\":\"AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM\"", "\"nonce\":null"),
            Err(Error::NotCanonical)
        );
        assert_eq!(with(",\"id\"", ", \"id\""), Err(Error::NotCanonical));
        assert_eq!(with("1780272000", "1780272000.0"), Err(Error::Form));
        // Over 2^53 two numbers may be one to whoever reads them.
        assert_eq!(with("\"serial\":7", "\"serial\":9007199254740993"), Err(Error::NotCanonical));
        assert_eq!(Receipt::parse(b"[1]"), Err(Error::Form));
        assert_eq!(Receipt::parse(b""), Err(Error::Form));
        assert_eq!(Receipt::parse(&vec![b' '; MAX_RECEIPT + 1]), Err(Error::TooLong));
    }

    #[test]
    fn what_is_not_exactly_a_signed_receipt_is_refused() {
        let text = signed().text();
        assert_eq!(Signed::parse(text.as_bytes()), Ok(signed()));
        let with = |from: &str, to: &str| {
            assert!(text.contains(from), "{from}");
            Signed::parse(text.replacen(from, to, 1).as_bytes())
        };
        assert_eq!(with("\"v\":1", "\"v\":1,\"x\":1"), Err(Error::Form), "an unknown member");
        assert_eq!(with("\"v\":1", "\"v\":1,\"v\":1"), Err(Error::Form), "a member twice");
        assert_eq!(with("\"v\":1", "\"v\":2"), Err(Error::Version));
        assert_eq!(with("eyJh.eyJi.YWJj", ""), Err(Error::Value("ear")));
        assert_eq!(with("eyJh.eyJi.YWJj", &"e".repeat(MAX_EVIDENCE + 1)), Err(Error::Value("ear")));
        assert_eq!(with("eyJh.eyJi", "eyJh.\\u0000"), Err(Error::Value("ear")));
        assert_eq!(with("\"signature\":\"BQ", "\"signature\":\"BQUF"), Err(Error::Value("signature")));
        assert_eq!(with("\"receipt\":\"", "\"receipt\":\"="), Err(Error::Value("receipt")));
        assert_eq!(with("\"receipt\":\"ey", "\"receipt\":\"W3"), Err(Error::Form), "no object in it");
        assert_eq!(Signed::parse(&vec![b' '; MAX_BYTES + 1]), Err(Error::TooLong));
    }

    #[test]
    fn the_largest_receipt_fits() {
        let mut largest = receipt(AT);
        let file = |at: usize| DeliveredFile {
            path: RelativePath::parse(&format!("{at:0>255}/{}/x", "y".repeat(254))).unwrap(),
            from: format!("{SEALED}kbs:///{}/b/c", "a".repeat(788)),
            mode: 0o440,
        };
        largest.delivered.files = (0..MAX_FILES).map(file).collect();
        assert!(largest.canonical().len() <= MAX_RECEIPT, "{}", largest.canonical().len());
        let signed = Signed { receipt: largest, ear: "e".repeat(MAX_EVIDENCE), ..signed() };
        assert_eq!(Signed::parse(signed.text().as_bytes()), Ok(signed));
    }

    #[test]
    fn the_attestation_result_is_in_no_debug_output() {
        assert!(!format!("{:?}", signed()).contains("eyJ"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Signed::parse(&bytes);
            let _ = Receipt::parse(&bytes);
            let _ = Delivery::parse(&bytes);
        }

        #[test]
        fn what_is_written_is_read(
            signed in 60_u64..1 << 53, nonce: Option<[u8; 32]>, serial in 0_u64..1 << 53, signature: [[u8; 32]; 2],
            names in proptest::collection::btree_set("[a-z]{1,20}", 0..9), mode in 0_u32..0o1000,
        ) {
            let mut receipt = Receipt { nonce, ..receipt(signed) };
            receipt.delivered.serial = serial;
            receipt.delivered.files = names.iter().map(|name| DeliveredFile {
                path: RelativePath::parse(name).unwrap(),
                from: format!("kbs:///a/b/{name}"),
                mode: mode & !0o002,
            }).collect();
            prop_assert_eq!(Receipt::parse(&receipt.canonical()), Ok(receipt.clone()));
            let mut both = [0; SIGNATURE];
            both.copy_from_slice(signature.as_flattened());
            let signed = Signed { receipt, signature: both, ear: "e.e.e".to_owned() };
            prop_assert_eq!(Signed::parse(signed.text().as_bytes()), Ok(signed));
        }

        #[test]
        fn one_changed_byte_is_another_receipt_or_none(at in 0_usize..400, byte: u8) {
            let mut bytes = receipt(AT).canonical();
            let at = at % bytes.len();
            let same = bytes[at] == byte;
            bytes[at] = byte;
            prop_assert_eq!(Receipt::parse(&bytes) == Ok(receipt(AT)), same);
        }
    }
}
