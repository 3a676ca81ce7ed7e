//! Where Intel's certification service, or a cache of it (PCCS), has what belongs to a quote: paths of
//! its interface, and what the answers are made of.
//!
//! Source: Intel "SGX and TDX Provisioning Certification Service" API, version 4, and the PCCS of Intel's
//! DCAP, which has the same paths and `rootcacrl` beside them. Nothing is believed here: each part is
//! signed, and the judge holds it to Intel's root.

use serde_json::{Value, json};

use crate::formats::hex;
use crate::formats::x509::{pem_certificates, read};

/// Most certificates of a chain in an answer's header; Intel's have two or three.
const MAX_CHAIN: usize = 8;

/// `FMSPC` in the PCK certificate's SGX extension: the OID 1.2.840.113741.1.13.1.4 and an OCTET STRING of
/// six bytes behind it (Intel's PCK certificate profile, table of the SGX extensions).
const FMSPC: &[u8] = b"\x06\x0a\x2a\x86\x48\x86\xf8\x4d\x01\x0d\x01\x04\x04\x06";

/// Which platform a PCK certificate is for, as paths name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Family, model, stepping, platform type and custom SKU: 12 hex digits.
    pub fmspc: String,
    /// `platform` or `processor`: the authority that issued the certificate.
    pub ca: &'static str,
}

/// One part of the collateral: where it is, and in which header its issuers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Below the server's URL.
    pub path: String,
    /// Names of the header with the issuers' chain, percent-encoded PEM; the first that is there counts.
    pub issuers: &'static [&'static str],
}

/// An answer: body, and the issuers' chain where one was asked for.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// As it came.
    pub body: Vec<u8>,
    /// The header's value, as it came.
    pub issuers: Option<String>,
}

impl Platform {
    /// Of a PCK certificate chain, PEM, leaf first. It decides what is asked for, and proves nothing.
    pub fn of(chain: &[u8]) -> Option<Self> {
        // A quote's chain may end in a zero byte.
        let chain = pem_certificates(chain, MAX_CHAIN)?;
        let leaf = read(chain.first()?)?;
        let bytes = leaf.as_raw();
        let at = bytes.windows(FMSPC.len()).position(|window| window == FMSPC)?.checked_add(FMSPC.len())?;
        // In capitals: a PCCS keeps it so, and Intel takes both.
        let fmspc = hex::encode(bytes.get(at..at.checked_add(6)?)?).to_ascii_uppercase();
        let issuer = leaf.issuer().iter_common_name().next()?.as_str().ok()?;
        let ca = if issuer.contains("Platform") { "platform" } else { "processor" };
        Some(Self { fmspc, ca })
    }

    /// The four parts: the root's list, the authority's list, the TCB's levels, the quoting enclave's identity.
    pub fn parts(&self) -> [Part; 4] {
        let part = |path: String, issuers| Part { path, issuers };
        [
            part("/sgx/certification/v4/rootcacrl".to_owned(), &[]),
            part(format!("/sgx/certification/v4/pckcrl?ca={}&encoding=der", self.ca), &["sgx-pck-crl-issuer-chain"]),
            part(
                format!("/tdx/certification/v4/tcb?fmspc={}", self.fmspc),
                &["tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain"],
            ),
            part("/tdx/certification/v4/qe/identity".to_owned(), &["sgx-enclave-identity-issuer-chain"]),
        ]
    }
}

/// The four answers in the JSON form of dcap-qvl, or which of them is not what it should be.
pub fn collateral([root, pck, tcb, enclave]: &[Answer; 4]) -> Result<Value, &'static str> {
    let (tcb_info, tcb_signature) = signed(&tcb.body, "tcbInfo").ok_or("tcb")?;
    let (identity, identity_signature) = signed(&enclave.body, "enclaveIdentity").ok_or("qe/identity")?;
    Ok(json!({
        "root_ca_crl": list(&root.body).ok_or("rootcacrl")?,
        "pck_crl": list(&pck.body).ok_or("pckcrl")?,
        "pck_crl_issuer_chain": chain(pck).ok_or("pckcrl")?,
        "tcb_info": tcb_info,
        "tcb_info_signature": tcb_signature,
        "tcb_info_issuer_chain": chain(tcb).ok_or("tcb")?,
        "qe_identity": identity,
        "qe_identity_signature": identity_signature,
        "qe_identity_issuer_chain": chain(enclave).ok_or("qe/identity")?,
    }))
}

/// A list in DER, or as a PCCS writes it, in hex: as hex.
fn list(body: &[u8]) -> Option<String> {
    let der = match std::str::from_utf8(body).ok().and_then(|text| hex::decode(text.trim())) {
        Some(der) => der,
        None => body.to_vec(),
    };
    (der.first() == Some(&0x30)).then(|| hex::encode(&der))
}

/// `{"tcbInfo":{…},"signature":"…"}`: the text that is signed, byte for byte, and the signature, hex.
fn signed<'a>(body: &'a [u8], member: &str) -> Option<(&'a str, &'a str)> {
    let text = std::str::from_utf8(body).ok()?.trim();
    let inside = text.strip_prefix("{\"")?.strip_prefix(member)?.strip_prefix("\":")?.strip_suffix("\"}")?;
    let (object, signature) = inside.rsplit_once(",\"signature\":\"")?;
    (hex::decode(signature)?.len() == 64).then_some((object, signature))
}

fn chain(answer: &Answer) -> Option<String> {
    let pem = percent_decoded(answer.issuers.as_deref()?)?;
    pem_certificates(pem.as_bytes(), MAX_CHAIN).map(|_| pem)
}

/// RFC 3986 §2.1; a `+` stands for itself, since PEM has it.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let decoded = match byte {
            b'%' => {
                let pair = [bytes.next()?, bytes.next()?];
                *hex::decode(std::str::from_utf8(&pair).ok()?)?.first()?
            }
            byte => byte,
        };
        out.push(decoded);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_intel_signed_is_kept_to_the_byte() {
        let signature = "ab".repeat(64);
        let body = format!("{{\"tcbInfo\":{{\"b\":1,\"a\":[2]}},\"signature\":\"{signature}\"}}");
        assert_eq!(signed(body.as_bytes(), "tcbInfo"), Some(("{\"b\":1,\"a\":[2]}", signature.as_str())));
        for other in [
            body.replace("tcbInfo", "tcb"),
            body.replace("abab", "ab"),
            body.replace("ab", "zz"),
            "<html>".to_owned(),
            String::new(),
        ] {
            assert_eq!(signed(other.as_bytes(), "tcbInfo"), None, "{other}");
        }
    }

    #[test]
    fn a_list_is_der_or_the_hex_of_it() {
        assert_eq!(list(&[0x30, 1, 2]), Some("300102".to_owned()));
        assert_eq!(list(b"300102\n"), Some("300102".to_owned()));
        for other in [&b""[..], b"<html>", b"310102", b"30010"] {
            assert_eq!(list(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_header_is_decoded_and_a_plus_is_one() {
        assert_eq!(percent_decoded("a%20b%0A+c").as_deref(), Some("a b\n+c"));
        for wrong in ["%", "%2", "%zz", "%ff"] {
            assert_eq!(percent_decoded(wrong), None, "{wrong}");
        }
    }
}
