//! The signatures in a quote: Intel's root → PCK → the quoting enclave's report → the attestation
//! key → header and body.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use x509_parser::prelude::X509Certificate;

use super::{Error, Root};
use crate::evidence::quote_signature::QuoteSignature;
use crate::evidence::tdx::Quote;
use crate::formats::x509::{EC, P256, key_kind, may_issue, pem_certificates, read, signature_holds, valid};

/// ECDSA P-256 with SHA-256 (`attestation_key_type`).
const ECDSA_P256: u16 = 2;

/// Intel's quoting enclaves: 939a7233-f79c-4ca9-940a-0db3957f0607.
const INTEL_QE: [u8; 16] = *b"\x93\x9a\x72\x33\xf7\x9c\x4c\xa9\x94\x0a\x0d\xb3\x95\x7f\x06\x07";

/// `MRSIGNER` of Intel's quoting enclave for TDX, as Intel's PCS has it in `tdx/v4/qe/identity`. It
/// has been the same since TDX came out.
const TD_QE_SIGNER: [u8; 32] = *b"\xdc\x9e\x2a\x7c\x6f\x94\x8f\x17\x47\x4e\x34\xa7\xfc\x43\xed\x03\
                                  \x0f\x7c\x15\x63\xf1\xba\xbd\xdf\x63\x40\xc8\x2e\x0e\x54\xa8\xc5";

/// `ISVPRODID` of Intel's quoting enclave for TDX (same source).
const TD_QE_PRODUCT: u16 = 2;

/// Most certificates of a PCK chain: leaf, authority, root. A bound of ours.
pub(super) const MAX_CHAIN: usize = 4;

/// Checks every signature of a quote, at `now`.
pub(super) fn check(
    quote: &Quote,
    raw: &[u8],
    parts: &QuoteSignature<'_>,
    pck_chain: &[u8],
    root: &Root,
    now: u64,
) -> Result<(), Error> {
    if quote.attestation_key_type != ECDSA_P256 {
        return Err(Error::Algorithm);
    }
    if quote.qe_vendor_id != INTEL_QE {
        return Err(Error::Vendor);
    }
    let ders = pem_certificates(pck_chain, MAX_CHAIN).ok_or(Error::Certificates)?;
    let chain: Option<Vec<_>> = ders.iter().map(|der| read(der)).collect();
    let chain = chain.ok_or(Error::Certificates)?;
    let (pck, others) = chain.split_first().ok_or(Error::Certificates)?;
    let trusted = read(&root.der).ok_or(Error::Chain)?;
    let authority = others.iter().find(|authority| leads(pck, authority, &trusted)).ok_or(Error::Chain)?;
    if ![pck, authority, &trusted].into_iter().all(|certificate| valid(certificate, now)) {
        return Err(Error::Time);
    }
    if key_kind(pck.public_key()) != (EC.to_owned(), P256.to_owned()) {
        return Err(Error::Algorithm);
    }
    let pck_key = &pck.public_key().subject_public_key.data;
    if !holds(pck_key, parts.qe_report, &parts.qe_report_signature) {
        return Err(Error::QeSignature);
    }
    check_enclave(parts, root)?;
    let bound = digest(&SHA256, &[&parts.attestation_key[..], parts.qe_auth_data].concat());
    let report_data = parts.qe_report_data().ok_or(Error::Form)?;
    let (hash, rest) = report_data.split_at(32);
    if hash != bound.as_ref() || rest.iter().any(|byte| *byte != 0) {
        return Err(Error::QeBinding);
    }
    let signed = quote.signed_bytes();
    let key = [&[4][..], &parts.attestation_key].concat();
    // Over the bytes that came, and those are the ones that were read.
    if raw.starts_with(&signed) && holds(&key, &signed, &parts.signature) { Ok(()) } else { Err(Error::Signature) }
}

/// Whether the PCK was certified by `authority`, and that by the root.
fn leads(pck: &X509Certificate<'_>, authority: &X509Certificate<'_>, root: &X509Certificate<'_>) -> bool {
    authority.subject().as_raw() == pck.issuer().as_raw()
        && authority.issuer().as_raw() == root.subject().as_raw()
        && may_issue(authority, 0)
        && may_issue(root, 1)
        && signature_holds(root, authority)
        && signature_holds(authority, pck)
}

/// A PCK signs the report of any enclave that the platform's owner lets ask for it. So the enclave has
/// to be Intel's. Below another root there is no telling which it should be, only that its key is secret.
fn check_enclave(parts: &QuoteSignature<'_>, root: &Root) -> Result<(), Error> {
    let intels = parts.qe_signer() == Some(TD_QE_SIGNER) && parts.qe_product() == Some(TD_QE_PRODUCT);
    if (intels || root.replaced) && !parts.qe_debug() { Ok(()) } else { Err(Error::QuotingEnclave) }
}

fn holds(key: &[u8], message: &[u8], signature: &[u8; 64]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(message, signature).is_ok()
}
