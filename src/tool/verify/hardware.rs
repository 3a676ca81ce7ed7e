//! Reports and quotes of hardware, judged.

use std::path::Path;

use super::Question;
use super::beside::Beside;
use super::fetch::{self, Source};
use super::verdict::{Verdict, class};
use super::wanted::usage;
use crate::appraise::check::{Check, State};
use crate::appraise::expect::{self, Expected, Word};
use crate::appraise::{snp, tdx};
use crate::evidence::snp::Report;
use crate::evidence::tdx::Quote;
use crate::evidence::twin;
use crate::finding::{Class, Finding, Who};
use crate::ports::files;

/// An SEV-SNP report with what stands beside it, and what `kds` has of it.
pub(super) fn snp(
    report: &Report,
    mut beside: Beside,
    kds: &Source,
    question: &Question<'_>,
) -> Result<Verdict, Finding> {
    whole_binding(question)?;
    let roots = snp_roots(question)?;
    let fetched = fetch::snp(report, &mut beside, kds, &roots, question.now)?;
    let line = report.generation().map_or(String::new(), |generation| format!(", {generation:?}"));
    let what = format!("an SEV-SNP report, version {}{line}", report.version);
    let fields = twin::snp(report, question.ids);
    let (word, finding, checks) = match beside.judge(report, &roots, question.now) {
        Ok(genuine) => {
            let expected = expect::snp(&genuine, &question.wanted.hardware);
            concluded(genuine.checks, expected, &question.wanted.hardware)
        }
        Err(error) => not_genuine("report", &error, snp_next(error)),
    };
    let checks = [fetched, checks].concat();
    Ok(Verdict { kind: "snp", what, word, finding, checks, fields })
}

/// AMD's roots, or those that were given in their place.
pub(super) fn snp_roots(question: &Question<'_>) -> Result<snp::Roots, Finding> {
    match question.roots {
        Some(pem) => snp::Roots::replaced(pem).map_err(|error| {
            usage(
                format!("the roots in --roots {error}"),
                "give --roots a PEM file with the root, and the authorities below it",
            )
        }),
        None => Ok(snp::Roots::amd()),
    }
}

/// A TDX quote with Intel's collateral, where there is some or `pccs` has it.
pub(super) fn tdx(
    quote: &Quote,
    raw: &[u8],
    (collateral, pccs): (Option<&Path>, &Source),
    question: &Question<'_>,
) -> Result<Verdict, Finding> {
    whole_binding(question)?;
    let root = match question.roots {
        Some(pem) => tdx::Root::replaced(pem).ok_or_else(|| {
            usage(
                "--roots is not PEM with one certificate",
                "give --roots a PEM file with the one root of the PCK certificates",
            )
        })?,
        None => tdx::Root::intel(),
    };
    let (collateral, fetched) = match collateral {
        Some(path) => (Some(files::collateral(path)?), Vec::new()),
        None => fetch::tdx(quote, pccs)?,
    };
    let body = if quote.body.v15.is_some() { "1.5" } else { "1.0" };
    let what = format!("a TDX quote, version {}, with a body of TDX {body}", quote.version);
    let mut fields = twin::tdx(quote, question.ids);
    let (word, finding, checks) = match tdx::genuine(quote, raw, collateral.as_ref(), &root, question.now) {
        Ok(genuine) => {
            if !genuine.advisories.is_empty() {
                let says = "Intel's advisories for this TCB".to_owned();
                fields.push(twin::Field { name: "advisories", value: genuine.advisories.join(", "), says });
            }
            let expected = expect::tdx(&genuine, &question.wanted.hardware);
            concluded(genuine.checks, expected, &question.wanted.hardware)
        }
        Err(error) => not_genuine("quote", &error, tdx_next(error)),
    };
    let checks = [fetched, checks].concat();
    Ok(Verdict { kind: "tdx", what, word, finding, checks, fields })
}

/// Hardware signs nonce and key together: one alone cannot be checked, and what cannot be checked is
/// never passed over.
fn whole_binding(question: &Question<'_>) -> Result<(), Finding> {
    match question.wanted.half_a_binding() {
        Some(flag) => Err(usage(
            format!("{flag} alone cannot be held to a hardware's report"),
            "give --nonce and --key together, or --report-data",
        )),
        None => Ok(()),
    }
}

type Concluded = (Word, Option<Finding>, Vec<Check>);

fn concluded(made: Vec<Check>, expected: Vec<Check>, wanted: &Expected) -> Concluded {
    let missing = wanted.missing();
    let word = expect::word(&expected, wanted.is_silent(), &missing);
    let finding = conclusion(word, &expected, &missing);
    (word, finding, [made, expected].concat())
}

/// What stands in the way of a better verdict on something genuine.
pub(super) fn conclusion(word: Word, checks: &[Check], missing: &[&str]) -> Option<Finding> {
    let failed: Vec<_> =
        checks.iter().filter(|check| check.state == State::Failed).map(|check| check.said.as_str()).collect();
    match word {
        Word::Appraised | Word::NotGenuine => None,
        Word::Unexpected => Some(
            Finding::new(Class::Unexpected, failed.join("; "))
                .why("genuine hardware runs other people's guests too")
                .next("correct the expectation on the command line or in --policy, or find out whose guest this is"),
        ),
        Word::NotAppraised => {
            let also = if failed.is_empty() { String::new() } else { format!("; besides: {}", failed.join("; ")) };
            Some(Finding::new(Class::NotAppraised, format!("nobody said {}{also}", missing.join(", nor "))))
        }
    }
}

fn not_genuine(what: &str, error: &dyn std::fmt::Display, next: &str) -> Concluded {
    let finding =
        Finding::new(class(Word::NotGenuine).unwrap_or(Class::EvidenceRejected), format!("the {what} {error}"))
            .why("only what its maker's key vouches for says anything about a machine")
            .next(next)
            .who(Who::AppSecurity);
    (Word::NotGenuine, Some(finding), vec![Check::failed("genuine", format!("the {what} {error}"))])
}

fn snp_next(error: snp::Error) -> &'static str {
    use snp::Error as E;
    match error {
        E::NoKey => {
            "give --certificates the VCEK, or --kds the server to fetch it from: AMD's has it for the report's chip id and REPORTED_TCB (kdsintf.amd.com, /vcek/v1/<line>/<chip id>?blSPL=…)"
        }
        E::TwoKeys | E::TooMany | E::Certificate(_) => {
            "give --certificates the one VCEK or VLEK of this report, and nothing that is not a certificate"
        }
        E::Chain => {
            "check that the certificate is for this line of processors; where other roots than AMD's are right, name them with --roots"
        }
        E::Expired | E::NotYet | E::AuthorityTime => {
            "take evidence anew in the guest; to judge it as of another time, give --at"
        }
        E::Tcb | E::Hwid | E::Kind | E::Line => {
            "give --certificates the VCEK for this report's chip id and REPORTED_TCB, or --kds the server to fetch it from; a VLEK only the cloud has"
        }
        E::Crl | E::CrlTime => {
            "fetch AMD's list for this line of processors anew (kdsintf.amd.com, /vcek/v1/<line>/crl), and give it with --crl"
        }
        E::Revoked => "stop trusting this platform: read AMD's bulletins for its line of processors",
        E::Extensions | E::KeyForm | E::Algorithm | E::Signature => {
            "take evidence anew: run `countersign evidence --format json` in the guest"
        }
    }
}

fn tdx_next(error: tdx::Error) -> &'static str {
    use tdx::Error as E;
    match error {
        E::NoPck => "give --collateral with `pck_certificate_chain` in it",
        E::Chain | E::Certificates => {
            "check who made the quote; where another root than Intel's is right, name it with --roots"
        }
        E::Time => "take evidence anew in the guest; to judge it as of another time, give --at",
        E::CollateralExpired | E::CollateralEarly | E::CollateralOther | E::CollateralInvalid => {
            "fetch the collateral for this quote anew, and give it with --collateral; to judge it as of another time, give --at"
        }
        E::Revoked | E::TcbUnknown => {
            "stop trusting this platform: update its firmware and TDX module, and read Intel's advisories"
        }
        E::Module => "stop trusting this platform: have its owner load the TDX module that Intel signed",
        E::Attributes => {
            "have the platform launch its TDs with SEPT_VE_DISABLE, and without migration, in the runtime's `configuration.toml`"
        }
        E::Form | E::Algorithm | E::Vendor | E::QeSignature | E::QeBinding | E::QuotingEnclave | E::Signature => {
            "take evidence anew: run `countersign evidence --format json` in the guest"
        }
    }
}
