//! TDX: quotes of versions 4 and 5 with their signature data (Intel's DCAP quote format), and
//! Trustee's JSON of them.
//!
//! The whole chain of signatures is there: PCK certificates, the QE's report, the attestation
//! key, the quote. What is left out is collateral: no TCB info, no QE identity, no revocation;
//! the verifier claims `UpToDate` for everything that is signed.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::pki::{INSTANCE, PPID, Vendor, chained, point};
use super::{Lie, Refusal, Verified, field, hex, padded, put};

/// Length of a quote's header, bytes.
const HEADER: usize = 48;
/// Length of the TD report body of TDX 1.0, bytes, and of 1.5.
const BODY_1_0: usize = 584;
const BODY_1_5: usize = 648;
/// Length of an SGX report body, bytes: what the quoting enclave's key is bound by.
const QE_REPORT: usize = 384;
/// Offset of the report data in it.
const QE_REPORT_DATA: usize = 320;
/// Data that the QE adds to its own report, 32 bytes in every real quote.
const QE_AUTH: [u8; 32] = [0x0a; 32];
/// Bit 0 of TD attributes: the host may debug the TD.
pub const ATTRIBUTES_DEBUG: u64 = 1;
/// Bit 28, `SEPT_VE_DISABLE`, is set in every Linux guest.
const ATTRIBUTES: u64 = 1 << 28;

/// The format of a quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuoteKind {
    /// Version 4, as most platforms answer.
    V4,
    /// Version 5 with a body of TDX 1.0.
    V5Tdx10,
    /// Version 5 with a body of TDX 1.5.
    V5Tdx15,
}

/// A guest.
#[derive(Clone, Debug)]
pub struct TdxGuest {
    /// Who made the platform.
    pub vendor: Arc<Vendor>,
    /// Format of its quotes.
    pub kind: QuoteKind,
    /// Measurement of the initial TD.
    pub mr_td: [u8; 48],
    /// Host's configuration: the digest of initdata.
    pub mr_config_id: [u8; 48],
    /// Run-time measurements.
    pub rtmr: [[u8; 48]; 4],
    /// TD attributes; see [`ATTRIBUTES_DEBUG`].
    pub attributes: u64,
    /// Who signed the TDX module; zero for Intel.
    pub module_signer: [u8; 48],
    /// Event log, as `cc_eventlog` carries it. The verifier does not replay it.
    pub ccel: Option<Vec<u8>>,
    /// How its hardware lies.
    pub lie: Lie,
}

impl TdxGuest {
    /// A guest of [`Vendor::ours`], with quotes of version 4.
    pub fn v4() -> Self {
        Self {
            vendor: Vendor::ours(),
            kind: QuoteKind::V4,
            mr_td: [0x7d; 48],
            mr_config_id: [0; 48],
            rtmr: [[0x10; 48], [0x11; 48], [0x12; 48], [0; 48]],
            attributes: ATTRIBUTES,
            module_signer: [0; 48],
            ccel: None,
            lie: Lie::None,
        }
    }

    /// With quotes of version 5, body of TDX 1.5.
    pub fn v5() -> Self {
        Self { kind: QuoteKind::V5Tdx15, ..Self::v4() }
    }

    /// Launched with this initdata: its digest is in `mr_config_id`.
    #[must_use]
    pub fn initdata(mut self, digest: &[u8]) -> Self {
        self.mr_config_id = padded(digest);
        self
    }

    /// Lying so.
    #[must_use]
    pub fn lying(mut self, lie: Lie) -> Self {
        self.lie = lie;
        self
    }

    /// A quote over these 64 bytes: what the kernel puts into `outblob`.
    pub fn quote(&self, report_data: &[u8; 64]) -> Vec<u8> {
        if let Lie::Replayed(bytes) = &self.lie {
            return bytes.clone();
        }
        let shown = if self.lie == Lie::WrongReportData { &[0x66; 64] } else { report_data };
        let mut quote = self.header();
        let body = self.body(shown);
        if self.kind != QuoteKind::V4 {
            let kind: u16 = if self.kind == QuoteKind::V5Tdx10 { 2 } else { 3 };
            quote.extend(kind.to_le_bytes());
            quote.extend(length(body.len()));
        }
        quote.extend(body);
        let signatures = self.signatures(&quote);
        if self.lie == Lie::Tampered {
            let at = quote.len() - self.body_length() + 136;
            put(&mut quote, at, &[self.mr_td.first().copied().unwrap_or(0) ^ 1]);
        }
        quote.extend(length(signatures.len()));
        quote.extend(signatures);
        quote
    }

    fn header(&self) -> Vec<u8> {
        let mut header = vec![0; HEADER];
        let version: u16 = if self.kind == QuoteKind::V4 { 4 } else { 5 };
        put(&mut header, 0, &version.to_le_bytes());
        put(&mut header, 2, &2_u16.to_le_bytes()); // ECDSA P-256
        put(&mut header, 4, &0x81_u32.to_le_bytes()); // TDX
        // Intel's own QE.
        put(&mut header, 12, b"\x93\x9a\x72\x33\xf7\x9c\x4c\xa9\x94\x0a\x0d\xb3\x95\x7f\x06\x07");
        header
    }

    fn body_length(&self) -> usize {
        if self.kind == QuoteKind::V5Tdx15 { BODY_1_5 } else { BODY_1_0 }
    }

    fn body(&self, report_data: &[u8; 64]) -> Vec<u8> {
        let mut body = vec![0; self.body_length()];
        put(&mut body, 0, &[5, 1, 2]); // tcb_svn
        put(&mut body, 16, &[0x5e; 48]); // mr_seam
        put(&mut body, 64, &self.module_signer);
        put(&mut body, 120, &self.attributes.to_le_bytes());
        put(&mut body, 128, &0x0006_02e7_u64.to_le_bytes()); // xfam: x87, SSE, AVX, AVX-512, PKRU, AMX
        put(&mut body, 136, &self.mr_td);
        put(&mut body, 184, &self.mr_config_id);
        for (register, at) in self.rtmr.iter().zip([328, 376, 424, 472]) {
            put(&mut body, at, register);
        }
        put(&mut body, 520, report_data);
        if self.kind == QuoteKind::V5Tdx15 {
            put(&mut body, 584, &[5, 1, 2]); // tee_tcb_svn2
        }
        body
    }

    /// Signature, attestation key, and certification data of type 6 around that of type 5.
    fn signatures(&self, signed: &[u8]) -> Vec<u8> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("randomness");
        let attestation_key = key.public_key().as_ref().get(1..).expect("an uncompressed point").to_vec();
        let mut qe_report = vec![0; QE_REPORT];
        let bound = digest(&SHA256, &[attestation_key.as_slice(), &QE_AUTH].concat());
        put(&mut qe_report, QE_REPORT_DATA, bound.as_ref());
        let stranger = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("randomness");
        let pck = if self.lie == Lie::OtherKey { &stranger } else { &self.vendor.pck().key };
        let sign = |key: &EcdsaKeyPair, bytes: &[u8]| key.sign(&SystemRandom::new(), bytes).expect("randomness");
        let chain = self.vendor.pck_chain();
        let mut inner = qe_report.clone();
        inner.extend(sign(pck, &qe_report).as_ref());
        inner.extend(u16::try_from(QE_AUTH.len()).expect("32").to_le_bytes());
        inner.extend(QE_AUTH);
        inner.extend(5_u16.to_le_bytes());
        inner.extend(length(chain.len()));
        inner.extend(chain.as_bytes());
        let mut outer = sign(&key, signed).as_ref().to_vec();
        outer.extend(attestation_key);
        outer.extend(6_u16.to_le_bytes());
        outer.extend(length(inner.len()));
        outer.extend(inner);
        outer
    }

    /// Trustee's JSON of a quote over these bytes.
    pub fn evidence(&self, report_data: &[u8; 64]) -> Value {
        let log = self.ccel.as_ref().map(|log| STANDARD.encode(log));
        json!({"cc_eventlog": log, "quote": STANDARD.encode(self.quote(report_data))})
    }

    /// `(outblob, auxblob)` for report data: what stands behind a simulated configfs.
    pub fn signer(&self) -> impl Fn(&[u8; 64]) -> (Vec<u8>, Vec<u8>) + Send + Sync + 'static {
        let guest = self.clone();
        move |report_data| (guest.quote(report_data), Vec::new())
    }
}

/// Lengths in quotes: four bytes, little-endian.
fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("quotes are small").to_le_bytes()
}

/// Trustee's checks, in its order; see the module for what is left out.
pub fn verify(
    vendor: &Vendor,
    evidence: &Value,
    report_data: &[u8; 64],
    init_data: Option<&[u8]>,
) -> Result<Verified, Refusal> {
    let text = evidence.get("quote").and_then(Value::as_str).ok_or(Refusal::Malformed)?;
    let quote = STANDARD.decode(text).map_err(|_| Refusal::Malformed)?;
    let (signed, body) = parts(&quote)?;
    let signatures = quote.get(signed.len() + 4..).ok_or(Refusal::Malformed)?;
    check_signatures(vendor, signed, signatures)?;
    if field(body, 520) != Some(*report_data) {
        return Err(Refusal::ReportData);
    }
    let config_id: [u8; 48] = field(body, 184).ok_or(Refusal::Malformed)?;
    if init_data.is_some_and(|digest| padded::<48>(digest) != config_id) {
        return Err(Refusal::InitData);
    }
    let attributes = u64::from_le_bytes(field(body, 120).ok_or(Refusal::Malformed)?);
    let debug = attributes & ATTRIBUTES_DEBUG != 0;
    let measurement = hex(&field::<48>(body, 136).ok_or(Refusal::Malformed)?);
    let range = |at: usize, length: usize| hex(body.get(at..at + length).unwrap_or_default());
    let claims = json!({
        "quote": {
            "header": {"version": hex(quote.get(..2).unwrap_or_default()), "att_key_type": "0200", "tee_type": "81000000"},
            "body": {
                "tcb_svn": range(0, 16), "mr_seam": range(16, 48), "mrsigner_seam": range(64, 48),
                "seam_attributes": range(112, 8), "td_attributes": range(120, 8), "xfam": range(128, 8),
                "mr_td": measurement, "mr_config_id": range(184, 48), "mr_owner": range(232, 48),
                "mr_owner_config": range(280, 48), "rtmr_0": range(328, 48), "rtmr_1": range(376, 48),
                "rtmr_2": range(424, 48), "rtmr_3": range(472, 48), "report_data": range(520, 64),
            },
        },
        "td_attributes": {"debug": debug},
        "platform_provider_id": hex(&PPID), "platform_instance_id": hex(&INSTANCE),
        "tcb_status": "UpToDate", "collateral_expiration_status": "0", "advisory_ids": [],
    });
    Ok(Verified { claims, report_data: hex(report_data), init_data: Some(hex(&config_id)), measurement, debug })
}

/// What is signed, and the TD report body at its end.
fn parts(quote: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let version = u16::from_le_bytes(field(quote, 0).ok_or(Refusal::Malformed)?);
    let (start, length) = match version {
        4 => (HEADER, BODY_1_0),
        5 => {
            let kind = u16::from_le_bytes(field(quote, HEADER).ok_or(Refusal::Malformed)?);
            let said = u32::from_le_bytes(field(quote, HEADER + 2).ok_or(Refusal::Malformed)?);
            let length = match kind {
                2 => BODY_1_0,
                3 => BODY_1_5,
                _ => return Err(Refusal::Malformed),
            };
            if usize::try_from(said) != Ok(length) {
                return Err(Refusal::Malformed);
            }
            (HEADER + 6, length)
        }
        _ => return Err(Refusal::Version),
    };
    let signed = quote.get(..start + length).ok_or(Refusal::Malformed)?;
    Ok((signed, signed.get(start..).ok_or(Refusal::Malformed)?))
}

fn check_signatures(vendor: &Vendor, signed: &[u8], data: &[u8]) -> Result<(), Refusal> {
    let signature: [u8; 64] = field(data, 0).ok_or(Refusal::Malformed)?;
    let key: [u8; 64] = field(data, 64).ok_or(Refusal::Malformed)?;
    // Type and length of the outer certification data, then the QE's report.
    let inner = data.get(134..).ok_or(Refusal::Malformed)?;
    let qe_report: [u8; QE_REPORT] = field(inner, 0).ok_or(Refusal::Malformed)?;
    let qe_signature: [u8; 64] = field(inner, QE_REPORT).ok_or(Refusal::Malformed)?;
    let auth_length = usize::from(u16::from_le_bytes(field(inner, QE_REPORT + 64).ok_or(Refusal::Malformed)?));
    let auth = inner.get(QE_REPORT + 66..QE_REPORT + 66 + auth_length).ok_or(Refusal::Malformed)?;
    let pem = inner.get(QE_REPORT + 66 + auth_length + 6..).ok_or(Refusal::Malformed)?;
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| Refusal::Chain)?;
    let [pck, between, root] = chain.as_slice() else { return Err(Refusal::Chain) };
    if root.as_ref() != vendor.sgx_root() || !chained(&[pck, between, root]) {
        return Err(Refusal::Chain);
    }
    let verify = |point: &[u8], bytes: &[u8], signature: &[u8]| {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(bytes, signature).map_err(|_| Refusal::Signature)
    };
    verify(&point(pck).ok_or(Refusal::Chain)?, &qe_report, &qe_signature)?;
    let bound = digest(&SHA256, &[key.as_slice(), auth].concat());
    if field::<32>(&qe_report, QE_REPORT_DATA).as_ref().map(<[u8; 32]>::as_slice) != Some(bound.as_ref()) {
        return Err(Refusal::Signature);
    }
    verify(&[&[4][..], &key].concat(), signed, &signature)
}
