//! Whether the evidence that this guest gives is genuine, judged here: by the roots of AMD and Intel
//! that come with the build, and by what the guest itself has of the maker's certificates.
//!
//! The KBS's verifier decides; this says in words what it only writes into its own log. Nothing is
//! fetched: what is not at hand is told as not checked, never as passed.

use crate::appraise::check::{Check as Made, State};
use crate::appraise::expect::tcb_text;
use crate::appraise::tdx::TcbStatus;
use crate::appraise::{snp, tdx};
use crate::check::{Check, Outcome};
use crate::evidence::shown::Shown;
use crate::evidence::tdx::Quote;
use crate::evidence::trustee::SnpEvidence;
use crate::evidence::{cert_table, kds, snp as reports};
use crate::finding::{Class, Finding, Who};
use crate::ports::Makers;
use crate::tsm::{KernelReport, Provider};

/// Why nothing is said of evidence of another kind.
pub(super) const UNKNOWN: &str = "evidence of this TEE is passed on unparsed";

/// By whom it is.
pub const GENUINE: Check = Check::new(
    "evidence.genuine",
    "do its signatures lead to a root of AMD's or Intel's",
    "no verifier believes evidence that the maker of the hardware does not vouch for",
)
.needs(&["evidence.report"]);

/// What the maker says of the platform.
pub const TCB: Check = Check::new(
    "evidence.tcb",
    "does the maker vouch for this platform's TCB",
    "firmware of another TCB has other keys, and old firmware has holes that are known",
)
.needs(&["evidence.genuine"]);

/// What a person gives beside the guest's own.
#[derive(Debug, Default)]
pub struct Beside {
    /// DER: the VCEK or VLEK, and authorities. Where there are any, those of the host are not looked at.
    pub certificates: Vec<Vec<u8>>,
    /// Intel's, for a quote.
    pub collateral: Option<tdx::Collateral>,
}

/// The answers to both questions.
#[derive(Debug)]
pub struct Judged {
    /// To [`GENUINE`].
    pub genuine: Outcome,
    /// To [`TCB`].
    pub tcb: Outcome,
}

/// The kernel's report with the certificates that the host handed to the guest.
pub fn of_kernel(report: &KernelReport) -> Option<Shown> {
    match report.provider() {
        Provider::Snp => {
            let mut evidence = SnpEvidence {
                report: reports::Report::parse(report.outblob()).ok()?,
                certificates: Vec::new(),
                crl: None,
            };
            // A table that does not parse is as good as none: certificates prove themselves.
            for entry in cert_table::parse(report.auxblob().unwrap_or_default()).unwrap_or_default() {
                match entry.cert_type {
                    "CRL" => evidence.crl = Some(entry.data),
                    _ => evidence.certificates.push(entry.data),
                }
            }
            Some(Shown::Snp(Box::new(evidence)))
        }
        Provider::Tdx => {
            let raw = report.outblob().to_vec();
            Some(Shown::Tdx { quote: Box::new(Quote::parse(&raw).ok()?), raw })
        }
        Provider::Cca => None,
    }
}

/// Judges it at `now`, seconds since 1970.
pub fn judge(shown: Option<&Shown>, beside: &Beside, makers: &Makers, now: u64) -> Judged {
    match shown {
        Some(Shown::Snp(evidence)) => snp(evidence, beside, &makers.amd, now),
        Some(Shown::Tdx { quote, raw }) => tdx(quote, raw, beside.collateral.as_ref(), &makers.intel, now),
        _ => Judged { genuine: Outcome::Skip(UNKNOWN.to_owned()), tcb: Outcome::Skip(UNKNOWN.to_owned()) },
    }
}

fn snp(evidence: &SnpEvidence, beside: &Beside, roots: &snp::Roots, now: u64) -> Judged {
    use snp::Error as E;
    let (report, given) = (&evidence.report, &beside.certificates);
    let certificates = if given.is_empty() { &evidence.certificates } else { given };
    match snp::genuine(report, &snp::Beside { certificates, crl: evidence.crl.as_deref() }, roots, now) {
        Ok(genuine) => {
            let (of_tcb, rest): (Vec<_>, Vec<_>) =
                genuine.checks.iter().partition(|made| matches!(made.id, "snp.tcb" | "snp.crl"));
            let tcb = format!("reported TCB {}; {}", tcb_text(report.reported_tcb), told(&of_tcb));
            Judged { genuine: Outcome::Pass(told(&rest)), tcb: Outcome::Pass(tcb) }
        }
        Err(E::NoKey) => Judged {
            genuine: Outcome::Warn(
                Finding::new(
                    Class::EvidenceRejected,
                    if given.is_empty() {
                        "not checked: the host hands the guest no certificate of the key"
                    } else {
                        "not checked: --certificates has no VCEK and no VLEK in it"
                    },
                )
                .why("without the certificate nobody can tell whose signature it is; Trustee fetches it from AMD")
                .next(get_certificate(report))
                .who(Who::Platform),
            ),
            tcb: Outcome::Skip("no certificate of the key: see evidence.genuine".to_owned()),
        },
        Err(error @ (E::Tcb | E::Crl | E::CrlTime | E::Revoked)) => {
            let next = match error {
                E::Tcb => replace_certificate(report),
                E::Revoked => "move the pod to another platform, and read AMD's bulletins for this line".to_owned(),
                _ => {
                    "replace the revocation list in the host's table of certificates with AMD's present one".to_owned()
                }
            };
            Judged {
                genuine: Outcome::Pass("the report's signature holds, under a trusted root of AMD's".to_owned()),
                tcb: failed("report", &error, next),
            }
        }
        Err(error) => {
            // A key is derived for one TCB: after an update of the firmware the old certificate is for
            // another key, and all that shows is a signature that does not hold.
            let stale = snp::key_certificate(certificates, roots, now).ok();
            let stale = stale.filter(|key| error == E::Signature && key.tcb != report.reported_tcb);
            let genuine = match stale {
                Some(key) => failed(
                    "report",
                    &format!(
                        "is for another key than the certificate: that is for TCB {}, the report says {}",
                        tcb_text(key.tcb),
                        tcb_text(report.reported_tcb)
                    ),
                    replace_certificate(report),
                ),
                None => failed("report", &error, snp_next(error, report)),
            };
            Judged { genuine, tcb: Outcome::Skip("evidence.genuine failed".to_owned()) }
        }
    }
}

fn tdx(quote: &Quote, raw: &[u8], collateral: Option<&tdx::Collateral>, root: &tdx::Root, now: u64) -> Judged {
    match tdx::genuine(quote, raw, collateral, root, now) {
        Ok(genuine) => {
            let (of_tcb, rest): (Vec<_>, Vec<_>) =
                genuine.checks.iter().partition(|made| matches!(made.id, "tdx.tcb" | "tdx.crl"));
            let tcb = match genuine.tcb {
                None => Outcome::Skip("not checked: TCB and revocation; --collateral gives what Intel says".to_owned()),
                Some(TcbStatus::UpToDate) => Outcome::Pass(told(&of_tcb)),
                Some(_) => Outcome::Warn(
                    Finding::new(Class::EvidenceRejected, with_advisories(told(&of_tcb), &genuine.advisories))
                        .why("a verifier may refuse this status, and each advisory is a hole that is known")
                        .next("upgrade the platform's microcode and TDX module, or allow the status in the attestation policy")
                        .who(Who::Platform),
                ),
            };
            Judged { genuine: Outcome::Pass(told(&rest)), tcb }
        }
        Err(tdx::Error::NoPck) => Judged {
            genuine: Outcome::Warn(
                Finding::new(
                    Class::EvidenceRejected,
                    "not checked: the quote names its PCK certificate, and has it not",
                )
                .why("without the certificate nobody can tell whose signature it is; Trustee asks a PCCS for it")
                .next("give --collateral with the member `pck_certificate_chain`")
                .who(Who::Platform),
            ),
            tcb: Outcome::Skip("no PCK certificate: see evidence.genuine".to_owned()),
        },
        Err(error) if error.is_of_collateral() => {
            let tcb = match error {
                tdx::Error::Revoked | tdx::Error::TcbUnknown => {
                    let next = "move the pod to another platform, or upgrade this one's microcode and TDX module";
                    failed("quote", &error, next.to_owned())
                }
                _ => Outcome::Fail(
                    Finding::new(Class::EvidenceRejected, format!("the quote {error}"))
                        .why("only what Intel signed for this platform, and for this time, says what its TCB is worth")
                        .next("replace the file in --collateral with what Intel or the PCCS says of this platform now")
                        .who(Who::Platform),
                ),
            };
            Judged {
                genuine: Outcome::Pass("the quote's signatures hold, under a trusted root of Intel's".to_owned()),
                tcb,
            }
        }
        Err(error) => Judged {
            genuine: failed("quote", &error, tdx_next(error).to_owned()),
            tcb: Outcome::Skip("evidence.genuine failed".to_owned()),
        },
    }
}

/// What was checked, and what was not, in one line.
fn told(made: &[&Made]) -> String {
    let said: Vec<_> = made
        .iter()
        .map(|made| {
            let not = if made.state == State::Held { "" } else { "not checked: " };
            format!("{not}{}", made.said)
        })
        .collect();
    said.join("; ")
}

fn with_advisories(said: String, advisories: &[String]) -> String {
    if advisories.is_empty() { said } else { format!("{said}; advisories: {}", advisories.join(", ")) }
}

fn failed(what: &str, error: &dyn std::fmt::Display, next: String) -> Outcome {
    Outcome::Fail(
        Finding::new(Class::EvidenceRejected, format!("the {what} {error}"))
            .why("a verifier that knows the maker's roots refuses it, whatever its policy says")
            .next(next)
            .who(Who::Platform),
    )
}

/// Where AMD has the certificate of a report's key. The chip's id is not shown; a report of version 2
/// does not say its line.
fn place(report: &reports::Report) -> String {
    let line = report.generation();
    let path = kds::vcek(line.unwrap_or(reports::Generation::Milan), kds::SOME_CHIP, report.reported_tcb);
    let path = if line.is_some() { path } else { path.replacen("/Milan/", "/<line>/", 1) };
    format!("{}{path}", kds::SERVER)
}

fn get_certificate(report: &reports::Report) -> String {
    match snp::key_kind_of(report) {
        Some(snp::KeyKind::Vlek) => {
            "give the cloud's certificate (VLEK) with --certificates, or have the host hand it to its guests".to_owned()
        }
        _ => format!(
            "give the VCEK with --certificates: {} has it (`countersign evidence --show-ids` tells the chip id)",
            place(report)
        ),
    }
}

fn replace_certificate(report: &reports::Report) -> String {
    format!("replace the certificate that the host hands to its guests, or give --certificates: {}", place(report))
}

fn snp_next(error: snp::Error, report: &reports::Report) -> String {
    use snp::Error as E;
    match error {
        E::Hwid | E::Kind | E::Line | E::TwoKeys | E::TooMany | E::Certificate(_) | E::Extensions | E::KeyForm => {
            replace_certificate(report)
        }
        E::Expired | E::NotYet | E::AuthorityTime => {
            "check the guest's clock (clock.floor), and have the cloud renew its certificate".to_owned()
        }
        _ => "check what gives reports in this guest: it is no SEV-SNP firmware of AMD's, or the report was changed \
              on its way (`countersign evidence --format json` prints it)"
            .to_owned(),
    }
}

fn tdx_next(error: tdx::Error) -> &'static str {
    match error {
        tdx::Error::Time => "check the guest's clock (clock.floor), and register the platform anew with Intel",
        tdx::Error::Module => {
            "move the pod to another platform, or have this one load the TDX module that Intel signed"
        }
        tdx::Error::Attributes => {
            "launch the TD with SEPT_VE_DISABLE, and without migration: the `tdx` object of the VM in the runtime's \
             `configuration.toml`"
        }
        _ => {
            "check the host's quoting service (`qgsd`): the quote is by no quoting enclave of Intel's, or it was changed \
             on its way (`countersign evidence --format json` prints it)"
        }
    }
}
