//! Guests with hardware of our own, and the verifier that believes them: reports and quotes with
//! the real layouts and real signatures, below vendors of ours ([`pki::Vendor`]).
//!
//! The double's verifier checks what Trustee's checks, in its order
//! (attestation-service of 78962cd4, `deps/verifier`), and says to the test which check failed.
//! It reads bytes by itself: the product's parser is what it is there to test.

pub mod initdata;
pub mod pki;
pub mod snp;
pub mod tdx;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

pub use initdata::Document;
pub use pki::Vendor;
pub use snp::{Certificates, SnpGuest, Tcb};
pub use tdx::{QuoteKind, TdxGuest};

/// How a guest's hardware lies. What a guest merely *is* (measurement, policy, VMPL, version) are
/// its fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Lie {
    /// It does not.
    #[default]
    None,
    /// Signed by a key that no vendor made.
    OtherKey,
    /// These bytes, whatever is asked: an earlier report, properly signed.
    Replayed(Vec<u8>),
    /// Report data other than what was asked for, properly signed.
    WrongReportData,
    /// One bit of the measurement changed after signing.
    Tampered,
}

/// Why evidence was not believed: the cause that the real server writes to its log only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It does not have the shape of this TEE's evidence.
    Malformed,
    /// A report or quote of a version that Trustee does not take.
    Version,
    /// A processor that is not in its list.
    Product,
    /// No certificate for the key, or one that does not lead to the vendor's root.
    Chain,
    /// The signature is not the key's.
    Signature,
    /// The certificate speaks of another TCB.
    Tcb,
    /// A privilege level other than 0.
    Vmpl,
    /// The report data is not the digest of what the client sent.
    ReportData,
    /// The init-data is not what the hardware holds.
    InitData,
    /// The session's nonce is another.
    Nonce,
    /// No session, or one that ended.
    NoSession,
    /// A body that does not parse: a member is missing, or of another type.
    Body,
}

/// A guest of some kind.
#[derive(Clone, Debug)]
pub enum Guest {
    /// SEV-SNP.
    Snp(SnpGuest),
    /// TDX.
    Tdx(TdxGuest),
    /// No hardware: what Trustee calls `sample`.
    Sample,
    /// Another TEE by its name in Trustee. Its evidence is a stand-in (`{"tee", "report_data"}`):
    /// enough for a client that passes evidence on unparsed, and not what that hardware says.
    Other(&'static str),
}

/// What the verifier has found.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Claims, under the TEE's name.
    pub claims: Value,
    /// As in the annotated evidence: hex of the field; for `sample` what it sent.
    pub report_data: String,
    /// Likewise; none where the TEE has no such field and the client sent nothing.
    pub init_data: Option<String>,
    /// What reference values are compared with.
    pub measurement: String,
    /// The host may look inside.
    pub debug: bool,
}

impl Guest {
    /// Its name in Trustee.
    pub fn tee(&self) -> &str {
        match self {
            Self::Snp(_) => "snp",
            Self::Tdx(_) => "tdx",
            Self::Sample => "sample",
            Self::Other(name) => name,
        }
    }

    /// Its evidence over up to 64 bytes, as `/aa/evidence` answers.
    pub fn evidence(&self, report_data: &[u8]) -> Value {
        match self {
            Self::Snp(guest) => guest.evidence(&padded(report_data)),
            Self::Tdx(guest) => guest.evidence(&padded(report_data)),
            Self::Sample => json!({"svn": "1", "report_data": STANDARD.encode(report_data)}),
            Self::Other(name) => json!({"tee": name, "report_data": STANDARD.encode(report_data)}),
        }
    }

    /// What a reference value for it looks like, hex; none where evidence has no measurement.
    pub fn measurement(&self) -> Option<String> {
        match self {
            Self::Snp(guest) => Some(hex(&guest.measurement)),
            Self::Tdx(guest) => Some(hex(&guest.mr_td)),
            Self::Sample | Self::Other(_) => None,
        }
    }
}

/// Verifies evidence over a digest, and the digest of init-data where the client sent some.
pub fn verify(
    vendor: &Vendor,
    tee: &str,
    evidence: &Value,
    digest: &[u8],
    init_data: Option<&[u8]>,
) -> Result<Verified, Refusal> {
    match tee {
        "snp" => snp::verify(vendor, evidence, &padded(digest), init_data),
        "tdx" => tdx::verify(vendor, evidence, &padded(digest), init_data),
        _ => {
            let sent = evidence.get("report_data").and_then(Value::as_str).ok_or(Refusal::Malformed)?;
            // Not padded, and compared as bytes: as Trustee's sample verifier.
            if STANDARD.decode(sent).map_err(|_| Refusal::Malformed)? != digest {
                return Err(Refusal::ReportData);
            }
            let claims = json!({
                "debug": false, "launch_digest": "abcde", "platform_version": {"major": 1, "minor": 4},
                "svn": evidence.get("svn").cloned().ok_or(Refusal::Malformed).or_else(|refusal| {
                    // Only the sample has one; stand-ins for other TEEs do not.
                    if tee.starts_with("sample") { Err(refusal) } else { Ok(json!("0")) }
                })?,
            });
            Ok(Verified {
                claims,
                report_data: sent.to_owned(),
                // Unchecked, and claimed all the same: seen on the wire, wire/68.
                init_data: init_data.map(|digest| STANDARD.encode(digest)),
                measurement: "abcde".to_owned(),
                debug: false,
            })
        }
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// A digest in a field of the hardware: cut, or filled with zeros on the right.
pub fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut field = [0; N];
    for (to, from) in field.iter_mut().zip(bytes) {
        *to = *from;
    }
    field
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes.get_mut(at..at + what.len()).expect("a field lies inside its structure").copy_from_slice(what);
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}
