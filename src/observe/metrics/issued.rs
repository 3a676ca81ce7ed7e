//! Of an issuer.

use super::{Counter, Page};
use crate::formats::frames::Refused;

/// What an issuer has given, and to whom it has not.
#[derive(Debug, Default)]
pub struct Issued {
    /// Certificates.
    pub given: Counter,
    refused: [Counter; Refused::ALL.len()],
}

impl Issued {
    /// Somebody was given none.
    pub fn refuse(&self, refused: Refused) {
        for (counter, each) in self.refused.iter().zip(Refused::ALL) {
            if each == refused {
                counter.add(1);
            }
        }
    }
}

pub(super) fn write(page: &mut Page, issued: &Issued) {
    let name = "countersign_certificates_issued_total";
    page.head(name, "counter", "Certificates that were given to workloads.");
    page.line(name, &[], issued.given.get());
    let name = "countersign_certificates_refused_total";
    page.head(name, "counter", "Requests for certificates that were refused, by reason.");
    for (counter, refused) in issued.refused.iter().zip(Refused::ALL) {
        page.line(name, &[("reason", refused.label())], counter.get());
    }
}
