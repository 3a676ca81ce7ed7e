//! `verify`: what somebody shows (evidence, a token, a certificate, a receipt, a live sidecar), judged. In
//! both binaries.
//!
//! Exit 0 takes an explicit expectation. That a machine is genuine says nothing about whose it is.

mod beside;
mod certificate;
mod fetch;
mod hardware;
pub(super) mod peer;
mod proof;
mod receipt;
pub(super) mod server;
mod time;
mod token;
mod verdict;
pub(super) mod wanted;

use std::path::Path;

use super::{Output, print};
use crate::appraise::Makers;
use crate::cli;
use crate::clock::Clock;
use crate::evidence::shown::{self, Other, Shown};
use crate::evidence::twin::Ids;
use crate::finding::{Class, Finding, Who};
use crate::ports::Ports;
use crate::ports::files::{self, MAX_CERTIFICATES, capped, read};
use beside::Beside;
use verdict::{Basis, Verdict};
use wanted::{Wanted, usage};

/// What `--certificates`, `--crl` and `--kds` belong beside.
const REPORT: &str = "an SEV-SNP report";

/// What `--collateral` and `--pccs` belong beside.
const QUOTE: &str = "a TDX quote";

/// What every judge gets.
struct Question<'a> {
    wanted: &'a Wanted,
    clock: &'a Clock,
    makers: &'a Makers,
    /// PEM, where somebody gave other roots than the makers'.
    roots: Option<&'a [u8]>,
    /// Seconds since 1970.
    now: u64,
    ids: Ids,
}

/// Runs `verify …`; returns the exit code.
pub fn run(ports: &Ports, arguments: &cli::Verify) -> u8 {
    print(ports, verify(ports, arguments))
}

fn verify(ports: &Ports, arguments: &cli::Verify) -> Result<Output, Finding> {
    let wanted = Wanted::read(&arguments.expected, arguments.policy.as_deref())?;
    let given = arguments.at.as_deref().map(time::parse).transpose()?;
    let now = given.unwrap_or_else(|| ports.clock.now());
    let roots = wanted.roots.as_deref().map(|path| read(path, MAX_CERTIFICATES)).transpose()?;
    let ids = if arguments.show_ids { Ids::Whole } else { Ids::Short };
    let (clock, makers) = (&ports.clock, &ports.makers);
    let question = Question { wanted: &wanted, clock, makers, roots: roots.as_deref(), now, ids };
    let verdict = if let Some(url) = arguments.shown.strip_prefix("https://") {
        if given.is_some() {
            return Err(usage(
                "--at stands beside a URL",
                "remove --at: what a live server shows is judged by the time it is",
            ));
        }
        refuse_idle(arguments, "a live sidecar")?;
        match url.strip_suffix(receipt::PATH) {
            Some(place) => receipt::live(place, &question)?,
            None => server::judge(url, &question)?,
        }
    } else {
        judge(ports, arguments, &question)?
    };
    // A receipt that was kept comes without a chain that they could be held to.
    let kept = verdict.kind == "receipt" && !arguments.shown.starts_with("https://");
    let basis = Basis { at: time::text(now), at_given: given.is_some(), roots_given: roots.is_some() && !kept };
    let out = if arguments.json { verdict.json(&basis) } else { verdict.text(&basis) };
    Ok(Output { out: out.into_bytes(), err: Vec::new(), code: verdict.code() })
}

fn judge(ports: &Ports, arguments: &cli::Verify, question: &Question<'_>) -> Result<Verdict, Finding> {
    let source =
        |flag, url: &Option<String>| fetch::Source::new(flag, url.as_deref(), arguments.ca.as_deref(), &ports.clock);
    let (kds, pccs) = (source("--kds", &arguments.kds)?, source("--pccs", &arguments.pccs)?);
    let bytes = if arguments.shown == "-" {
        capped(std::io::stdin().lock(), "standard input", shown::MAX_BYTES)?
    } else {
        read(Path::new(&arguments.shown), shown::MAX_BYTES)?
    };
    let found = shown::detect(&bytes).map_err(|error| unknown(&error))?;
    let signed = matches!(found, Shown::Receipt(_));
    if !signed && !matches!(found, Shown::Certificates(_)) && question.wanted.identity.is_some() {
        return Err(usage(
            "--expect names an identity, and what is shown has none",
            "remove --expect: it is for a certificate, a receipt or the URL of a sidecar",
        ));
    }
    if !signed && question.wanted.proof.is_some() {
        return Err(usage(
            "what is shown cannot prove itself on a connection, and --token-roots and --pins ask for that",
            "remove --token-roots, --pins, --max-age, --level, --cert and --cert-key: they are for the URL of a sidecar, and for a receipt",
        ));
    }
    match &found {
        Shown::Snp(_) => refuse_idle(arguments, REPORT)?,
        Shown::Tdx { .. } => refuse_idle(arguments, QUOTE)?,
        Shown::Token(_) => refuse_idle(arguments, "an attestation token")?,
        Shown::Certificates(_) => refuse_idle(arguments, "a certificate")?,
        Shown::Receipt(_) => refuse_idle(arguments, "a signed receipt")?,
        Shown::Other(_) => {}
    }
    match found {
        Shown::Snp(evidence) => {
            let mut beside = Beside::shown(evidence.certificates, evidence.crl);
            let given: Result<Vec<_>, _> =
                arguments.certificates.iter().map(|path| files::certificates(path)).collect();
            beside.add(given?.concat());
            if let Some(path) = &arguments.crl {
                beside.set_list(certificate::read_crl(path)?, "is that of --crl");
            }
            hardware::snp(&evidence.report, beside, &kds, question)
        }
        Shown::Tdx { quote, raw } => hardware::tdx(&quote, &raw, (arguments.collateral.as_deref(), &pccs), question),
        Shown::Token(text) => token::judge(&text, question),
        Shown::Certificates(ders) => certificate::judge(&ders, question),
        Shown::Receipt(signed) => receipt::shown(&signed, question),
        Shown::Other(other) => Err(not_judged(other)),
    }
}

/// A flag with what belongs beside another kind of evidence would be passed over unread. Whoever gave it
/// believes that it was looked at.
fn refuse_idle(arguments: &cli::Verify, shown: &str) -> Result<(), Finding> {
    let given = [
        ("--certificates", REPORT, !arguments.certificates.is_empty()),
        ("--crl", REPORT, arguments.crl.is_some()),
        ("--kds", REPORT, arguments.kds.is_some()),
        ("--collateral", QUOTE, arguments.collateral.is_some()),
        ("--pccs", QUOTE, arguments.pccs.is_some()),
    ];
    if let Some((flag, beside, _)) = given.iter().find(|(_, beside, given)| *given && *beside != shown) {
        return Err(usage(
            format!("{flag} belongs beside {beside}, and what is shown is {shown}"),
            format!("remove {flag}: nothing of it would be looked at"),
        ));
    }
    if arguments.ca.is_some() && arguments.kds.is_none() && arguments.pccs.is_none() {
        return Err(usage("--ca stands without --kds and --pccs", "remove --ca, or name the server that it is for"));
    }
    Ok(())
}

/// Runs what waits for the network.
fn in_runtime<T>(work: impl Future<Output = T>) -> Result<T, Finding> {
    Ok(runtime()?.block_on(work))
}

/// One thread is enough for one person.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Finding> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Finding::new(Class::Bug, format!("the asynchronous runtime did not start: {error}"))
            .next("raise the limits on processes and open files")
    })
}

fn unknown(error: &shown::Error) -> Finding {
    Finding::new(Class::Unknown, format!("the input {}", crate::finding::chain(error)))
        .why("what is not understood is not judged")
        .next("give `countersign verify` a report, a quote, a token, certificates, a signed receipt, or Trustee's JSON of evidence")
}

fn not_judged(other: Other) -> Finding {
    let finding = Finding::new(Class::Unknown, format!("the input is {}", other.label()));
    match other {
        Other::Sample => finding
            .why("no hardware stands behind it")
            .next("run the pod with a confidential runtimeClass, and take the evidence there"),
        Other::AzureVtpm => finding
            .why("this build does not judge it; Trustee does")
            .next("give `countersign verify` the attestation token that Trustee makes of it, with --roots")
            .who(Who::AppSecurity),
        Other::Tpm | Other::Cca | Other::Sgx => finding
            .why("this build does not judge it; Trustee does")
            .next("give `countersign verify` the attestation token that Trustee makes of it, with --roots: it tells the verdict, and what must run there only Trustee's policy can hold it to")
            .who(Who::AppSecurity),
        Other::TdReport => finding
            .why("it carries a code that only the processor which made it can check")
            .next("take a quote in its place: run `countersign evidence --format json` in the guest"),
        Other::Collateral => finding
            .why("it speaks of a platform, not of a guest")
            .next("give `countersign verify` the quote, with this file as --collateral"),
        Other::Crl => finding
            .why("it speaks of a maker's authorities, not of a guest")
            .next("give `countersign verify` the report, with this file as --crl"),
        Other::Receipt => finding
            .why("without a signature any container of the pod could have written it")
            .next("ask the sidecar for the signed one: `countersign verify https://HOST:PORT/receipt`"),
        Other::Claims => finding
            .why("without its signature anybody could have written it")
            .next("give `countersign verify` the token itself, as the KBS or /aa/token answered it"),
    }
}
