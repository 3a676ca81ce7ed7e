//! What somebody shows: bytes of some form, told apart by what they are, never by a name.
//!
//! Binary, hex, base64, PEM, JSON and tokens. Total: any bytes are one of these, or refused.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use super::cert_table;
use super::snp::{self, Report};
use super::tdx::{self, Quote};
use super::trustee::{self, SnpEvidence};
use crate::formats::delivery::{self, Signed};
use crate::formats::json::{self, Present};
use crate::formats::x509::pem_certificates;

/// Most bytes of anything that is shown, 4 MiB: evidence with an event log has 1.5 MiB in base64. A
/// bound of ours.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Most certificates of one file.
pub const MAX_CERTIFICATES: usize = 16;

/// Bytes in front of a report in the answer of `/dev/sev-guest` (ABI `MSG_REPORT_RSP`).
const REPORT_HEADER: usize = 32;

/// The byte order mark in front of UTF-8. Nothing needs it, and some editors write it.
const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// The same in front of UTF-16, little endian: what PowerShell 5 redirects into.
const UTF16_MARK: &[u8] = b"\xff\xfe";

/// Bytes of a `TDREPORT` structure.
const TDREPORT: usize = 1024;

/// What it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Shown {
    /// An SEV-SNP report.
    Snp(Box<SnpEvidence>),
    /// A TDX quote, with its bytes.
    Tdx {
        /// Taken apart.
        quote: Box<Quote>,
        /// As it came.
        raw: Vec<u8>,
    },
    /// An attestation token, as text.
    Token(String),
    /// Certificates, DER.
    Certificates(Vec<Vec<u8>>),
    /// A signed receipt of what was delivered.
    Receipt(Box<Signed>),
    /// Something of the field that this build knows by name and cannot judge.
    Other(Other),
}

/// What is known by name only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// Evidence of Trustee's `sample` attester.
    Sample,
    /// Evidence of an Azure guest's vTPM.
    AzureVtpm,
    /// A TPM's evidence.
    Tpm,
    /// An Arm CCA token.
    Cca,
    /// An SGX quote.
    Sgx,
    /// A `TDREPORT`, which only the machine that made it can check.
    TdReport,
    /// Collateral of Intel's, to be given beside a quote.
    Collateral,
    /// The claims of a token without the token.
    Claims,
    /// A receipt as it lies beside the published files.
    Receipt,
    /// A revocation list, to be given beside a report.
    Crl,
}

/// Why it is nothing that is known. Each message continues "the input …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No bytes.
    #[error("is empty")]
    Empty,
    /// Over [`MAX_BYTES`].
    #[error("is longer than 4 MiB")]
    TooLong,
    /// Nothing of the field.
    #[error(
        "is nothing that this build knows: no report, quote, token, certificate or receipt, in binary, hex, base64, PEM or JSON"
    )]
    Unknown,
    /// PEM of something else.
    #[error("is PEM with something else than 1 to 16 certificates in it")]
    Pem,
    /// A request with evidence of more than one device, or none.
    #[error("is a request to an attestation service with something else than one piece of evidence in it")]
    Several,
    /// JSON of evidence that does not hold together.
    #[error("is evidence that cannot be read")]
    Evidence(#[source] trustee::Error),
    /// A report that is none.
    #[error("is an SEV-SNP report that cannot be read")]
    Snp(#[source] snp::Error),
    /// A table behind the report that is none.
    #[error("is an SEV-SNP report with something behind it that is no certificate table")]
    Table(#[source] cert_table::Error),
    /// A receipt that is none.
    #[error("is a signed receipt that cannot be read")]
    Receipt(#[source] delivery::Error),
    /// A quote that is none.
    #[error("is a TDX quote that cannot be read")]
    Tdx(#[source] tdx::Error),
}

impl Other {
    /// In words.
    pub fn label(self) -> &'static str {
        match self {
            Self::Sample => "evidence of the `sample` attester, which attests nothing",
            Self::AzureVtpm => "evidence of an Azure guest's vTPM",
            Self::Tpm => "evidence of a TPM",
            Self::Cca => "evidence of Arm CCA",
            Self::Sgx => "an SGX quote",
            Self::TdReport => "a TDREPORT, which only the machine that made it can check",
            Self::Collateral => "Intel's collateral, which belongs beside a quote (--collateral)",
            Self::Claims => "the claims of an attestation token without its signature",
            Self::Receipt => "a receipt without a signature",
            Self::Crl => "a revocation list, which belongs beside a report (--crl)",
        }
    }
}

/// Says what bytes are.
pub fn detect(bytes: &[u8]) -> Result<Shown, Error> {
    if bytes.len() > MAX_BYTES {
        return Err(Error::TooLong);
    }
    if bytes.trim_ascii().is_empty() {
        return Err(Error::Empty);
    }
    if let Some(found) = binary(bytes) {
        return found;
    }
    let text = as_text(bytes).ok_or(Error::Unknown)?;
    let text = text.trim();
    if text.starts_with('{') {
        return members(text, true);
    }
    if text.contains("-----BEGIN X509 CRL-----") {
        return Ok(Shown::Other(Other::Crl));
    }
    if text.contains("-----BEGIN ") {
        let ders = pem_certificates(text.as_bytes(), MAX_CERTIFICATES).ok_or(Error::Pem)?;
        return Ok(Shown::Certificates(ders));
    }
    let bare = bare(text);
    if is_token(bare) {
        return Ok(Shown::Token(bare.to_owned()));
    }
    let packed: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    for decoded in [from_hex(&packed), from_base64(&packed)].into_iter().flatten() {
        if let Some(found) = binary(&decoded) {
            return found;
        }
        // Evidence and tokens travel in base64 too, once.
        if let Ok(inner) = std::str::from_utf8(&decoded)
            && inner.trim_start().starts_with('{')
        {
            return members(inner.trim(), true);
        }
    }
    Err(Error::Unknown)
}

/// Text in UTF-8, or in UTF-16 with the mark in front as some shells redirect it.
fn as_text(bytes: &[u8]) -> Option<Cow<'_, str>> {
    let Some(wide) = bytes.strip_prefix(UTF16_MARK) else {
        return std::str::from_utf8(bytes.strip_prefix(UTF8_MARK).unwrap_or(bytes)).ok().map(Cow::Borrowed);
    };
    let (units, rest) = wide.as_chunks::<2>();
    let text = char::decode_utf16(units.iter().map(|unit| u16::from_le_bytes(*unit))).collect::<Result<String, _>>();
    rest.is_empty().then_some(text.ok()?).map(Cow::Owned)
}

/// Without what a token is carried in: the quotes of JSON, the word of HTTP's header.
fn bare(text: &str) -> &str {
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    text.strip_prefix("Bearer ").unwrap_or(text).trim_start()
}

/// By the first bytes. `None` where they are those of none.
fn binary(bytes: &[u8]) -> Option<Result<Shown, Error>> {
    let word = |at: usize| super::bytes::u32_at(bytes, at);
    if bytes.len() >= REPORT_HEADER + snp::LEN
        && word(0) == Some(0)
        && word(4) == u32::try_from(snp::LEN).ok()
        && matches!(word(REPORT_HEADER), Some(2..=5))
    {
        return Some(report(bytes.get(REPORT_HEADER..).unwrap_or_default()));
    }
    if bytes.len() >= snp::LEN && word(0).is_some_and(|version| version <= 0xff) && word(0x34) == Some(1) {
        return Some(report(bytes));
    }
    let version = super::bytes::u16_at(bytes, 0);
    let tee = word(4);
    if bytes.len() > 600 && matches!(version, Some(4..=9)) && tee == Some(0x81) {
        let quote = Quote::parse(bytes).map_err(Error::Tdx);
        return Some(quote.map(|quote| Shown::Tdx { quote: Box::new(quote), raw: bytes.to_vec() }));
    }
    if bytes.len() > 432 && matches!(version, Some(3..=5)) && tee == Some(0) && word(2).is_some_and(|v| v & 0xffff == 2)
    {
        return Some(Ok(Shown::Other(Other::Sgx)));
    }
    // REPORTTYPE of TDX (0x81), then zeros.
    if bytes.len() == TDREPORT && bytes.first() == Some(&0x81) {
        return Some(Ok(Shown::Other(Other::TdReport)));
    }
    // An empty one is too short for the next pattern.
    if bytes.first() == Some(&0x30) && matches!(CertificateRevocationList::from_der(bytes), Ok(([], _))) {
        return Some(Ok(Shown::Other(Other::Crl)));
    }
    if let [0x30, 0x82, high, low, rest @ ..] = bytes
        && usize::from(u16::from_be_bytes([*high, *low])) == rest.len()
    {
        return Some(Ok(Shown::Certificates(vec![bytes.to_vec()])));
    }
    None
}

/// A report; behind it may stand zeros, or the host's table of certificates.
fn report(bytes: &[u8]) -> Result<Shown, Error> {
    let (report, behind) = bytes.split_at_checked(snp::LEN).ok_or(Error::Snp(snp::Error::Length))?;
    let report = Report::parse(report).map_err(Error::Snp)?;
    let mut evidence = SnpEvidence { report, certificates: Vec::new(), crl: None };
    if behind.iter().any(|byte| *byte != 0) {
        for entry in cert_table::parse(behind).map_err(Error::Table)? {
            match entry.cert_type {
                "CRL" => evidence.crl = Some(entry.data),
                _ => evidence.certificates.push(entry.data),
            }
        }
    }
    Ok(Shown::Snp(Box::new(evidence)))
}

/// Which members stand in a JSON object; their values are read when it is known what it is.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Members {
    attestation_report: Present,
    chip_id: Present,
    quote: Present,
    cc_eventlog: Present,
    tpm_quote: Present,
    hcl_report: Present,
    report: Present,
    ak_public: Present,
    tcb_info: Present,
    tee: Present,
    submods: Present,
    svn: Present,
    receipt: Present,
    ear: Present,
    provenance: Present,
    files: Present,
    primary_evidence: Option<serde_json::Value>,
    #[serde(rename = "tee-evidence")]
    tee_evidence: Option<serde_json::Value>,
    token: Option<serde_json::Value>,
    verification_requests: Option<Vec<serde_json::Value>>,
    evidence: Option<serde_json::Value>,
}

/// By its members. `outer`: one wrapping is taken off, not a second.
fn members(text: &str, outer: bool) -> Result<Shown, Error> {
    let found: Members = json::object(text.as_bytes()).ok_or(Error::Unknown)?;
    let bytes = text.as_bytes();
    if outer && let Some(inner) = found.tee_evidence.as_ref().or(found.primary_evidence.as_ref()) {
        let inner = inner.get("primary_evidence").unwrap_or(inner);
        return members(&inner.to_string(), false);
    }
    if outer && let Some(requests) = &found.verification_requests {
        let [request] = requests.as_slice() else { return Err(Error::Several) };
        return requested(request.get("evidence"));
    }
    if outer && found.tee.0 && found.evidence.is_some() {
        return requested(found.evidence.as_ref());
    }
    if found.receipt.0 && found.ear.0 {
        return Ok(Shown::Receipt(Box::new(Signed::parse(bytes).map_err(Error::Receipt)?)));
    }
    if found.attestation_report.0 {
        return Ok(Shown::Snp(Box::new(trustee::read_snp(bytes).map_err(Error::Evidence)?)));
    }
    // Before it had versions it was `{quote, report, vcek}`.
    if found.hcl_report.0 || (found.quote.0 && found.report.0) {
        return Ok(Shown::Other(Other::AzureVtpm));
    }
    if found.tpm_quote.0 || found.ak_public.0 {
        return Ok(Shown::Other(Other::Tpm));
    }
    if found.chip_id.0 {
        let report = trustee::read_report(bytes).map_err(Error::Evidence)?;
        return Ok(Shown::Snp(Box::new(SnpEvidence { report, certificates: Vec::new(), crl: None })));
    }
    if found.quote.0 {
        let raw = trustee::read_tdx(bytes).map_err(Error::Evidence)?;
        return binary(&raw).unwrap_or(Err(Error::Unknown));
    }
    if found.tcb_info.0 {
        return Ok(Shown::Other(Other::Collateral));
    }
    if found.submods.0 {
        return Ok(Shown::Other(Other::Claims));
    }
    if found.provenance.0 && found.files.0 {
        return Ok(Shown::Other(Other::Receipt));
    }
    match found.token {
        // The KBS's answer, or the agent's, whose key beside it is left where it is.
        Some(serde_json::Value::String(token)) if is_token(&token) => return Ok(Shown::Token(token)),
        Some(serde_json::Value::Array(_)) => return Ok(Shown::Other(Other::Cca)),
        _ => {}
    }
    if found.svn.0 { Ok(Shown::Other(Other::Sample)) } else { Err(Error::Unknown) }
}

/// What a request to the attestation service carries: evidence in base64url.
fn requested(evidence: Option<&serde_json::Value>) -> Result<Shown, Error> {
    let text = evidence.and_then(serde_json::Value::as_str).ok_or(Error::Unknown)?;
    let json = String::from_utf8(from_base64(text).ok_or(Error::Unknown)?).map_err(|_| Error::Unknown)?;
    members(json.trim(), false)
}

/// Three parts of base64url, the first of which is a JSON object's.
fn is_token(text: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    text.starts_with("eyJ") && text.split('.').count() == 3 && text.split('.').all(part)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    crate::formats::hex::decode(text.strip_prefix("0x").unwrap_or(text))
}

/// Either alphabet, with padding or without.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['-', '_']) { &alphabet::URL_SAFE } else { &alphabet::STANDARD };
    GeneralPurpose::new(alphabet, config).decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::hex;
    use proptest::prelude::*;

    fn raw_report() -> Vec<u8> {
        let mut bytes = vec![0; snp::LEN];
        bytes[0] = 2;
        bytes[0x34] = 1;
        bytes
    }

    #[test]
    fn a_report_is_known_in_every_form() {
        let raw = raw_report();
        let report = Report::parse(&raw).unwrap();
        let answer = [&[0, 0, 0, 0, 0xa0, 4, 0, 0][..], &[0; 24], &raw, &[0; 100]].concat();
        let forms = [
            raw.clone(),
            answer,
            [&raw[..], &[0; 2816]].concat(),
            hex::encode(&raw).into_bytes(),
            format!("0x{}\n", hex::encode(&raw)).into_bytes(),
            base64::engine::general_purpose::STANDARD.encode(&raw).into_bytes(),
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&raw).into_bytes(),
            trustee::snp(&report, vec![]).unwrap().into_bytes(),
            serde_json::to_vec(&report).unwrap(),
            format!(
                r#"{{"tee-evidence":{{"primary_evidence":{},"additional_evidence":""}}}}"#,
                trustee::snp(&report, vec![]).unwrap()
            )
            .into_bytes(),
        ];
        for (index, form) in forms.iter().enumerate() {
            let Ok(Shown::Snp(found)) = detect(form) else { panic!("form {index}: {:?}", detect(form)) };
            assert_eq!(found.report, report, "form {index}");
        }
    }

    #[test]
    fn the_hosts_table_behind_a_report_is_read() {
        let table = cert_table::to_bytes(&[cert_table::Entry { cert_type: "VCEK", data: vec![48, 1] }]);
        let Ok(Shown::Snp(found)) = detect(&[raw_report(), table].concat()) else { panic!() };
        assert_eq!(found.certificates, [vec![48, 1]]);
        assert!(matches!(detect(&[raw_report(), vec![1; 30]].concat()), Err(Error::Table(_))));
    }

    #[test]
    fn a_report_in_json_whose_members_do_not_fit_is_refused() {
        let text = String::from_utf8(serde_json::to_vec(&Report::parse(&raw_report()).unwrap()).unwrap()).unwrap();
        for (from, to) in [
            (r#""cpuid_fam_id":null"#, r#""cpuid_fam_id":25"#),
            (r#""fmc":null"#, r#""fmc":1"#),
            (r#""version":2"#, r#""version":7"#),
            (r#""version":2"#, r#""version":2,"version":2"#),
        ] {
            let changed = text.replace(from, to);
            assert_ne!(changed, text);
            assert!(detect(changed.as_bytes()).is_err(), "{to}");
        }
    }

    #[test]
    fn what_is_known_by_name_is_named() {
        for (text, other) in [
            (r#"{"svn":"1","report_data":""}"#, Other::Sample),
            (r#"{"version":2,"tpm_quote":{},"hcl_report":"","vcek":""}"#, Other::AzureVtpm),
            (r#"{"quote":{"message":[],"pcrs":[],"signature":[]},"report":[1,2],"vcek":""}"#, Other::AzureVtpm),
            (r#"{"token":[1,2]}"#, Other::Cca),
            (r#"{"submods":{}}"#, Other::Claims),
            (r#"{"tcb_info":"{}"}"#, Other::Collateral),
            (r#"{"v":1,"provenance":"measured","files":[]}"#, Other::Receipt),
        ] {
            assert_eq!(detect(text.as_bytes()), Ok(Shown::Other(other)), "{text}");
        }
        assert_eq!(detect(br#"{"token":"eyJh.eyJi.YWJj"}"#), Ok(Shown::Token("eyJh.eyJi.YWJj".to_owned())));
    }

    #[test]
    fn text_is_read_however_it_was_carried() {
        let report = Report::parse(&raw_report()).unwrap();
        let json = trustee::snp(&report, vec![]).unwrap();
        let wide = |text: &str| -> Vec<u8> {
            [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
        };
        let carried = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&json);
        let request =
            format!(r#"{{"verification_requests":[{{"tee":"snp","evidence":"{carried}"}}],"policy_ids":[]}}"#);
        for bytes in [
            [UTF8_MARK, json.as_bytes()].concat(),
            wide(&json),
            wide(&format!("{json}\r\n")),
            request.clone().into_bytes(),
            format!(r#"{{"tee":"snp","evidence":"{carried}"}}"#).into_bytes(),
        ] {
            let found = detect(&bytes);
            assert!(matches!(&found, Ok(Shown::Snp(found)) if found.report == report), "{found:?}");
        }
        let token = "eyJh.eyJi.YWJj";
        for text in [format!("\"{token}\"\n"), format!("Bearer {token}"), format!("\"Bearer {token}\"")] {
            for bytes in [text.clone().into_bytes(), wide(&text)] {
                assert_eq!(detect(&bytes), Ok(Shown::Token(token.to_owned())), "{text}");
            }
        }
        // Half a character, half a pair, and a request in a request.
        let again = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&request);
        for bytes in [
            [wide(&json), vec![b' ']].concat(),
            vec![0xff, 0xfe, 0, 0xd8],
            request.replace("}],", "},{}],").into_bytes(),
            request.replace(&carried, &again).into_bytes(),
            format!("\"{token}").into_bytes(),
        ] {
            assert!(detect(&bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_revocation_list_is_no_certificate() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).unwrap();
        // One whose length takes one byte, and one where it takes two.
        for names in [0_u64, 20] {
            let revoked = |serial: u64| rcgen::RevokedCertParams {
                serial_number: serial.into(),
                revocation_time: rcgen::date_time_ymd(2026, 1, 1),
                reason_code: None,
                invalidity_date: None,
            };
            let list = rcgen::CertificateRevocationListParams {
                this_update: rcgen::date_time_ymd(2026, 1, 1),
                next_update: rcgen::date_time_ymd(2027, 1, 1),
                crl_number: 1.into(),
                issuing_distribution_point: None,
                revoked_certs: (0..names).map(revoked).collect(),
                key_identifier_method: rcgen::KeyIdMethod::Sha256,
            };
            let list = list.signed_by(&rcgen::Issuer::from_params(&params, &key)).unwrap();
            for bytes in [list.der().to_vec(), list.pem().unwrap().into_bytes()] {
                assert_eq!(detect(&bytes), Ok(Shown::Other(Other::Crl)), "{names}");
            }
        }
        let der = certificate.der().to_vec();
        assert_eq!(detect(&der), Ok(Shown::Certificates(vec![der.clone()])));
    }

    #[test]
    fn what_is_nothing_is_refused() {
        for text in [
            "",
            " \n",
            "hello",
            "{}",
            "[]",
            "eyJh.b",
            "00ff",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
        ] {
            assert!(detect(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(detect(&vec![b'a'; MAX_BYTES + 1]), Err(Error::TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_are_something_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
            let _ = detect(&bytes);
        }

        #[test]
        fn any_text_is_something_or_refused(text in "[{}\"a-z_:,\\[\\]0-9 .=+/-]{0,200}") {
            let _ = detect(text.as_bytes());
        }

        #[test]
        fn a_report_with_one_changed_byte_never_panics(at in 0_usize..1184, byte in any::<u8>()) {
            let mut bytes = raw_report();
            bytes[at] = byte;
            let _ = detect(&bytes);
        }
    }
}
