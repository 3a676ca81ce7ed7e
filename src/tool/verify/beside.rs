//! What stands beside a report, and whose choice it is. What came along is chosen by whoever shows the
//! report; what a flag names, a file or a server, by whoever asks.

use x509_parser::prelude::X509Certificate;

use crate::appraise::snp;
use crate::evidence::snp::Report;
use crate::formats::x509;

/// The id of the check that a revocation list makes.
const CRL: &str = "snp.crl";

/// Certificates and a revocation list, DER.
pub(super) struct Beside {
    certificates: Vec<Vec<u8>>,
    list: Option<List>,
}

/// A revocation list, DER.
enum List {
    /// It came along.
    Shown(Vec<u8>),
    /// A flag names it, or where it is from, and this is how that is told.
    Ours(Vec<u8>, String),
}

impl Beside {
    /// What came along with the report.
    pub(super) fn shown(certificates: Vec<Vec<u8>>, list: Option<Vec<u8>>) -> Self {
        Self { certificates, list: list.map(List::Shown) }
    }

    /// Adds certificates of ours. A key among them counts in place of those that came along, and of what
    /// cannot be read. Authorities stay: they count as far as a trusted root signed them.
    pub(super) fn add(&mut self, ours: Vec<Vec<u8>>) {
        if has_key(&ours) {
            self.certificates.retain(|der| x509::read(der).is_some_and(|certificate| !is_key(&certificate)));
        }
        self.certificates.extend(ours);
    }

    /// Whether there is the certificate of a key that can have signed the report, which a root vouches for
    /// at `now`.
    pub(super) fn fits(&self, report: &Report, roots: &snp::Roots, now: u64) -> bool {
        self.key(roots, now).is_some_and(|key| key.is_for(report).is_ok())
    }

    /// Puts a list of ours in place of one that came along. `whose` continues "the list …".
    pub(super) fn set_list(&mut self, list: Vec<u8>, whose: impl Into<String>) {
        self.list = Some(List::Ours(list, whose.into()));
    }

    /// Whether there is a list of ours.
    pub(super) fn has_our_list(&self) -> bool {
        matches!(self.list, Some(List::Ours(..)))
    }

    /// The certificate of the key, where a root vouches for it at `now`.
    pub(super) fn key(&self, roots: &snp::Roots, now: u64) -> Option<snp::KeyCertificate> {
        snp::key_certificate(&self.certificates, roots, now).ok()
    }

    /// Judges the report by it at `now`, seconds since 1970. Where the signature does not hold since the
    /// certificate is another chip's or another TCB's, that is the reason.
    pub(super) fn judge(&self, report: &Report, roots: &snp::Roots, now: u64) -> Result<snp::Genuine, snp::Error> {
        let with = |crl| snp::genuine(report, &snp::Beside { certificates: &self.certificates, crl }, roots, now);
        let judged = match &self.list {
            None => with(None),
            Some(List::Ours(list, whose)) => {
                with(Some(list)).map(|genuine| told(genuine, |said| format!("{said}; the list {whose}")))
            }
            // An old list can be chosen because it leaves a name out, never to put one in: it only accuses.
            Some(List::Shown(list)) => {
                let why = match with(Some(list)) {
                    Err(snp::Error::Revoked) => return Err(snp::Error::Revoked),
                    Err(snp::Error::Crl | snp::Error::CrlTime) => "is not the root's, or not of this time",
                    _ => "accuses nobody here, and whoever shows one can choose an old one",
                };
                let said = format!("revocation: the list that came with the report {why}; give --crl, or --kds");
                with(None).map(|genuine| told(genuine, |_| said))
            }
        };
        // A signature that does not hold is most often another chip's key, or the one from before an update.
        judged.map_err(|error| match (error, self.key(roots, now)) {
            (snp::Error::Signature, Some(key)) => key.is_for(report).err().unwrap_or(error),
            _ => error,
        })
    }
}

/// Whether a VCEK or VLEK is among these.
pub(super) fn has_key(ders: &[Vec<u8>]) -> bool {
    ders.iter().any(|der| x509::read(der).is_some_and(|certificate| is_key(&certificate)))
}

fn is_key(certificate: &X509Certificate<'_>) -> bool {
    snp::KeyKind::of(certificate).is_some()
}

/// The same with other words for what became of revocation.
fn told(mut genuine: snp::Genuine, words: impl FnOnce(&str) -> String) -> snp::Genuine {
    if let Some(check) = genuine.checks.iter_mut().find(|check| check.id == CRL) {
        check.said = words(&check.said);
    }
    genuine
}
