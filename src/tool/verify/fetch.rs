//! What was not given beside evidence, fetched: only where `--kds` or `--pccs` names a server.
//!
//! A server learns which chip or platform is asked about. What it answers proves itself, so all that it
//! can do is to withhold; what it withholds is told as not checked, and why.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use super::beside::{Beside, has_key};
use super::usage;
use crate::appraise::check::Check;
use crate::appraise::{snp, tdx};
use crate::clock::Clock;
use crate::config::KbsUrl;
use crate::evidence::quote_signature::QuoteSignature;
use crate::evidence::snp::{Generation, Report};
use crate::evidence::tdx::Quote;
use crate::evidence::{kds, pcs};
use crate::finding::Finding;
use crate::kbs::endorsements::{Missing, Server};
use crate::ports::files::{MAX_CERTIFICATES, read};

/// All that is fetched for one input: a person is waiting, and AMD's server takes seconds when it is busy.
const DEADLINE: Duration = Duration::from_secs(30);

/// Most bytes of a certificate that a server answers, 16 KiB: as much as the judge takes.
const MAX_CERTIFICATE: usize = snp::MAX_CERTIFICATE;

/// Most bytes of each other answer, 256 KiB: Intel's largest has 12 KiB. A bound of ours.
const MAX_ANSWER: usize = 256 * 1024;

/// Where Debian, Ubuntu and Alpine have the CAs of the web, in one file.
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The server that a flag names, if it does. The inner error is told as not checked.
pub(super) struct Source {
    url: Option<KbsUrl>,
    server: Result<Server, Missing>,
}

impl Source {
    /// `flag` is `--kds` or `--pccs`.
    pub(super) fn new(flag: &str, url: Option<&str>, ca: Option<&Path>, clock: &Clock) -> Result<Self, Finding> {
        let Some(text) = url else { return Ok(Self { url: None, server: Err(Missing::NoCa) }) };
        let url = KbsUrl::parse(text).map_err(|why| {
            usage(format!("{flag} {why}"), format!("write {flag} as https://HOST or http://HOST:PORT"))
        })?;
        let pem = match ca {
            Some(path) => Some(read(path, MAX_CERTIFICATES)?),
            None if url.tls => read(Path::new(BUNDLE), MAX_CERTIFICATES).ok(),
            None => None,
        };
        let pem = pem.map(String::from_utf8).transpose();
        let pem = pem.map_err(|_| usage("--ca is no PEM", "give --ca a PEM file with the CA of the server"))?;
        let server = Server::new(url.clone(), pem.as_deref(), clock);
        Ok(Self { url: Some(url), server })
    }

    async fn get(&self, path: &str, issuers: &[&str], cap: usize, until: Instant) -> Result<pcs::Answer, String> {
        let server = self.server.as_ref().map_err(|missing| format!("the server {missing}"))?;
        server.get(path, issuers, cap, until).await.map_err(|missing| format!("the server {missing}"))
    }
}

/// The VCEK, where there is none that fits, and AMD's list, unless it is ours already: one that came along is
/// whichever somebody chose. Says of each what came of it.
pub(super) fn snp(
    report: &Report,
    beside: &mut Beside,
    source: &Source,
    roots: &snp::Roots,
    now: u64,
) -> Result<Vec<Check>, Finding> {
    let Some(url) = &source.url else { return Ok(Vec::new()) };
    super::in_runtime(async {
        let (until, mut told) = (Instant::now() + DEADLINE, Vec::new());
        let mut lines: Vec<Generation> = report.generation().into_iter().collect();
        if lines.is_empty() {
            // A report of version 2 does not name its line: those lines that have such firmware.
            lines = vec![Generation::Milan, Generation::Genoa];
        }
        if !beside.fits(report, roots, now) {
            told.push(match vcek(source, report, &mut lines, until).await {
                Ok(der) => {
                    beside.add(vec![der]);
                    Check::held("fetch.vcek", format!("fetched from {url}"))
                }
                Err(why) => Check::not_checked("fetch.vcek", why),
            });
        }
        if !beside.has_our_list() {
            let known = beside.key(roots, now).and_then(|key| key.generation);
            let line = known.or(lines.first().copied()).unwrap_or(Generation::Milan);
            let of_clouds = snp::key_kind_of(report) == Some(snp::KeyKind::Vlek);
            told.push(match source.get(&kds::crl(line, of_clouds), &[], MAX_ANSWER, until).await {
                Ok(answer) if CertificateRevocationList::from_der(&answer.body).is_ok() => {
                    beside.set_list(answer.body, format!("was fetched from {url}"));
                    Check::held("fetch.revocation", format!("AMD's list, fetched from {url}"))
                }
                Ok(_) => Check::not_checked("fetch.revocation", NO_LIST),
                Err(why) => Check::not_checked("fetch.revocation", why),
            });
        }
        told
    })
}

const NO_LIST: &str =
    "the server answers with something that is no list: check that the URL is AMD's, or a cache of it";

/// The chip's certificate at the reported TCB. `lines` is what is left of them.
async fn vcek(
    source: &Source,
    report: &Report,
    lines: &mut Vec<Generation>,
    until: Instant,
) -> Result<Vec<u8>, String> {
    if snp::key_kind_of(report) == Some(snp::KeyKind::Vlek) {
        return Err("the report is signed by a cloud's key (VLEK), whose certificate only the cloud has".to_owned());
    }
    let chip = kds::chip(report).ok_or("the report hides its chip, so there is no certificate to ask for")?;
    let mut last = String::new();
    for line in lines.clone() {
        match source.get(&kds::vcek(line, &chip, report.reported_tcb), &[], MAX_CERTIFICATE, until).await {
            Ok(answer) if has_key(std::slice::from_ref(&answer.body)) => {
                *lines = vec![line];
                return Ok(answer.body);
            }
            Ok(_) => "the server answers with something that is no VCEK: check that the URL is AMD's, or a cache of it"
                .clone_into(&mut last),
            Err(why) => last = why,
        }
    }
    Err(last)
}

/// Intel's collateral for a quote.
pub(super) fn tdx(quote: &Quote, source: &Source) -> Result<(Option<tdx::Collateral>, Vec<Check>), Finding> {
    let Some(url) = &source.url else { return Ok((None, Vec::new())) };
    super::in_runtime(async {
        match collateral(quote, source).await {
            Ok(found) => (Some(found), vec![Check::held("fetch.collateral", format!("fetched from {url}"))]),
            Err(why) => (None, vec![Check::not_checked("fetch.collateral", why)]),
        }
    })
}

async fn collateral(quote: &Quote, source: &Source) -> Result<tdx::Collateral, String> {
    let until = Instant::now() + DEADLINE;
    let parts = QuoteSignature::parse(&quote.signature).ok_or("the quote's signature has other parts than Intel's")?;
    let chain = parts.pck_chain.ok_or("the quote names its PCK certificate only: give --collateral with it")?;
    let platform =
        pcs::Platform::of(chain).ok_or("the quote's PCK certificate does not say which platform it is for")?;
    let mut answers: [pcs::Answer; 4] = Default::default();
    for (answer, part) in answers.iter_mut().zip(platform.parts()) {
        *answer = source
            .get(&part.path, part.issuers, MAX_ANSWER, until)
            .await
            .map_err(|why| format!("{}: {why}", part.path.split('?').next().unwrap_or_default()))?;
    }
    let found = pcs::collateral(&answers).map_err(|part| {
        format!("the server answers {part} with something else: check that the URL is a PCCS of version 4")
    })?;
    tdx::Collateral::parse(found.to_string().as_bytes())
        .ok_or_else(|| "the server's answers are no collateral".to_owned())
}
