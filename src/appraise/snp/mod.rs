//! Whether an SEV-SNP report is genuine: made by a chip of AMD's, at the TCB that it reports.
//!
//! The order: form, chain of the key to a root, validity, the report's signature, the certificate's
//! TCB and chip against the report's. What could not be checked is in the answer, by name. Whether a
//! genuine report is the expected one is another question: [`super::expect`].

mod crl;
mod roots;
mod vek;

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use x509_parser::prelude::X509Certificate;

use super::check::Check;
use crate::evidence::snp::{Generation, Report, Tcb};
use crate::formats::x509::{EC, P384, key_kind, may_issue, read, signature_holds, valid};
pub use roots::{MAX_CERTIFICATE, MAX_CERTIFICATES, Roots, RootsError};
pub use vek::KeyKind;
use vek::{Vek, common_name, is_chip};

/// Bit 1 of `KEY_INFO`: the chip's id is masked (ABI table 23).
const MASK_CHIP_KEY: u32 = 1 << 1;

/// ECDSA P-384 with SHA-384 (ABI table 139).
const ECDSA_P384: u32 = 1;

/// What stands beside a report. All of it is whoever showed it's.
#[derive(Clone, Copy, Debug)]
pub struct Beside<'a> {
    /// DER: the VCEK or VLEK, and authorities, in any order.
    pub certificates: &'a [Vec<u8>],
    /// AMD's revocation list, DER; without it revocation is told as not checked.
    pub crl: Option<&'a [u8]>,
}

/// A report that a chip of this maker's made. Comes from [`genuine`] only.
#[derive(Clone, Debug)]
pub struct Genuine {
    report: Report,
    /// The line of processors whose root vouches; none where replaced roots do not say.
    pub generation: Option<Generation>,
    /// Which key signed.
    pub key: KeyKind,
    /// The cloud that a VLEK names.
    pub csp: Option<String>,
    /// What was checked, and what could not be.
    pub checks: Vec<Check>,
}

/// Why a report is not genuine. Each message continues "the report …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No VCEK and no VLEK.
    #[error("comes without the certificate of the key that signed it (VCEK or VLEK)")]
    NoKey,
    /// More than one.
    #[error("comes with more than one VCEK or VLEK")]
    TwoKeys,
    /// A certificate that does not parse, or is too long.
    #[error("comes with a certificate that cannot be read (number {0}, counted from 1)")]
    Certificate(usize),
    /// More than a chain has.
    #[error("comes with more than 16 certificates")]
    TooMany,
    /// An extension of AMD's that must be there is not.
    #[error("comes with a VCEK or VLEK that lacks AMD's extensions, or has them in another form")]
    Extensions,
    /// The key is not P-384.
    #[error("comes with a VCEK or VLEK whose key is not P-384")]
    KeyForm,
    /// The chain does not end at a root.
    #[error("is signed by a key that no trusted root of AMD's vouches for")]
    Chain,
    /// The chain ends at the root of another line of processors.
    #[error("names another line of processors than the root that vouches for its key")]
    Line,
    /// The report says one key kind, the certificate is of another.
    #[error("says that it was signed by another kind of key than the certificate is for")]
    Kind,
    /// The certificate is not yet valid.
    #[error("is signed by a key whose certificate is not valid yet at this time")]
    NotYet,
    /// The certificate has expired.
    #[error("is signed by a key whose certificate has expired at this time")]
    Expired,
    /// An authority's certificate is not valid.
    #[error("is signed by a key whose authority's certificate is not valid at this time")]
    AuthorityTime,
    /// Another algorithm.
    #[error("is signed with another algorithm than ECDSA P-384 with SHA-384")]
    Algorithm,
    /// The signature is not the key's.
    #[error("has a signature that does not hold: it was changed, or is by another key")]
    Signature,
    /// The key was derived for another TCB.
    #[error("reports another TCB than the one that the key's certificate is for")]
    Tcb,
    /// The key is another chip's.
    #[error("has another chip id than the key's certificate")]
    Hwid,
    /// The list is no list, or nobody's.
    #[error("comes with a revocation list that is not the root's, or cannot be read")]
    Crl,
    /// The list is old.
    #[error("comes with a revocation list that is not valid at this time")]
    CrlTime,
    /// The authority is on it.
    #[error("is signed by a key whose authority AMD has revoked")]
    Revoked,
}

impl Genuine {
    /// The report, believed as far as its maker is.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Whether the report hides its chip.
    pub fn chip_is_hidden(&self) -> bool {
        hidden(&self.report)
    }
}

/// A chip's or cloud's key certificate that a root vouches for. Comes from [`key_certificate`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyCertificate {
    /// Which kind.
    pub kind: KeyKind,
    /// The line of processors; none where replaced roots do not say.
    pub generation: Option<Generation>,
    /// The TCB that the key was derived for.
    pub tcb: Tcb,
    /// The cloud that a VLEK names.
    pub csp: Option<String>,
    /// The chip that a VCEK is for, 8 or 64 bytes.
    hwid: Option<Vec<u8>>,
}

impl KeyCertificate {
    /// Whether it can be the one of the key that signed this report: of its line, of the kind that the
    /// report says, for its chip and its TCB. The signature is another question.
    ///
    /// AMD derives a key from chip and TCB, so a certificate that is another chip's, or from before an
    /// update, shows as a signature that does not hold. This says why.
    pub fn is_for(&self, report: &Report) -> Result<(), Error> {
        if let (Some(says), Some(is)) = (report.generation(), self.generation)
            && says != is
        {
            return Err(Error::Line);
        }
        check_kind(report, self.kind)?;
        let chip = self.hwid.as_deref().filter(|_| !hidden(report));
        if chip.is_some_and(|hwid| !is_chip(hwid, &report.chip_id)) {
            return Err(Error::Hwid);
        }
        if report.reported_tcb == self.tcb { Ok(()) } else { Err(Error::Tcb) }
    }
}

/// Whether the VCEK or VLEK among these certificates leads to a root, at `now`, seconds since 1970.
pub fn key_certificate(certificates: &[Vec<u8>], roots: &Roots, now: u64) -> Result<KeyCertificate, Error> {
    let certificates = read_all(certificates)?;
    let key = endorsed(&certificates, roots)?;
    check_time(key.vek, now)?;
    check_authorities(&key, now)?;
    let Vek { kind, tcb, hwid, csp } = key.facts;
    Ok(KeyCertificate { kind, generation: key.generation, tcb, csp, hwid })
}

/// Whether a report is genuine at `now`, seconds since 1970.
pub fn genuine(report: &Report, beside: &Beside<'_>, roots: &Roots, now: u64) -> Result<Genuine, Error> {
    let certificates = read_all(beside.certificates)?;
    let key = endorsed(&certificates, roots)?;
    let facts = &key.facts;
    if let (Some(says), Some(is)) = (report.generation(), key.generation)
        && says != is
    {
        return Err(Error::Line);
    }
    check_kind(report, facts.kind)?;
    check_time(key.vek, now)?;
    check_authorities(&key, now)?;
    check_signature(report, key.vek)?;
    if report.reported_tcb != facts.tcb {
        return Err(Error::Tcb);
    }
    let whose = if roots.are_replaced() { "a root given in place of AMD's".to_owned() } else { root_name(&key.root) };
    let checks = vec![
        Check::held("snp.signature", format!("ECDSA P-384 over the report, by its {}", facts.kind.label())),
        Check::held("snp.chain", format!("{} and its authority lead to {whose}", facts.kind.label())),
        Check::held("snp.validity", "all certificates of the chain are valid at this time"),
        Check::held("snp.tcb", "the certificate's TCB is the reported one"),
        hwid(report, facts)?,
        match beside.crl {
            Some(list) => {
                crl::check(list, &key.root, &key.authority, now)?;
                Check::held("snp.crl", "the root's revocation list does not name the key's authority")
            }
            None => Check::not_checked("snp.crl", "revocation: no list of the root's was given"),
        },
    ];
    let csp = facts.csp.clone();
    Ok(Genuine { report: report.clone(), generation: key.generation, key: facts.kind, csp, checks })
}

fn read_all(ders: &[Vec<u8>]) -> Result<Vec<X509Certificate<'_>>, Error> {
    if ders.len() > MAX_CERTIFICATES {
        return Err(Error::TooMany);
    }
    let mut certificates = Vec::new();
    for (index, der) in ders.iter().enumerate() {
        let certificate = (der.len() <= MAX_CERTIFICATE).then(|| read(der)).flatten();
        certificates.push(certificate.ok_or(Error::Certificate(index.saturating_add(1)))?);
    }
    Ok(certificates)
}

/// The one VCEK or VLEK. The same one twice is still one.
fn the_key<'c, 'd>(certificates: &'c [X509Certificate<'d>]) -> Result<&'c X509Certificate<'d>, Error> {
    let mut keys = certificates.iter().filter(|certificate| KeyKind::of(certificate).is_some());
    let first = keys.next().ok_or(Error::NoKey)?;
    if keys.all(|other| other.as_raw() == first.as_raw()) { Ok(first) } else { Err(Error::TwoKeys) }
}

/// A key's certificate, and who vouches for it.
struct Endorsed<'k, 'a> {
    vek: &'k X509Certificate<'a>,
    facts: Vek,
    authority: X509Certificate<'a>,
    root: X509Certificate<'a>,
    generation: Option<Generation>,
}

/// Finds the key among the certificates, and the root and the authority that vouch for it. Authorities
/// that came along count as far as a trusted root signed them. Nothing is said of time.
fn endorsed<'k, 'a>(given: &'k [X509Certificate<'a>], roots: &'a Roots) -> Result<Endorsed<'k, 'a>, Error> {
    let vek = the_key(given)?;
    let facts = Vek::read(vek).ok_or(Error::Extensions)?;
    if key_kind(vek.public_key()) != (EC.to_owned(), P384.to_owned()) {
        return Err(Error::KeyForm);
    }
    for line in &roots.lines {
        let Some(root) = read(&line.root) else { continue };
        let mut known = line.below.iter().filter_map(|der| read(der)).chain(given.iter().cloned());
        let found = known.find(|authority| {
            authority.subject().as_raw() == vek.issuer().as_raw()
                && authority.issuer().as_raw() == root.subject().as_raw()
                && authority_fits(authority, vek)
                && may_issue(&root, 1)
                && may_issue(authority, 0)
                && signature_holds(&root, authority)
                && signature_holds(authority, vek)
        });
        if let Some(authority) = found {
            return Ok(Endorsed { vek, facts, authority, root, generation: line.generation });
        }
    }
    Err(Error::Chain)
}

fn check_authorities(key: &Endorsed<'_, '_>, now: u64) -> Result<(), Error> {
    if valid(&key.authority, now) && valid(&key.root, now) { Ok(()) } else { Err(Error::AuthorityTime) }
}

/// VLEKs have authorities of their own (`SEV-VLEK-Milan`), which certify no VCEK, nor others a VLEK.
fn authority_fits(authority: &X509Certificate<'_>, vek: &X509Certificate<'_>) -> bool {
    let for_vlek = common_name(authority).is_some_and(|name| name.starts_with("SEV-VLEK-"));
    for_vlek == (KeyKind::of(vek) == Some(KeyKind::Vlek))
}

/// Which key signed a report, as it says itself: bits 2 to 4 of `KEY_INFO`, 0 VCEK, 1 VLEK, 7 none.
pub fn key_kind_of(report: &Report) -> Option<KeyKind> {
    match report.key_info >> 2 & 7 {
        0 => Some(KeyKind::Vcek),
        1 => Some(KeyKind::Vlek),
        _ => None,
    }
}

fn check_kind(report: &Report, kind: KeyKind) -> Result<(), Error> {
    if key_kind_of(report) == Some(kind) { Ok(()) } else { Err(Error::Kind) }
}

fn check_time(vek: &X509Certificate<'_>, now: u64) -> Result<(), Error> {
    if valid(vek, now) {
        return Ok(());
    }
    let early = i64::try_from(now).is_ok_and(|now| now < vek.validity().not_before.timestamp());
    Err(if early { Error::NotYet } else { Error::Expired })
}

/// The numbers are little-endian and padded to 72 bytes; ECDSA wants 48 bytes big-endian.
fn check_signature(report: &Report, vek: &X509Certificate<'_>) -> Result<(), Error> {
    if report.sig_algo != ECDSA_P384 {
        return Err(Error::Algorithm);
    }
    let mut signature = Vec::with_capacity(96);
    for number in [&report.signature.r, &report.signature.s] {
        let (low, high) = number.split_at(48);
        if high.iter().any(|byte| *byte != 0) {
            return Err(Error::Signature);
        }
        signature.extend(low.iter().rev());
    }
    let point = &vek.public_key().subject_public_key.data;
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point)
        .verify(&report.signed_bytes(), &signature)
        .map_err(|_| Error::Signature)
}

fn hwid(report: &Report, facts: &Vek) -> Result<Check, Error> {
    const ID: &str = "snp.chip-id";
    match facts.kind {
        KeyKind::Vlek => Ok(Check::not_checked(ID, "the chip: a VLEK is a cloud's key, and names no chip")),
        KeyKind::Vcek if hidden(report) => Ok(Check::not_checked(ID, "the chip: the report hides its id")),
        KeyKind::Vcek if facts.is_for(&report.chip_id) => {
            Ok(Check::held(ID, "the certificate is for the report's chip"))
        }
        KeyKind::Vcek => Err(Error::Hwid),
    }
}

fn hidden(report: &Report) -> bool {
    report.key_info & MASK_CHIP_KEY != 0 || report.chip_id.iter().all(|byte| *byte == 0)
}

fn root_name(root: &X509Certificate<'_>) -> String {
    common_name(root).map_or_else(|| "AMD's root".to_owned(), |name| format!("AMD's root {name}"))
}
