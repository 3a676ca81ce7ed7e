//! Certificates: a chip's key by its maker's root, everybody else's by the roots that were given.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::X509Certificate;

use super::hardware::{conclusion, snp_roots};
use super::verdict::Verdict;
use super::wanted::usage;
use super::{Question, time};
use crate::appraise::check::Check;
use crate::appraise::expect::{self, Word};
use crate::appraise::snp;
use crate::config::spiffe::PeerPattern;
use crate::evidence::shown;
use crate::evidence::twin::Field;
use crate::finding::{Class, Finding, printable};
use crate::formats::ear::TrustAnchors;
use crate::formats::{hex, x509};
use crate::ports::files::{DER, MAX_CERTIFICATES, read};
use crate::tls::peer::identity;

/// A revocation list in a file: DER, or PEM with one.
pub(super) fn read_crl(path: &Path) -> Result<Vec<u8>, Finding> {
    use rustls::pki_types::CertificateRevocationListDer;
    use rustls::pki_types::pem::PemObject as _;
    let bytes = read(path, MAX_CERTIFICATES)?;
    if bytes.first() == Some(&DER) {
        return Ok(bytes);
    }
    let list = CertificateRevocationListDer::from_pem_slice(&bytes).map_err(|_| {
        usage(format!("{} holds no revocation list", path.display()), "give --crl AMD's list, in DER or PEM")
    })?;
    Ok(list.as_ref().to_vec())
}

/// Certificates as they were shown.
pub(super) fn judge(ders: &[Vec<u8>], question: &Question<'_>) -> Result<Verdict, Finding> {
    only_identity(question)?;
    let chips =
        ders.iter().filter_map(|der| x509::read(der)).any(|certificate| snp::KeyKind::of(&certificate).is_some());
    if chips && question.wanted.identity.is_none() {
        chip(ders, question)
    } else {
        member("certificate", ders, question)
    }
}

/// A VCEK or VLEK. That it is genuine is all that it can be: it says nothing of any guest.
fn chip(ders: &[Vec<u8>], question: &Question<'_>) -> Result<Verdict, Finding> {
    let roots = snp_roots(question)?;
    let fields = fields(ders);
    Ok(match snp::key_certificate(ders, &roots, question.now) {
        Ok(key) => {
            let line = key.generation.map_or(String::new(), |generation| format!(" of {generation:?}"));
            let csp = key.csp.map_or(String::new(), |csp| format!(", of {csp}"));
            let finding = Finding::new(Class::NotAppraised, "a key's certificate alone says nothing of any guest")
                .next("give `countersign verify` a report, with this file as --certificates");
            Verdict {
                kind: "certificate",
                what: format!(
                    "the certificate of a {}{line}{csp}, for TCB {}",
                    key.kind.label(),
                    expect::tcb_text(key.tcb)
                ),
                word: Word::NotAppraised,
                finding: Some(finding),
                checks: vec![Check::held("snp.chain", "it leads to a trusted root, and is valid at this time")],
                fields,
            }
        }
        Err(error) => {
            // The messages are about reports, which come with such certificates.
            let saw = format!("a report with it {error}");
            let finding = Finding::new(Class::EvidenceRejected, saw.clone()).next(
                "fetch the certificate anew from AMD's key server; where other roots are right, name them with --roots",
            );
            Verdict {
                kind: "certificate",
                what: "the certificate of an AMD key".to_owned(),
                word: Word::NotGenuine,
                finding: Some(finding),
                checks: vec![Check::failed("snp.chain", saw)],
                fields,
            }
        }
    })
}

/// A member of a mesh, or anybody else: judged by the roots that were given.
pub(super) fn member(kind: &'static str, ders: &[Vec<u8>], question: &Question<'_>) -> Result<Verdict, Finding> {
    let who = ders.first().map(|der| identity(&CertificateDer::from(der.as_slice())));
    let named = match &who {
        Some(Ok(id)) => printable(&id.to_string(), 240),
        Some(Err(reason)) => format!("nobody by name ({})", reason.label()),
        None => "nobody: no certificate was shown".to_owned(),
    };
    let what = format!("a certificate for {named}");
    let fields = fields(ders);
    let pattern = question.wanted.identity.as_deref().map(|text| {
        PeerPattern::parse(text).map_err(|why| {
            usage(format!("--expect {why}"), "write --expect as spiffe://<trust domain>/<path>, or dns:<name>")
        })
    });
    let pattern = pattern.transpose()?;
    let Some(pem) = question.roots else {
        let finding = Finding::new(Class::EvidenceRejected, "nobody is trusted to vouch for it: no --roots were given")
            .why("a name in a certificate is worth what its issuer is")
            .next("give --roots the mesh's roots (PEM), and --expect the identity");
        let checks = vec![Check::not_checked("certificate.chain", "no roots were given")];
        return Ok(Verdict { kind, what, word: Word::NotGenuine, finding: Some(finding), checks, fields });
    };
    let anchors = TrustAnchors::from_pem(pem).map_err(|error| {
        usage(format!("the trusted certificates in --roots {error}"), "give --roots a PEM file with the mesh's roots")
    })?;
    if let Err(error) = anchors.endorse(ders, question.now) {
        let finding = Finding::new(Class::EvidenceRejected, format!("the certificate chain {error}"))
            .why("a name in a certificate is worth what its issuer is")
            .next("check that --roots are the mesh's roots, and that the certificate was renewed in time");
        let checks = vec![Check::failed("certificate.chain", format!("the certificate chain {error}"))];
        return Ok(Verdict { kind, what, word: Word::NotGenuine, finding: Some(finding), checks, fields });
    }
    let mut judged = Vec::new();
    if let Some(pattern) = &pattern {
        let expected = matches!(&who, Some(Ok(id)) if pattern.matches(id));
        let said = format!("it is for {named}, expected {}", printable(&pattern.to_string(), 240));
        judged.push(if expected {
            Check::held("expect.identity", said)
        } else {
            Check::failed("expect.identity", said)
        });
    }
    let missing: &[&str] = if pattern.is_some() { &[] } else { &["which identity it must have (--expect)"] };
    let word = expect::word(&judged, pattern.is_none(), missing);
    let mut finding = conclusion(word, &judged, missing);
    if word == Word::NotAppraised {
        finding = finding.map(|finding| finding.next("give --expect the identity, as spiffe://…"));
    }
    let mut checks =
        vec![Check::held("certificate.chain", "it leads to one of the given roots, and is valid at this time")];
    checks.extend(judged);
    Ok(Verdict { kind, what, word, finding, checks, fields })
}

/// Expectations about guests cannot be held to a certificate, and are never passed over.
pub(super) fn only_identity(question: &Question<'_>) -> Result<(), Finding> {
    if !question.wanted.of_a_guest() {
        return Ok(());
    }
    Err(usage(
        "an expectation about a guest stands beside a certificate",
        "give --expect and --roots; what a live sidecar's evidence must show, write into --pins",
    ))
}

pub(super) fn fields(ders: &[Vec<u8>]) -> Vec<Field> {
    let field = |name, value: String, says: &str| Field { name, value, says: says.to_owned() };
    let mut fields = Vec::new();
    for der in ders.iter().take(shown::MAX_CERTIFICATES) {
        let Some(certificate) = x509::read(der) else {
            fields.push(field("certificate", format!("{} bytes", der.len()), "cannot be read"));
            continue;
        };
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
        fields.push(field("subject", printable(&certificate.subject().to_string(), 200), ""));
        fields.push(field("issuer", printable(&certificate.issuer().to_string(), 200), own(&certificate)));
        let validity = certificate.validity();
        let at = |time: x509_parser::time::ASN1Time| time::text(u64::try_from(time.timestamp()).unwrap_or(0));
        fields.push(field("validity", format!("{} to {}", at(validity.not_before), at(validity.not_after)), ""));
        fields.push(field("sha256", hex::encode(digest.as_ref()), "of the certificate"));
    }
    fields
}

fn own(certificate: &X509Certificate<'_>) -> &'static str {
    if certificate.subject().as_raw() == certificate.issuer().as_raw() { "itself" } else { "" }
}
