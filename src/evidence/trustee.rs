//! Evidence in the JSON that Trustee's verifiers take, as its own guest sends it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::cert_table::{self, Entry};
use super::eventlog::EventLog;
use super::snp::{self, Report};
use crate::formats::json;

/// What ends an event log that Trustee's guest sends: eight bytes of ones (guest-components v0.21,
/// `EL_END_FLAG`).
const LOG_END: [u8; 8] = [0xff; 8];

#[derive(Serialize)]
struct Snp<'a> {
    attestation_report: &'a Report,
    cert_chain: Option<Vec<Entry>>,
}

#[derive(Serialize)]
struct Tdx {
    cc_eventlog: Option<String>,
    quote: String,
}

#[derive(Serialize)]
struct Cca<'a> {
    token: &'a [u8],
}

/// Evidence for the TEE `snp`: one JSON object. `certificates` are those of the report's table, in
/// its order; a table without VCEK and VLEK becomes `null`, since Trustee refuses a list without.
///
/// Fails only where memory does.
pub fn snp(report: &Report, certificates: Vec<Entry>) -> serde_json::Result<String> {
    serde_json::to_string(&Snp { attestation_report: report, cert_chain: cert_table::chain(certificates) })
}

/// Evidence for the TEE `tdx`: one JSON object. The quote is passed on as it came, padding
/// included. The log is the firmware's; without it Trustee cannot replay the runtime registers.
///
/// Fails only where memory does.
pub fn tdx(quote: &[u8], log: Option<EventLog<'_>>) -> serde_json::Result<String> {
    let cc_eventlog = log.map(|log| STANDARD.encode([log.bytes, &LOG_END].concat()));
    serde_json::to_string(&Tdx { cc_eventlog, quote: STANDARD.encode(quote) })
}

/// Evidence for the TEE `cca`: one JSON object with the token as the kernel gave it, not parsed.
///
/// Fails only where memory does.
pub fn cca(token: &[u8]) -> serde_json::Result<String> {
    serde_json::to_string(&Cca { token })
}

/// Evidence of the TEE `snp`, read: a report and what stands beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnpEvidence {
    /// Believed by nobody yet.
    pub report: Report,
    /// DER of every certificate that came along.
    pub certificates: Vec<Vec<u8>>,
    /// DER of the revocation list, where one came along.
    pub crl: Option<Vec<u8>>,
}

/// Why JSON is no evidence. Each message continues "the evidence …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A member is missing, stands twice, or is of another type.
    #[error("is not in Trustee's JSON form")]
    Form,
    /// The members make no report.
    #[error("holds no SEV-SNP report")]
    Report(#[source] snp::Error),
    /// They make another report than the one they say.
    #[error("holds a report whose members do not fit its version")]
    Members,
}

#[derive(Deserialize)]
struct RawSnp {
    attestation_report: Report,
    #[serde(default)]
    cert_chain: Option<Vec<RawEntry>>,
}

#[derive(Deserialize)]
struct RawEntry {
    /// A name, or an object for kinds that AMD does not define.
    cert_type: serde_json::Value,
    data: Vec<u8>,
}

#[derive(Deserialize)]
struct RawTdx {
    quote: String,
}

/// Reads evidence of the TEE `snp`.
pub fn read_snp(bytes: &[u8]) -> Result<SnpEvidence, Error> {
    let raw: RawSnp = json::object(bytes).ok_or(Error::Form)?;
    let mut evidence = SnpEvidence { report: settled(&raw.attestation_report)?, certificates: Vec::new(), crl: None };
    for entry in raw.cert_chain.unwrap_or_default() {
        match entry.cert_type.as_str() {
            Some("VCEK" | "VLEK" | "ASK" | "ARK") => evidence.certificates.push(entry.data),
            Some("CRL") => evidence.crl = Some(entry.data),
            _ => {}
        }
    }
    Ok(evidence)
}

/// Reads a report alone, in the JSON that the crate `sev` writes.
pub fn read_report(bytes: &[u8]) -> Result<Report, Error> {
    settled(&json::object(bytes).ok_or(Error::Form)?)
}

/// Reads evidence of the TEE `tdx`: the quote's bytes. The event log is not looked at.
pub fn read_tdx(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let raw: RawTdx = json::object(bytes).ok_or(Error::Form)?;
    STANDARD.decode(raw.quote).map_err(|_| Error::Form)
}

/// The report that these members are, if they are one: what its version has no place for is refused.
fn settled(members: &Report) -> Result<Report, Error> {
    let report = Report::parse(&members.to_bytes()).map_err(Error::Report)?;
    // Members that are null and those that are absent read alike, and a null is a zero on the wire.
    if report.to_bytes() == members.to_bytes() && report.reported_tcb == members.reported_tcb {
        Ok(report)
    } else {
        Err(Error::Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_alone_has_a_null_log() {
        assert_eq!(tdx(b"quote", None).unwrap(), r#"{"cc_eventlog":null,"quote":"cXVvdGU="}"#);
    }

    #[test]
    fn a_cca_token_is_passed_on_as_numbers() {
        assert_eq!(cca(&[0xd9, 1]).unwrap(), r#"{"token":[217,1]}"#);
    }

    #[test]
    fn a_log_is_closed_with_ones() {
        let log = EventLog { bytes: b"log", events: 0 };
        let expected = STANDARD.encode(b"log\xff\xff\xff\xff\xff\xff\xff\xff");
        assert_eq!(tdx(b"quote", Some(log)).unwrap(), format!(r#"{{"cc_eventlog":"{expected}","quote":"cXVvdGU="}}"#));
    }

    #[test]
    fn a_report_without_its_vcek_has_a_null_chain() {
        let mut bytes = [0; 1184];
        bytes[0] = 2;
        let report = Report::parse(&bytes).unwrap();
        let ask = Entry { cert_type: "ASK", data: vec![48] };
        for certificates in [vec![], vec![ask.clone()]] {
            assert!(snp(&report, certificates).unwrap().ends_with(r#","cert_chain":null}"#));
        }
        let vcek = Entry { cert_type: "VCEK", data: vec![48, 130] };
        let text = snp(&report, vec![vcek, ask]).unwrap();
        let end = r#","cert_chain":[{"cert_type":"VCEK","data":[48,130]},{"cert_type":"ASK","data":[48]}]}"#;
        assert!(text.ends_with(end), "{text}");
    }
}
